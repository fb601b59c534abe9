"""Architectures. The file's name is config.json's `model_type` ("-" as "_"): adding a file adds the architecture.

Each defines `Model`, built as `Model(hf_config, ops)`: see `language_model.py` for what the engine uses of one that writes, and
`pooling_model.py` of one that reads both ways (`ENCODERS`). What has no file here runs through transformers' code, see `hf/`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infer.kernels.ops import Ops

from ..errors import ModelError, nearest
from ..spec.task import ENCODERS
from .decoder import Decoder
from .encoder import Encoder

#: Files of this folder that are not architectures.
SHARED = frozenset({"__init__", "decoder", "encoder", "flat_decoder", "language_model", "pooling_model"})


def supported() -> list[str]:
    """The model types of language models there are files for."""
    encoders = {_file(kind) for kind in ENCODERS}
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in SHARED | encoders)


def is_ours(hf_config: Mapping[str, Any]) -> bool:
    """Whether there is a file for the language model described by a config.json."""
    return hf_config.get("model_type") in supported()


def is_encoder(hf_config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a bidirectional model that there is a file for."""
    return hf_config.get("model_type") in ENCODERS


def build(hf_config: Mapping[str, Any], ops: Ops) -> Decoder:
    """The language model described by a config.json, without weights. Raises ModelError for unknown or damaged descriptions."""
    kind = hf_config.get("model_type")
    if is_encoder(hf_config):
        raise ModelError(f"model_type {kind!r} reads texts and cannot write any; it is a model for infer embed or infer score")
    if kind not in supported():
        known = ", ".join(supported())
        raise ModelError(f"model_type {kind!r} is not supported (supported: {known}){nearest(str(kind), supported())}")
    model: Decoder = _built(hf_config, ops)
    return model


def build_encoder(hf_config: Mapping[str, Any], ops: Ops, *, labels: int = 0) -> Encoder:
    """The encoder described by a config.json, without weights.

    Args:
        labels: with the head of its `...ForSequenceClassification` for so many; 0: without.

    Raises ModelError for unknown or damaged descriptions.
    """
    if not is_encoder(hf_config):
        known = ", ".join(sorted(ENCODERS))
        raise ModelError(f"model_type {hf_config.get('model_type')!r} is no encoder that is supported (supported: {known})")
    model: Encoder = _built(hf_config, ops, labels=labels)
    return model


def _built(hf_config: Mapping[str, Any], ops: Ops, **options: Any) -> Any:
    kind = str(hf_config["model_type"])
    try:
        return importlib.import_module(f".{_file(kind)}", __package__).Model(hf_config, ops, **options)
    except KeyError as error:
        raise ModelError(f"config.json has no {error}, which a {kind} model needs") from error


def _file(kind: str) -> str:
    return kind.replace("-", "_")
