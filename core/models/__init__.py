"""Architectures. The file's name is config.json's `model_type`: adding a file adds the architecture.

Each defines `Model`, built as `Model(hf_config, ops)`; see `language_model.py` for what the engine uses of it. What has no file
here runs through transformers' code, see `hf/`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infer.kernels.ops import Ops

from ..errors import ModelError, nearest
from .decoder import Decoder

#: Files of this folder that are not architectures.
SHARED = frozenset({"__init__", "decoder", "language_model"})


def supported() -> list[str]:
    """The model types there are files for."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in SHARED)


def is_ours(hf_config: Mapping[str, Any]) -> bool:
    """Whether there is a file for the model described by a config.json."""
    return hf_config.get("model_type") in supported()


def build(hf_config: Mapping[str, Any], ops: Ops) -> Decoder:
    """The model described by a config.json, without weights. Raises ModelError for unknown or damaged descriptions."""
    kind = hf_config.get("model_type")
    if kind not in supported():
        known = ", ".join(supported())
        raise ModelError(f"model_type {kind!r} is not supported (supported: {known}){nearest(str(kind), supported())}")
    try:
        model: Decoder = importlib.import_module(f".{kind}", __package__).Model(hf_config, ops)
    except KeyError as error:
        raise ModelError(f"config.json has no {error}, which a {kind} model needs") from error
    return model
