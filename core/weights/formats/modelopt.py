"""ModelOpt: FP8, MXFP8 and NVFP4 as NVIDIA's Model Optimizer writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelError
from .base import KV_SCALES, STATIC, Format, Layers
from .fp8 import SUFFIXES, Fp8
from .nvfp4 import ModelOptNvfp4

#: By `quant_algo`.
_ALGORITHMS: dict[str, Format] = {
    "FP8": Fp8(None),
    "FP8_PER_CHANNEL_PER_TOKEN": Fp8(None),
    "FP8_PB_WO": Fp8((128, 128)),
    "MXFP8": Fp8((1, 32), exponents=True),
    "NVFP4": ModelOptNvfp4(),
    "W4A16_NVFP4": ModelOptNvfp4(),
}
#: Those whose activations have scales in the checkpoint.
_STATIC = frozenset({"FP8", "NVFP4"})


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` modelopt, or hf_quant_config.json."""
    inner = config.get("quantization")
    config = inner if isinstance(inner, Mapping) else config
    algorithm = config.get("quant_algo")
    form = _ALGORITHMS.get(algorithm.upper()) if isinstance(algorithm, str) else None
    if form is None:
        raise ModelError(f"quantized by ModelOpt with quant_algo {algorithm!r}, which is not supported (known: {', '.join(_ALGORITHMS)})")
    note = STATIC if algorithm in _STATIC else ""
    suffixes = SUFFIXES | {".weight_scale_2"}
    return Layers("modelopt", lambda layer: form, suffixes, f"modelopt, {form.label}", ignored=KV_SCALES, note=note)
