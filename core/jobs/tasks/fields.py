"""Fields of a record: parameters we know, names of the OpenAI and vLLM APIs we accept or refuse, and the rest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ...errors import RecordError
from ...types.params import ALIASES, NOT_SUPPORTED_YET, SamplingParams
from ..jsonl import wrong_type
from . import constraint

#: Sampling parameters, ours and those refused by name.
SAMPLING = SamplingParams.field_names() | frozenset(ALIASES) | NOT_SUPPORTED_YET

#: What else a record may say, whatever the task.
COMMON = frozenset({"add_special_tokens", "priority"})

#: How a record names its adapters.
LORA = frozenset({"lora", "lora_name"})
PROMPT_ADAPTER = frozenset({"prompt_adapter"})

#: Integers that JSON readers agree on are far below this.
_MAX_PRIORITY = 2**63 - 1

#: Accepted and dropped, whatever they say: the command line names the model, there is nothing to stream, and `_error` is ours
#: (--errors writes it).
DROPPED = frozenset({"_error", "model", "stream_options", "user"})

#: Known fields that ask for nothing when they are null or have one of these values, and are refused otherwise.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "chat_template": (),
    "echo": (False,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logits_processors": ([],),
    "parallel_tool_calls": (True,),
    "stream": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
}

#: Parameters that a misspelled field may have meant; not those whose names are everyday words.
GUESSABLE = ((SAMPLING | constraint.FIELDS | {"add_special_tokens"}) - {"echo", "suffix"}) | LORA | PROMPT_ADAPTER

#: Of those, names that ordinary columns come close to (flora, local_name): only the same letters, or another API's name, mean them.
_EXACT = LORA

#: Names that other engines and clients give to parameters, folded -> ours.
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("adapter", "adapterid", "adaptername", "loraadapter", "loraadaptername"), "lora"),
    "dosample": "temperature",
    "eostokenid": "stop_token_ids",
    "inputtype": "prompt_name",
    "jsonschema": "structured_outputs",
    "ebnf": "structured_outputs",
    "maxlength": "max_tokens",
    "maxoutputtokens": "max_tokens",
    "minlength": "min_tokens",
    "npredict": "max_tokens",
    "numpredict": "max_tokens",
    "outputdimension": "dimensions",
    "stopsequences": "stop",
    "stopstrings": "stop",
    "stopwords": "stop",
}

#: No field here is echoed in `extra`.
KNOWN = SAMPLING | COMMON | LORA | PROMPT_ADAPTER | constraint.FIELDS | DROPPED | frozenset(NEUTRAL) | {"id"}


def refuse_unsupported(fields: Mapping[str, Any], refusable: frozenset[str]) -> None:
    """Raises RecordError for one of the `refusable` fields that asks for something."""
    for name, value in fields.items():
        if name in refusable and not is_neutral(name, value):
            raise RecordError("unsupported", f"{name} is not supported", param=name)


def is_neutral(name: str, value: Any) -> bool:
    """True if a known field asks for nothing."""
    return value is None or any(type(value) is type(known) and value == known for known in NEUTRAL.get(name, ()))


def flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    """A field that is true or false. Raises RecordError."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false", value)
    return value


def priority_of(fields: Mapping[str, Any]) -> int:
    """`priority`: with the priority policy records of lower ones go first. Raises RecordError."""
    value = fields.get("priority")
    if value is None:
        return 0
    if type(value) is not int:
        raise wrong_type("priority", "an integer", value)
    if abs(value) > _MAX_PRIORITY:
        raise RecordError("invalid_value", f"priority must be at least {-_MAX_PRIORITY} and at most {_MAX_PRIORITY}", param="priority")
    return value


@lru_cache(maxsize=4096)
def intended(name: str, known: frozenset[str]) -> str | None:
    """The known field that an unknown `name` looks like a misspelling of (max_token, top-p, temprature), or is called elsewhere, if any.

    Stricter than the suggestions for flags: a data column that is only a bit like a parameter must not be called a mistake.
    """
    folded = _fold(name)
    if len(folded) < 3:
        return None
    for candidate in sorted(known):
        if _fold(candidate) == folded:
            return candidate
    if _ELSEWHERE.get(folded) in known:
        return _ELSEWHERE[folded]
    close = difflib.get_close_matches(name.lower(), sorted(known - _EXACT), n=1, cutoff=0.81)
    return close[0] if close else None


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value)


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict) and not {"type", "properties", "enum", "anyOf", "$ref"}.isdisjoint(value)


_Test = Callable[[Any], bool]

# -- parameters in a wrong place. A column may have such a name by chance: a value counts only where it is what the parameter would be

#: Field of `structured_outputs` -> the test of its value.
_OF_CONSTRAINT: Mapping[str, _Test] = {
    "choice": _is_list_of_text,
    "grammar": _is_text,
    "json": _is_schema,
    "json_object": lambda value: value is True,
    "regex": _is_text,
}
#: Parameter -> the command whose records have it, and the test of its value. What is refused by name is in refused.py.
_OF_COMMANDS: Mapping[str, tuple[str, _Test]] = {
    "dimensions": ("embed", _is_integer),
    "encoding_format": ("embed", lambda value: value in ("float", "base64")),
    "normalize": ("embed", _is_flag),
    "use_activation": ("score", _is_flag),
    "top_n": ("score", _is_integer),
    "return_documents": ("score", _is_flag),
    "step_tag_id": ("score", _is_integer),
    "returned_token_ids": ("score", lambda value: isinstance(value, list) and bool(value)),
    "calibration_prompt": ("classify", _is_text),
    "timestamp_granularities": ("transcribe", lambda value: isinstance(value, list) and bool(value)),
    "condition_on_prev_tokens": ("transcribe", _is_flag),
    "compression_ratio_threshold": ("transcribe", _is_number),
    "logprob_threshold": ("transcribe", _is_number),
    "no_speech_threshold": ("transcribe", _is_number),
}


def place_of(name: str, value: Any, *, constrains: bool) -> str | None:
    """The place where an unknown field of a record would have a meaning, in words; None if nothing shows that it was to have one.

    Args:
        constrains: records of the command may have `structured_outputs`.
    """
    if constrains and name in _OF_CONSTRAINT and _OF_CONSTRAINT[name](value):
        return "it belongs inside structured_outputs"
    command, is_its = _OF_COMMANDS.get(name, ("", _is_flag))
    return f"it belongs to infer {command}" if command and is_its(value) else None
