"""Mistral: Llama with a sliding window in every layer (first releases) and an explicit head size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from .decoder import Decoder, DecoderConfig, sliding_windows


class Model(Decoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops) -> None:
        super().__init__(DecoderConfig.from_hf(hf, sliding_windows=sliding_windows(hf, switched=False)), ops)
