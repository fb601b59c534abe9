"""Checks of the weights' headers against config.json, before anything is made of either. No weights are read. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ConfigError, ModelError
from ..parallel.sizes import fitting_sizes, shares_of
from ..spec.model_spec import ModelSpec
from ..spec.stack import ClassifierSpec, StackSpec
from ..spec.support import LAYERS, quantized_weights, stated_sizes
from ..spec.tensors import shared_inputs, tensors
from .renamed import as_stored, fit
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
#: Dtypes of what a model computes with.
FLOATING = frozenset({"F16", "BF16", "F32", "F64"})
#: Tensors some checkpoints carry that are computed, not learned: by config.json, as in transformers, and not read.
INVERSE_FREQUENCIES = "rotary_emb.inv_freq"
COMPUTED = (INVERSE_FREQUENCIES, "rotary_emb.cos_cached", "rotary_emb.sin_cached")
#: How many names an error message lists.
NAMED = 5


def check_weights(source: ModelSource, spec: ModelSpec) -> None:
    """Raises ModelError for quantized weights, and for sizes of config.json that are far beyond what the headers have.

    It keeps a damaged model from being made; that every tensor has its shape is for `check_stack`.
    """
    found = source.tensors()
    for info in found.values():
        if what := _quantized(info):
            raise quantized_weights(source.name, what)
    largest = max((size for info in found.values() for size in info.shape), default=0)
    path = source.path / "config.json" if source.path.is_dir() else source.path
    for key, size, layers in stated_sizes(spec):
        if layers and size > len(found):
            raise ModelError(f"{path}: {key} is {size}, but the weights have {len(found)} tensors in all")
        if not layers and size > largest:
            raise ModelError(f"{path}: {key} is {size}, but no tensor of the weights has a dimension above {largest}")


def _quantized(info: TensorInfo) -> str:
    """Why a tensor is taken for one of a quantized checkpoint, or an empty string."""
    if info.name.endswith(_QUANTIZED_NAMES) or ".quant_state." in info.name:
        return f"its weights have {info.name}"
    integer = info.dtype in _INTEGERS and len(info.shape) > 1 and not info.name.endswith(_BUFFERS)
    return f"{info.name} is stored as {info.dtype}" if integer or info.dtype.startswith(_QUANTIZED_DTYPES) else ""


def check_stack(
    source: ModelSource,
    stack: StackSpec,
    *,
    writes: bool,
    classifier: ClassifierSpec | None = None,
    labels: int = 0,
    overrides: Mapping[str, Any],
) -> None:
    """Raises ModelError for tensors that are missing, unexpected or of another shape than our code of the model asks for.

    Args:
        writes: with the head that writes.
        classifier: with this one, of `labels`; None: without.
        overrides: of config.json.
    """
    stack = as_stored(stack, source) if writes else stack
    wanted = tensors(stack, head=writes, classifier=classifier, labels=labels)
    found = fit(source, stack, wanted, whole=writes).tensors()
    compare(source.name, wanted, found, ignore=beyond_layers(overrides, stack, found))


def check_groups(source: ModelSource, spec: ModelSpec, size: int, *, whole_experts: bool = False) -> None:
    """Raises ConfigError, naming the sizes that work, if `size` ranks would cut the groups of a quantized weight."""
    if size == 1 or spec.stack is None:
        return
    shared = dict(shared_inputs(spec.stack, whole_experts=whole_experts))
    found = fit(source, spec.stack, shared, whole=True).tensors()
    groups = {name: found[name].group for name in shared if name in found}

    def cut(name: str, among: int) -> bool:
        """True if a group of a weight would be cut; where there is only one, ranks share it."""
        return among > 1 and groups[name] < shared[name] and shared[name] // among % groups[name] != 0

    if worst := next((name for name in groups if cut(name, size)), None):
        sizes = fitting_sizes(shares_of(spec, whole_experts=whole_experts))
        fitting = [among for among in sizes if not any(cut(name, among) for name in groups)]
        raise ConfigError(
            f"tensor_parallel_size={size}: {worst} is quantized in groups of {groups[worst]} input features and has {shared[worst]}, "
            f"which cannot be shared evenly between groups; sizes that work: {', '.join(map(str, fitting))}"
        )


def beyond_layers(overrides: Mapping[str, Any], stack: StackSpec, stored: Collection[str]) -> frozenset[str]:
    """Tensors of the layers that `hf_overrides` leaves out. Without the override they are too many."""
    if overrides.keys().isdisjoint(LAYERS):
        return frozenset()
    layer = re.compile(re.escape(stack.names.layer).replace(r"\{\}", r"(\d+)") + r"\.")
    return frozenset(name for name in stored if (match := layer.match(name)) and int(match[1]) >= len(stack.layers))


def compare(
    name: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorInfo], *, ignore: frozenset[str] = frozenset()
) -> None:
    """Raises ModelError naming tensors of the model `name` that are missing, unexpected, of another shape or no real numbers.

    Args:
        ignore: names of tensors that may be there without being used.
    """
    problems = []
    if missing := [one for one in wanted if one not in found]:
        problems.append(f"missing: {_some(missing)}")
    if unused := sorted(one for one in found if one not in wanted and one not in ignore and not one.endswith(COMPUTED)):
        problems.append(f"unexpected: {_some(unused)}")
    for one, shape in wanted.items():
        if one in found and tuple(found[one].shape) != shape:
            problems.append(f"{one} has shape {tuple(found[one].shape)}, config.json makes it {shape}")
    if other := [one for one in wanted if one in found and found[one].dtype not in FLOATING]:
        problems.append(
            f"{other[0]} is stored as {found[other[0]].dtype}, which is no dtype of weights (known: {', '.join(sorted(FLOATING))})"
        )
    if problems:
        shown = "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")
        raise ModelError(f"the weights of {name} do not fit its config.json: {shown}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
