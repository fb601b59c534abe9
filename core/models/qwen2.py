"""Qwen2: Llama with biases on queries, keys and values; windows only in upper layers, and only when switched on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from .decoder import Decoder, DecoderConfig, sliding_windows


class Model(Decoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops) -> None:
        super().__init__(DecoderConfig.from_hf(hf, qkv_bias=True, sliding_windows=sliding_windows(hf, switched=True)), ops)
