"""Formats of quantized checkpoints: one file a format. No torch, but where weights are decoded.

A format is a `Format`; adding a file and a row here adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import compressed_tensors, gptq
from .base import Layers

#: By config.json's `quant_method`: what reads its quantization_config. Raises ModelError for what is not supported of it.
METHODS: dict[str, Callable[[Mapping[str, Any]], Layers]] = {
    "gptq": gptq.read,
    "compressed-tensors": compressed_tensors.read,
}
