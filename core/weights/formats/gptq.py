"""GPTQ: integers packed along the input features, with scales and zeros by groups, which need not be in order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import TensorInfo
from .base import FLOATS, Format, Layers, Stored, compiled, flag, whole

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

BITS = (2, 3, 4, 8)
#: What config.json calls the two meanings of stored zeros: one less than the zero, or the zero.
VERSIONS = {"gptq": 1, "gptq_v2": 0}
SUFFIXES = frozenset({".qweight", ".qzeros", ".scales", ".g_idx"})
_INTEGERS = frozenset({"I32", "U32"})


@dataclass(frozen=True)
class Gptq(Format):
    """
    Args:
        bits: of a code.
        group_size: input features with the same scale; None: all.
        ordered: group follows group along the input features where no `g_idx` says which each feature is in; else there must be one.
        zero_added: to a stored zero.
    """

    bits: int
    group_size: int | None
    ordered: bool
    zero_added: int

    name = "GPTQ"
    main = ".qweight"

    @property
    def label(self) -> str:
        return f"{self.bits} bits, " + ("whole columns" if self.group_size is None else f"groups of {self.group_size}")

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or main.shape[0] * 32 % self.bits or not all(main.shape):
            raise self.shape_error(main)
        return main.shape[1], main.shape[0] * 32 // self.bits

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        groups = -(-in_features // (self.group_size or in_features))
        return {
            ".qweight": Stored((in_features * self.bits // 32, out_features), _INTEGERS),
            ".qzeros": Stored((groups, -(-out_features * self.bits // 32)), _INTEGERS),
            ".scales": Stored((groups, out_features), FLOATS),
            ".g_idx": Stored((in_features,), _INTEGERS | {"I64"}),
        }

    def group(self, in_features: int) -> int:
        return self.group_size if self.ordered and self.group_size else 1

    def optional(self) -> frozenset[str]:
        return frozenset({".g_idx"}) if self.ordered else frozenset()

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from .bits import unpack
        from .values import Grouped

        columns = tensors[".qweight"].view(torch.int32).t().contiguous()
        codes = unpack(columns, self.bits, in_features)
        scale = tensors[".scales"].t().contiguous()
        zero = (unpack(tensors[".qzeros"].view(torch.int32), self.bits, out_features) + self.zero_added) & ((1 << self.bits) - 1)
        zero = zero.t().contiguous()
        size = self.group_size or in_features
        order = None
        index = tensors.get(".g_idx")
        # It counts whatever desc_act says, as in GPTQModel; all zeros are what some tools write that need none.
        if index is not None and (bool(index.any()) or not self.ordered):
            index = index.long()
            if int(index.min()) < 0 or int(index.max()) >= scale.shape[1]:
                raise ModelError(f"a g_idx names groups from {int(index.min())} to {int(index.max())}; there are {scale.shape[1]}")
            if not torch.equal(index, torch.arange(in_features) // size):
                order = index.argsort(stable=True)
                counts = index.bincount(minlength=scale.shape[1])
                if not torch.equal(index[order], torch.arange(in_features) // size):
                    return _uneven(codes[:, order], self.bits, scale, zero, order, counts)
                codes = codes[:, order]
        return Grouped.of(codes, self.bits, size, scale, zero, order)


def _uneven(codes: Tensor, bits: int, scale: Tensor, zero: Tensor, order: Tensor, counts: Tensor) -> QuantizedWeight:
    """Groups of different sizes, as a group a feature."""
    from .values import Grouped

    return Grouped.of(codes, bits, 1, scale.repeat_interleave(counts, 1), zero.repeat_interleave(counts, 1), order)


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` gptq."""
    version = config.get("checkpoint_format") or "gptq"
    if not isinstance(version, str) or version not in VERSIONS:
        raise ModelError(f"quantized by GPTQ in the format {version!r}, which is not supported (known: {', '.join(VERSIONS)})")
    usual = _format(config, {}, version)
    rules: list[tuple[re.Pattern[str], Format | None]] = []
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping) or not all(isinstance(changes, Mapping) for changes in dynamic.values()):
        raise ModelError(f"config.json: quantization_config.dynamic is not an object of objects: {dynamic!r}")
    for pattern, changes in dynamic.items():
        if pattern.startswith("-:"):
            rules.append((compiled(pattern[2:]), None))
        else:
            rules.append((compiled(pattern.removeprefix("+:")), _format(config, changes, version)))

    def choose(layer: str) -> Format | None:
        return next((found for pattern, found in rules if pattern.match(layer)), usual)

    return Layers("gptq", choose, SUFFIXES, f"gptq, {usual.label}")


def _format(config: Mapping[str, Any], changes: Mapping[str, Any], version: str) -> Gptq:
    merged = {**config, **changes}
    size = whole(merged, "group_size", 128, low=-1)
    if not size:
        raise ModelError("config.json: quantization_config.group_size is 0")
    ordered = not flag(merged, "desc_act", default=False)
    return Gptq(whole(merged, "bits", among=BITS), None if size < 0 else size, ordered, VERSIONS[version])
