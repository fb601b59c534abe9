"""Qwen3-VL: a tower before a Qwen3, whose layers get images at several depths."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="qwen3", spellings=("qwen3_vl_text",), defaults={"rope_theta": 5e5, "max_position_embeddings": 128000})
