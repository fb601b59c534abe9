"""Formats of quantized checkpoints: one file a format. No torch, but where weights are decoded.

A format is a `Format`; adding a file and a row here adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import auto_round, awq, bitsandbytes, compressed_tensors, fp8, gptq, modelopt, mxfp4
from .base import Layers

#: By config.json's `quant_method`: what reads its quantization_config. Raises ModelError for what is not supported of it.
METHODS: dict[str, Callable[[Mapping[str, Any]], Layers]] = {
    "auto-round": auto_round.read,
    "awq": awq.read,
    "bitsandbytes": bitsandbytes.read,
    "compressed-tensors": compressed_tensors.read,
    "fp8": fp8.read,
    "gptq": gptq.read,
    "modelopt": modelopt.read,
    "mxfp4": mxfp4.read,
}
#: Other names of methods that checkpoints have.
_ALIASES = {
    "auto_round": "auto-round",
    "autoround": "auto-round",
    "intel/auto-round": "auto-round",
    "fbgemm_fp8": "fp8",
    "modelopt_fp4": "modelopt",
}
#: Files beside config.json in which some tools, or older ones, describe a quantization, and the method where they name none.
BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}


def method_of(config: Mapping[str, Any]) -> str | None:
    """The `quant_method` of a quantization_config, in our spelling; of some that name none by their keys."""
    method = config.get("quant_method")
    if method is None:
        if config.get("load_in_4bit") is True or config.get("load_in_8bit") is True:
            return "bitsandbytes"
        if "quant_algo" in config:
            return "modelopt"
    return _ALIASES.get(method, method) if isinstance(method, str) else None
