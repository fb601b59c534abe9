"""Formats of quantized checkpoints: one file a format. No torch, but where weights are decoded.

A format is a `Format`; adding a file and a row here adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Layers


def _read_by(module: str) -> Callable[[Mapping[str, Any]], Layers]:
    """The `read` of a format's file, which is imported when it is called: few models are quantized."""

    def read(config: Mapping[str, Any]) -> Layers:
        layers: Layers = import_module(f".{module}", __package__).read(config)
        return layers

    return read


#: By config.json's `quant_method`: what reads its quantization_config. Raises ModelError for what is not supported of it.
METHODS: dict[str, Callable[[Mapping[str, Any]], Layers]] = {
    "auto-round": _read_by("auto_round"),
    "awq": _read_by("awq"),
    "bitsandbytes": _read_by("bitsandbytes"),
    "compressed-tensors": _read_by("compressed_tensors"),
    "fp8": _read_by("fp8"),
    "gptq": _read_by("gptq"),
    "modelopt": _read_by("modelopt"),
    "mxfp4": _read_by("mxfp4"),
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
