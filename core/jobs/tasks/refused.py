"""Fields of OpenAI's and vLLM's requests that ask for what the command at hand does not do: refused by name, never passed over.
So are objects in which other tools (clients, Ray Data, Ollama) expect parameters.

Every field of these APIs is one of three: honoured (see fields.py and the tasks' own fields), without a say in the answer
(`HARMLESS`, which travel through like any column), or here. A column of a file may have such a name by chance, so values that ask
for nothing are no matter, nor is what only a template or `--prompt-field` was to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import RecordError
from .fields import SAMPLING

#: Fields that change no answer: whose request it is, how it is billed, stored, cached or named.
HARMLESS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
    }
)

_MEDIA = "this model, or this command, reads no such media (infer help media)"
_ADAPTER = "a record names its adapter in lora or prompt_adapter, and --lora or --prompt-adapter says where that is"
_LINE = "its fields belong on the line itself"
_ENCODER = "it is for models that have an encoder"
_REASONING = "what a chat template knows of reasoning goes into chat_template_kwargs"

#: Field -> why it is refused.
_NOWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "audio",
            "audio_url",
            "audios",
            "image_embeds",
            "image_url",
            "image_urls",
            "images",
            "input_audio",
            "media_io_kwargs",
            "mm_processor_kwargs",
            "modalities",
            "multi_modal_data",
            "multi_modal_placeholders",
            "multi_modal_uuids",
            "video_url",
            "videos",
        ),
        _MEDIA,
    ),
    **dict.fromkeys(("lora_int_id", "lora_path", "lora_request", "prompt_adapter_id", "prompt_adapter_request"), _ADAPTER),
    **dict.fromkeys(("enable_thinking", "include_reasoning", "reasoning", "thinking"), _REASONING),
    **dict.fromkeys(("decoder_prompt", "encoder_prompt", "source_language", "target_language"), _ENCODER),
    **dict.fromkeys(("extra_body", "options", "parameters", "sampling_params"), _LINE),
    "cache_salt": "the prefix cache is one for the whole job",
    "data_parallel_rank": "",
    "embed_dtype": "--embedding-dtype says it for all records",
    "endianness": "",
    "extra_args": "",
    "kv_transfer_params": "",
    "prediction": "",
    "prompt_embeds": "infer generate and infer beam read it, without --prompt-field and --template",
    "return_tokens_as_token_ids": "return_token_ids gives the ids",
    "routed_experts_prompt_start": "",
    "token_type_ids": "",
    "verbosity": "",
    "vllm_xargs": "",
    "web_search_options": "",
}
#: Field -> the command that knows it.
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "add_generation_prompt",
            "chat_template_kwargs",
            "continue_final_message",
            "parallel_tool_calls",
            "reasoning_effort",
            "tool_choice",
            "tools",
        ),
        "chat",
    ),
    "prompt_adapter": "generate",
    **dict.fromkeys(("beam_width", "early_stopping", "length_penalty", "num_beams", "num_return", "num_return_sequences"), "beam"),
}
#: Values that ask for nothing, beside null, false and what is empty.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "beam_width": (1,),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "include_reasoning": (True,),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "num_beams": (1,),
    "num_return": (1,),
    "num_return_sequences": (1,),
    "parallel_tool_calls": (True,),
    "tool_choice": ("auto", "none"),
}
#: Names that a column may well have, and whether they hold what the API puts there.
_IS_THE_APIS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("prediction", "reasoning", "thinking"), lambda value: isinstance(value, dict) and bool(value)),
    **dict.fromkeys(("options", "parameters"), lambda value: isinstance(value, dict) and not SAMPLING.isdisjoint(value)),
    "tools": lambda value: isinstance(value, list) and any(isinstance(tool, dict) for tool in value),
    "verbosity": lambda value: value in ("low", "high"),
}
#: Fields of which false is what is asked for.
_FALSE_ASKS = frozenset({"add_generation_prompt", "enable_thinking", "include_reasoning", "parallel_tool_calls"})
#: Names that a column may have which a template reads.
_WORDS = frozenset({"audio", "audios", "images", "modalities", "tools", "verbosity", "videos"})


def refuse(others: Mapping[str, Any], command: str, *, columns: bool) -> None:
    """Raises RecordError (unsupported) naming a field that asks for what `command` does not do.

    Args:
        others: the fields that the command does not know.
        columns: a template or a named column makes the prompt, so fields are columns.
    """
    for name, value in others.items():
        if (name not in _NOWHERE and name not in _ELSEWHERE) or not _asks(name, value):
            continue
        if columns and name in _WORDS:
            continue
        if name in _ELSEWHERE:
            raise RecordError("unsupported", f"{name} belongs to infer {_ELSEWHERE[name]}", param=name)
        why = f": {_NOWHERE[name]}" if _NOWHERE[name] else ""
        raise RecordError("unsupported", f"{name} is not supported{why}", param=name)


def _asks(name: str, value: Any) -> bool:
    """True if a field's value asks for anything."""
    if name in _IS_THE_APIS:
        return _IS_THE_APIS[name](value)
    if value is None or (value is False and name not in _FALSE_ASKS) or (isinstance(value, (str, list, dict)) and not value):
        return False
    return not any(type(value) is type(neutral) and value == neutral for neutral in _NEUTRAL.get(name, ()))
