"""Qwen3: Llama with an RMSNorm of each query and key head before rotation and an explicit head size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from .decoder import Decoder, DecoderConfig, sliding_windows


class Model(Decoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops) -> None:
        bias = bool(hf.get("attention_bias", False))
        windows = sliding_windows(hf, switched=True)
        super().__init__(DecoderConfig.from_hf(hf, qk_norm=True, qkv_bias=bias, o_bias=bias, sliding_windows=windows), ops)
