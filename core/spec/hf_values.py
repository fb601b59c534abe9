"""Kinds and ranges of the values of config.json: one that no model can have is refused by its key, before anything is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InferError, ModelError

#: Numbers of things and positions are held in 32 bits.
MOST = 2**31 - 1
#: No number of a config is larger; NaN and infinity are none at all.
LARGEST = 1e18
_DTYPE = re.compile(r"(torch\.)?(auto|half|double|(b?float|u?int)([1-8]|16|32|64)?(_[a-z0-9]+)?)")
#: Levels of objects within objects that are looked at.
_DEPTH = 4


@dataclass(frozen=True)
class Kind:
    """The requirement that a value must meet."""

    wanted: str
    fits: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.wanted} or {other.wanted}", lambda value: self.fits(value) or other.fits(value))


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= MOST


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_text(value: Any) -> bool:
    """True for a string that can be written: half of a surrogate pair cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _all(kind: Kind) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind.fits, value))


COUNT = Kind(f"a whole number from 1 to {MOST}", _whole(1))
WHOLE = Kind(f"a whole number from 0 to {MOST}", _whole(0))
#: Layers are described one by one: of a count that no model has, descriptions alone would take gigabytes.
LAYERS = Kind("a whole number from 1 to 10000", lambda value: type(value) is int and 1 <= value <= 10_000)
#: -1 stands for none in old files.
TOKEN = Kind("a token id", _whole(-1))
POSITIVE = Kind(f"a number above 0 and at most {LARGEST:g}", lambda value: _number(value) and value > 0)
FROM_ZERO = Kind(f"a number from 0 to {LARGEST:g}", lambda value: _number(value) and value >= 0)
FRACTION = Kind("a number above 0 and at most 1", lambda value: _number(value) and 0 < value <= 1)
NUMBER = Kind(f"a number from -{LARGEST:g} to {LARGEST:g}", _number)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a string", is_text)
DTYPE = Kind("the name of a dtype", lambda value: isinstance(value, str) and _DTYPE.fullmatch(value) is not None)
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
NULL = Kind("null", lambda value: value is None)
COUNTS = Kind("a list of such", _all(WHOLE))
NUMBERS = Kind("a list of numbers", _all(NUMBER))
POSITIVES = Kind("a list of numbers above 0", _all(POSITIVE))
TEXTS = Kind("a list of strings", _all(TEXT))
TOKENS = Kind("a list of token ids", _all(TOKEN))

#: Of every model. Sizes may be lists by layer in some that run through transformers.
_EVERY: dict[str, Kind] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_attention_heads"), COUNT | COUNTS | NULL),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), LAYERS | NULL),
    **dict.fromkeys(("n_embd", "n_head", "n_positions", "d_model", "type_vocab_size"), WHOLE | NULL),
    **dict.fromkeys(("intermediate_size", "num_key_value_heads", "head_dim", "sliding_window"), WHOLE | COUNTS | NULL),
    "max_position_embeddings": COUNT | NULL,
    **dict.fromkeys(("max_seq_len", "seq_length", "max_sequence_length", "max_seq_length", "seq_len"), TOKEN | NULL),
    "eos_token_id": TOKEN | TOKENS | NULL,
    **dict.fromkeys(("bos_token_id", "pad_token_id", "cls_token_id", "sep_token_id"), TOKEN | TOKENS | NULL),
    **dict.fromkeys(("architectures", "layer_types"), TEXTS | NULL),
    **dict.fromkeys(("tie_word_embeddings", "is_encoder_decoder", "is_decoder", "use_sliding_window"), FLAG | NULL),
    **dict.fromkeys(("rope_theta", "rms_norm_eps", "layer_norm_eps", "norm_eps", "layer_norm_epsilon"), NUMBER | NULL),
    **dict.fromkeys(
        ("rope_scaling", "rope_parameters", "quantization_config", "compression_config", "id2label", "auto_map"), OBJECT | NULL
    ),
    **dict.fromkeys(("text_config", "vision_config", "audio_config", "encoder", "decoder"), OBJECT | NULL),
    "sentence_transformers": OBJECT | NULL,
    **dict.fromkeys(("problem_type", "classifier_pooling", "sbert_ce_default_activation_function"), TEXT | NULL),
    "partial_rotary_factor": FRACTION | NULL,
    "original_max_position_embeddings": COUNT | NULL,
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | OBJECT | NULL),
}
#: Within rope_scaling and rope_parameters.
_ROPE: dict[str, Kind] = {
    **dict.fromkeys(("rope_type", "type"), TEXT),
    **dict.fromkeys(("factor", "rope_theta", "low_freq_factor", "high_freq_factor"), POSITIVE | NULL),
    **dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim"), NUMBER | NULL),
    **dict.fromkeys(("beta_fast", "beta_slow"), FROM_ZERO | NULL),
    "original_max_position_embeddings": COUNT | NULL,
    "partial_rotary_factor": FRACTION | NULL,
    "truncate": FLAG,
    **dict.fromkeys(("short_factor", "long_factor"), POSITIVES | NULL),
    "llama_4_scaling_beta": NUMBER | NULL,
    **dict.fromkeys(("full_attention", "sliding_attention"), OBJECT | NULL),
}
_ROPE_OBJECTS = ("rope_scaling", "rope_parameters")
_CONFIGS = ("text_config", "vision_config", "audio_config")


def check_kind(config: Mapping[str, Any], overrides: Mapping[str, Any], path: Path | str) -> None:
    """Raises what `check_values` does for a model_type that is none."""
    _check(config, {"model_type": TEXT | NULL}, "", overrides, path)


def check_values(config: Mapping[str, Any], own: Mapping[str, Kind], overrides: Mapping[str, Any], path: Path | str) -> None:
    """Raises ModelError, or ConfigError for one that `overrides` gave, naming the first key whose value is wrong.

    Args:
        own: of the architecture, beside those of every model.
    """
    _check(config, {**_EVERY, **own}, "", overrides, path)


def check_file(config: Mapping[str, Any], kinds: Mapping[str, Kind], path: Path | str) -> None:
    """Raises ModelError naming the first of these keys of a small file whose value is of another kind."""
    _check(config, kinds, "", {}, path)


def check_layers(config: Mapping[str, Any], path: Path | str) -> None:
    """Raises ModelError if there is not one kind of layer for each layer."""
    layers, kinds = config.get("num_hidden_layers"), config.get("layer_types")
    if kinds is not None and layers is not None and len(kinds) != layers:
        raise ModelError(f"{path}: layer_types names {len(kinds)} layers, num_hidden_layers is {layers}; they must agree")


def _check(config: Mapping[str, Any], kinds: Mapping[str, Kind], within: str, overrides: Mapping[str, Any], path: Path | str) -> None:
    for key, value in config.items():
        kind = kinds.get(key)
        if kind is not None and not kind.fits(value):
            raise _wrong(within + key, value, kind, overrides, path)
        if key in _ROPE_OBJECTS and isinstance(value, Mapping):
            _check(value, _ROPE, f"{within}{key}.", overrides, path)
            for inner, one in value.items():  # by kind of layer
                if isinstance(one, Mapping):
                    _check(one, _ROPE, f"{within}{key}.{inner}.", overrides, path)
        elif key in _CONFIGS and isinstance(value, Mapping) and within.count(".") < _DEPTH:
            _check(value, _EVERY, f"{within}{key}.", overrides, path)


def _wrong(name: str, value: Any, kind: Kind, overrides: Mapping[str, Any], path: Path | str) -> InferError:
    what = f"{name} is {shown(value)}; it must be {kind.wanted}"
    if name.partition(".")[0] in overrides:
        return ConfigError(f"hf_overrides (--hf-overrides): {what}")
    return ModelError(f"{path}: {what}")


def shown(value: Any) -> str:
    """The beginning of a value of a model's file, for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
