"""Llama and what is shaped like it: pre-norm, rotary positions, SwiGLU, grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from .decoder import Decoder, DecoderConfig


class Model(Decoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops) -> None:
        bias = bool(hf.get("attention_bias", False))
        super().__init__(DecoderConfig.from_hf(hf, qkv_bias=bias, o_bias=bias, mlp_bias=bool(hf.get("mlp_bias", False))), ops)
