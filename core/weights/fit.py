"""Checks of the weights' headers against config.json, before anything is made of either. No weights are read."""

from __future__ import annotations

from ..errors import ModelError
from ..spec.model_spec import ModelSpec
from ..spec.support import quantized_weights, stated_sizes
from .source import ModelSource, TensorInfo

#: Names that quantized checkpoints give to what they keep beside or in place of weights.
_QUANTIZED_NAMES = (
    *(".qweight", ".qzeros", ".scales", ".g_idx", ".SCB", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_scale"),
    *(".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_zero_point", ".weight_global_scale"),
    *(".input_scale", ".input_global_scale", ".activation_scale", ".k_scale", ".v_scale", "_proj_blocks", "_proj_scales"),
    *("_proj_scale_inv", "_proj_weight_scale", ".weight_format"),
)
_QUANTIZED_DTYPES = ("F8_", "F6_", "F4")
#: Integers are weights only where they are quantized; of vectors, and of these, some buffers are made.
_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32"})
_BUFFERS = ("bias", "ids", "mask")


def check_weights(source: ModelSource, spec: ModelSpec) -> None:
    """Raises ModelError for quantized weights, and for sizes of config.json that are far beyond what the headers have.

    Whether every tensor has its shape is checked by `loader.load`; this keeps a damaged model from being made first.
    """
    tensors = source.tensors()
    for info in tensors.values():
        if what := _quantized(info):
            raise quantized_weights(source.name, what)
    largest = max((size for info in tensors.values() for size in info.shape), default=0)
    path = source.path / "config.json" if source.path.is_dir() else source.path
    for key, size, layers in stated_sizes(spec):
        if layers and size > len(tensors):
            raise ModelError(f"{path}: {key} is {size}, but the weights have {len(tensors)} tensors in all")
        if not layers and size > largest:
            raise ModelError(f"{path}: {key} is {size}, but no tensor of the weights has a dimension above {largest}")


def _quantized(info: TensorInfo) -> str:
    """Why a tensor is taken for one of a quantized checkpoint, or an empty string."""
    if info.name.endswith(_QUANTIZED_NAMES) or ".quant_state." in info.name:
        return f"its weights have {info.name}"
    integer = info.dtype in _INTEGERS and len(info.shape) > 1 and not info.name.endswith(_BUFFERS)
    return f"{info.name} is stored as {info.dtype}" if integer or info.dtype.startswith(_QUANTIZED_DTYPES) else ""
