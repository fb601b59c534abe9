"""The models that can be run, told by config.json alone, for runs and `infer check` alike. No weights are touched."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, nearest
from .architectures import decoders, named, wrapper_of
from .model_spec import ModelSpec

log = logging.getLogger(__name__)

#: Kinds of layers in `layer_types` that attend to keys and values of earlier tokens and to nothing else.
ATTENTION = frozenset({"full_attention", "sliding_attention"})
#: Models whose attention a paged cache cannot hold: it has biases by distance, or the model's code computes it by itself. Of most
#: of these, and of others, their classes tell.
_OWN_ATTENTION = frozenset(
    {"bloom", "cpmant", "falcon", "gpt_neox_japanese", "mpt", "openai-gpt", "reformer", "trocr", "xglm", "xlm", "xlnet"}
)
#: Objects within config.json of a model that reads more than text.
_MORE_THAN_TEXT = {"vision_config": "images", "audio_config": "audio", "speech_config": "audio", "vision_tower": "images"}
#: Ends of class names that write text.
_WRITES = ("ForCausalLM", "LMHeadModel", "ChatModel", "ForConditionalGeneration", "WithLMHead", "MTModel")
#: Ends of class names that do something else, and what.
_OTHER_HEADS = {
    "ForMaskedLM": "fills in masked words",
    "ForPreTraining": "fills in masked words",
    "ForTokenClassification": "labels tokens",
    "ForQuestionAnswering": "finds answers in texts",
    "ForMultipleChoice": "chooses among texts",
    "ForNextSentencePrediction": "compares sentences",
    "ForCTC": "transcribes audio",
    "ForImageClassification": "labels images",
    "ForAudioClassification": "labels audio",
}
#: Beginnings of names of classes with a head behind each of several layers, which only the Python code in their folders knows
#: (bge-reranker-v2-minicpm-layerwise, bge-reranker-v2.5-gemma2-lightweight).
_MANY_HEADS = ("LayerWise", "CostWise")
#: Sizes that a tensor has a dimension of, or several of.
_SIZES = ("vocab_size", "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head", "num_key_value_heads")
#: Keys of the number of layers.
LAYERS = ("num_hidden_layers", "n_layer")
#: Settings that make a decoder's attention look ahead, and the values that leave it causal.
LOOKS_AHEAD: dict[str, tuple[Any, ...]] = {"is_causal": (None, True), "use_bidirectional_attention": (None, False, "vision")}
_STORED = "weights in float32, float16 or bfloat16 (--quantization int8 makes them smaller as they are loaded) and GGUF files"


def refuse_unsupported(spec: ModelSpec, name: str, *, task: str, model_impl: str = "auto") -> None:
    """Raises ModelError, saying what the model is and what is supported, for one that cannot be run.

    What is not refused here and has no code of ours goes through transformers' code, which may find more when it is loaded.

    Args:
        spec: the model's.
        name: the model as the user knows it.
        task: "generate", "embed" or "classify", as `choose_task` gives it.
        model_impl: as in `EngineArgs`.
    """
    kind, names, hf_config = spec.model_type, spec.architectures, spec.config
    if not kind:
        raise ModelError(f"{name}: config.json has no model_type, so its architecture is unknown")
    called = f"{name}: model_type {kind!r}" + (f" ({names[0]})" if names else "")
    foreign = spec.is_foreign
    text_alone = (wrapper_of(kind) is not None or spec.has_encoder) and model_impl != "transformers"
    if spec.has_encoder and task != "generate":
        raise ModelError(f"{called} is an encoder with a decoder, whose hidden states are not supported; {_supported(task)}")
    if names and names[0].startswith(_MANY_HEADS):
        raise ModelError(
            f"{called} has a head behind each of several layers, which only Python code in its folder knows, and that is not run to score; "
            "bge-reranker-v2-gemma and bge-reranker-v2-m3 are supported"
        )
    if model_impl == "infer" and spec.lacking:
        spec.need_stack()
    if foreign or model_impl == "transformers":
        refuse_quantized(hf_config, name)
    if why := ("" if text_alone else _not_text_alone(hf_config)) or (_theirs(hf_config, kind, name) if foreign else ""):
        raise ModelError(f"{called} {why}, which is not supported; {_supported(task)}")
    if model_impl != "transformers" and not foreign:
        spec.need_stack()
    if task == "classify" and foreign:
        raise ModelError(f"{called} is a classifier in code that is not ours, which is not supported; {_supported(task)}")
    if foreign and (model_impl == "infer" or not _has_code(hf_config, kind)):
        raise ModelError(f"{called} is not supported; {_supported(task)}{nearest(kind, decoders() if task == 'generate' else named())}")
    if task == "generate" and names and not any(one.endswith(_WRITES) for one in names):
        does = next((what for end, what in _OTHER_HEADS.items() if names[0].endswith(end)), None)
        if does is not None:
            raise ModelError(f"{called} {does} and writes no text, which is not supported; {_supported(task)}")


def refuse_quantized(hf_config: Mapping[str, Any], name: str) -> None:
    """Raises ModelError for a checkpoint that config.json says is quantized: transformers' code gets plain weights alone."""
    for one in within(hf_config):
        for key in ("quantization_config", "compression_config"):
            if found := one.get(key):
                method = found.get("quant_method") or found.get("format") or "by a method that is not named"
                raise ModelError(
                    f"{name} is quantized ({method}; config.json: {key}), which is not supported for models that run through "
                    f"transformers' code; supported there: {_STORED}"
                )


def check_causal(spec: ModelSpec, name: str) -> None:
    """Raises ModelError for a decoder trained to look ahead: its hidden states would come out, and be others."""
    for one in within(spec.config):
        for key, causal in LOOKS_AHEAD.items():
            if one.get(key) not in causal:
                raise ModelError(
                    f"{name}: its attention looks ahead (config.json: {key} {one[key]!r}), which is not supported for decoders"
                )
    if "AutoModel" in (spec.config.get("auto_map") or {}):
        log.warning("%s: config.json names Python code for its hidden states (auto_map AutoModel), which is not run", name)


def stated_sizes(spec: ModelSpec) -> Iterator[tuple[str, int, bool]]:
    """Sizes by their keys, and whether they are numbers of layers."""
    for prefix, config in zip(("", "text_config."), within(spec.config), strict=False):
        for keys, layers in ((LAYERS, True), (_SIZES, False)):
            yield from ((prefix + key, config[key], layers) for key in keys if isinstance(config.get(key), int))


def within(hf_config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """config.json, and what a wrapper's has of the language model in it."""
    text = hf_config.get("text_config")
    return [hf_config, text] if isinstance(text, Mapping) else [hf_config]


def quantized_weights(name: str, what: str) -> ModelError:
    """The error for weights that are themselves found to be quantized."""
    return ModelError(f"{name} is quantized ({what}), which is not supported yet; supported: {_STORED}")


def transformers_config(hf_config: Mapping[str, Any]) -> Any:
    """The object that transformers makes of a config.json with this content. Raises whatever its classes do."""
    from transformers import AutoConfig

    if hf_config.get("head_dim", 0) is None:  # where it follows from other sizes, some classes want no such key at all
        hf_config = {key: value for key, value in hf_config.items() if key != "head_dim"}
    with tempfile.TemporaryDirectory(prefix="infer-") as folder:  # it reads files, and some values have a form of their own there
        (Path(folder) / "config.json").write_text(json.dumps(hf_config))
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _not_text_alone(hf_config: Mapping[str, Any]) -> str:
    """The reason why a model does more or other than read and write text, told by plain keys; empty if there is none."""
    if hf_config.get("is_encoder_decoder"):
        return "is an encoder with a decoder"
    for key, reads in _MORE_THAN_TEXT.items():
        if hf_config.get(key):
            return f"reads {reads} beside text ({key})"
    return ""


def _theirs(hf_config: Mapping[str, Any], kind: str, name: str) -> str:
    """The reason why a model cannot run through transformers' code, as its classes tell; empty if there is none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if kind not in CONFIG_MAPPING:
        return ""
    try:
        config = transformers_config(hf_config)
    except Exception as error:  # each class checks its values in its own way
        raise ModelError(f"{name}: transformers refuses its config.json: {_first_line(error)}") from error
    if why := _not_text_alone(vars(config)):  # with what its class takes for granted
        return why
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "reads texts in both directions"
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None) or ()
    if kind not in _OWN_ATTENTION and (others := sorted({str(one) for one in layers} - ATTENTION)):
        return f"has layers that are not plain attention ({', '.join(others)})"
    try:
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        model = None
    if getattr(model, "_is_stateful", False) and not layers:
        return "has recurrent layers"
    return "has attention that a paged cache cannot hold" if kind in _OWN_ATTENTION or not _takes_attention(model) else ""


def _takes_attention(model: Any) -> bool:
    """False for a class that computes attention by itself, as it says; True where it says nothing."""
    takes = getattr(model, "_can_set_attn_implementation", None)
    return takes is None or bool(takes())


def _has_code(hf_config: Mapping[str, Any], kind: str) -> bool:
    """True if transformers has, or the folder brings, a causal language model of this type."""
    if "AutoModelForCausalLM" in (hf_config.get("auto_map") or {}):
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _supported(task: str) -> str:
    if task == "generate":
        return f"supported: {', '.join(decoders())}, and other decoders through transformers"
    more = ", and other decoders through transformers" if task == "embed" else ""
    return f"supported to {'embed' if task == 'embed' else 'classify'}: {', '.join(named())}{more}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
