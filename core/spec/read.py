"""From config.json to a ModelSpec: its architecture's reading where there is one, else what most models say under the same keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelError, VariantError
from . import architectures
from .architectures import Architecture, Wrapper
from .hf_config import FILE, effective
from .hf_values import MOST
from .model_spec import ModelSpec
from .rope import rope_of
from .stack import ClassifierSpec, KVSpec, Shares, StackSpec
from .vision import images_of

#: Keys that bound the length; the smallest one counts.
LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
    "max_target_positions",
)
#: Rope scalings whose `max_position_embeddings` is already the scaled length.
ALREADY_SCALED = frozenset({"default", "su", "longrope", "llama3", "mrope", "ntk"})
#: Other spellings of dtypes.
DTYPE_NAMES = {"half": "float16", "float": "float32", "double": "float32", "float64": "float32"}
#: Families in transformers' code whose activations leave float16's range.
_NOT_IN_FLOAT16 = ("gemma3", "glm4")


def read_spec(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, path: Path | str = FILE) -> ModelSpec:
    """The ModelSpec of a config.json. Arguments and errors as of `hf_config.effective`."""
    hf = effective(raw, overrides, path)
    kind = hf.get("model_type")
    wrapper = architectures.wrapper_of(kind)
    text = hf if wrapper is None else _text_of(hf, wrapper, path)
    if wrapper is not None and wrapper.vision is not None and wrapper.vision.rope:
        text["rope_parameters"] = {**wrapper.vision.rope, **text.get("rope_parameters", {})}
    ours = architectures.of(text.get("model_type"))
    stack, lacking, is_variant = None, "", False
    if ours is not None:
        try:
            stack = ours.stack(text)
        except KeyError as error:
            lacking = f"config.json has no {error}, which a {text['model_type']} model needs"
        except ModelError as error:
            lacking, is_variant = str(error), isinstance(error, VariantError) and wrapper is None
    elif wrapper is not None:
        lacking = f"the language model in it, {text.get('model_type')!r}, is not one that we have code for"
    if stack is not None and wrapper is not None:
        naming = stack.naming
        stacks = {**naming.stacks, **wrapper.stacks}
        naming = replace(naming, renames={**wrapper.renames, **naming.renames}, media=wrapper.media, stacks=stacks)
        stack = replace(stack, naming=naming)
    names = hf.get("architectures")
    if stack is not None and isinstance(names, list) and any(str(name).endswith("ForTokenClassification") for name in names):
        stack = _labelling(stack)
    stated = _get(hf, "model_max_length")
    if stack is not None and stack.has_far_distances:
        stated = MOST
    return ModelSpec(
        config=hf,
        model_type=kind or "",
        is_encoder=ours is not None and (ours.is_encoder or hf.get(ours.encoder_key) is True),
        architectures=tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else (),
        dtype=_dtype(hf),
        unsafe_dtypes=_unsafe_dtypes(ours, str(kind)),
        vocab_size=_size(hf, ("vocab_size",)) if stack is None else stack.vocab_size,
        hidden_size=_size(hf, ("hidden_size", "n_embd", "d_model")) if stack is None else stack.output_size,
        max_length=_max_length(text, stack),
        stated_length=int(stated) if isinstance(stated, (int, float)) else None,
        caches=_caches(hf) if stack is None else stack.caches,
        states=() if stack is None else stack.states,
        shares=frozenset() if stack is None or stack.encoder is not None or stack.tower_positions else _shares(stack),
        end_tokens=_end_tokens(_get(hf, "eos_token_id") if wrapper is None else hf.get("eos_token_id", text.get("eos_token_id"))),
        default_end_token=None if ours is None or "eos_token_id" in hf or "eos_token_id" in text else ours.end_token,
        classifier_pooling=_classifier_pooling(hf, ours),
        stack=stack,
        lacking=lacking,
        is_variant=is_variant,
        images=None if wrapper is None or stack is None else images_of(hf, wrapper.vision),
        towers=None if wrapper is None or stack is None else wrapper.towers,
    )


def _text_of(hf: Mapping[str, Any], wrapper: Wrapper, path: Path | str) -> dict[str, Any]:
    """config.json of the language model in a wrapper, as if it were a model by itself. Either may state a tie."""
    inner = hf.get(wrapper.key)
    # Files of first releases have the language model's keys beside the wrapper's own.
    found = dict(inner) if isinstance(inner, Mapping) else {key: value for key, value in hf.items() if not key.endswith("_config")}
    kind = found.get("model_type")
    found = {**wrapper.defaults, **found}
    if wrapper.vision is not None and wrapper.vision.sees and found.get("use_bidirectional_attention") is True:
        found["use_bidirectional_attention"] = None  # of prompts, where the wrapper's file says so
    found["model_type"] = wrapper.model_type if kind in (None, hf.get("model_type"), *wrapper.spellings) else kind
    found["tie_word_embeddings"] = bool(hf.get("tie_word_embeddings", wrapper.tie) or found.get("tie_word_embeddings", False))
    return effective(found, None, path)


def _labelling(stack: StackSpec) -> StackSpec:
    """With the head of its `...ForTokenClassification`: that of texts, if it norms, and else one layer."""
    head = stack.classifier
    return stack if head is None or head.norm is not None else replace(stack, classifier=ClassifierSpec(out="classifier"))


def _get(hf: Mapping[str, Any], key: str) -> Any:
    """A key of config.json; models of several towers keep the language model's under text_config."""
    text = hf.get("text_config")
    value = text.get(key) if isinstance(text, Mapping) else None
    return hf.get(key) if value is None else value


def _end_tokens(stated: Any) -> tuple[int, ...]:
    return () if stated is None else tuple(stated) if isinstance(stated, list) else (stated,)


def _size(hf: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((value for key in keys if isinstance(value := _get(hf, key), int) and value > 0), None)


def _dtype(hf: Mapping[str, Any]) -> str | None:
    """None also for one that is no dtype of activations."""
    name = str(_get(hf, "dtype") or _get(hf, "torch_dtype") or "").removeprefix("torch.")
    name = DTYPE_NAMES.get(name, name)
    return name if name in ("float32", "float16", "bfloat16") else None


def _unsafe_dtypes(ours: Architecture | None, kind: str) -> frozenset[str]:
    if ours is not None:
        return ours.unsafe_dtypes
    return frozenset({"float16"} if kind.startswith(_NOT_IN_FLOAT16) else ())


def _max_length(hf: Mapping[str, Any], stack: StackSpec | None) -> int | None:
    """Rope scaling counted."""
    lengths = [value for key in LENGTH_KEYS if isinstance(value := _get(hf, key), int) and value > 0]
    if not lengths:
        return None
    length: float = min(lengths)
    if stack is not None and stack.max_length is not None:  # the table may begin with rows that no text uses
        length = min(length, stack.max_length)
    scaling = _rope_scaling(hf)
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    factor = scaling.get("factor")
    # gemma3 scales only its global layers and states the length it reaches
    if kind in ALREADY_SCALED or not isinstance(factor, (int, float)) or str(hf.get("model_type", "")).startswith("gemma3"):
        return int(length)
    if kind == "yarn":
        length = scaling.get("original_max_position_embeddings") or length
    return int(length * factor)


def _rope_scaling(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope scaling; there may be one for each kind of layer."""
    text = hf.get("text_config")
    found = (rope_of(text) if isinstance(text, Mapping) else {}) or rope_of(hf)
    return found.get("full_attention", found) if isinstance(found.get("full_attention"), Mapping) else found


def _caches(hf: Mapping[str, Any]) -> tuple[KVSpec, ...]:
    """Of a model in transformers' code: alike in all layers, as far as config.json tells."""
    try:
        heads = int(hf["num_attention_heads"])
        head_dim = int(hf.get("head_dim") or hf["hidden_size"] // heads)
        return (KVSpec(int(hf.get("num_key_value_heads") or heads), head_dim),) * int(hf["num_hidden_layers"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return ()


def _shares(stack: StackSpec) -> frozenset[Shares]:
    return frozenset(shares for one in stack.layers for shares in one.shares(whole_experts=False))


def _classifier_pooling(hf: Mapping[str, Any], ours: Architecture | None) -> str:
    if ours is not None and ours.pooling_key:
        return str(hf.get(ours.pooling_key, "cls"))
    return "cls" if ours is not None and ours.is_encoder else "last"
