"""Weights of small integers with scales by groups of input features, as checkpoints of 4 and 8 bits hold them: their data and arithmetic.

Feature i of output row o means `(level - zero[o, g]) * scale[o, g] + minimum[o, g]`, where g = i // group_size and the level is the code
itself or what it stands for in a table; each operation is rounded to float32.

Such a weight is multiplied by rows in their own dtype, or by rows that are quantized as they come: int8, with one factor a token and
*span* of input features (see `steps`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

#: Input features that share a factor of quantized rows, at most. Rounding rows costs outputs 0.65 % of their size then, and 2.3 % where a
#: few features are 50 times larger (with one factor a row 0.82 and 6.8 %). With 32 features it is 0.54 and 1.2 %, for an eighth of the
#: speed where the weight's groups are of 32, and a quarter where they are longer. 4 bits of weights cost 10 %, 8 bits 0.5 %.
SPAN = 128


class Scales(NamedTuple):
    """Factors [out, groups], kept as a checkpoint has them: `values`, or `values * factor` in float32 where blocks of groups have one."""

    values: Tensor
    """[out, groups], float32, float16 or bfloat16; or uint8 or int8"""
    factor: Tensor | None = None
    """[out, ceil(groups / per_block)], float32, float16 or bfloat16"""
    per_block: int = 1
    """Groups that share an element of `factor`."""

    def widened(self) -> Tensor:
        """float32 [out, groups]"""
        values = self.values.float()
        if self.factor is None:
            return values
        return values * self.factor.float().repeat_interleave(self.per_block, -1)[:, : values.shape[1]]


class GroupedWeight(NamedTuple):
    """A weight [out, in]; the last group may be shorter than the others."""

    codes: Tensor
    """uint8 [out, in], below 2^bits"""
    bits: int
    """4 or 8: what a code takes in memory."""
    group_size: int
    """Input features of a group; those of the whole row or more: one group."""
    scale: Scales
    zero: Tensor | None = None
    """uint8 [out, groups]. None: 0 with `levels`, else 2^(bits - 1), as symmetric codes have it."""
    minimum: Scales | None = None
    """Added to each feature of a group."""
    levels: Tensor | None = None
    """int8 [16]: what 4-bit codes stand for."""

    @property
    def groups(self) -> int:
        return -(-self.codes.shape[1] // self.group_size)

    def signed(self) -> Tensor:
        """int16 [out, in]: level - zero."""
        levels = self.codes.to(torch.int16) if self.levels is None else self.levels.to(torch.int16)[self.codes.long()]
        if self.zero is None:
            return levels if self.levels is not None else levels - (1 << self.bits - 1)
        return levels - by_feature(self.zero.to(torch.int16), self)


class Step(NamedTuple):
    """Input features [start, stop): the products of one step are summed in integers."""

    start: int
    stop: int
    group: int
    span: int


def steps(in_features: int, group_size: int) -> Iterator[Step]:
    """The steps of a row: each lies in one group of the weight and in one span of the rows.

    A span is as many whole groups as SPAN features hold or, of groups longer than that, SPAN features from the group's start on.
    """
    groups_of_span = max(1, SPAN // group_size)
    span = -1
    for group, start in enumerate(range(0, in_features, group_size)):
        end = min(start + group_size, in_features)
        for part in range(start, end, SPAN):
            span += group_size > SPAN or group % groups_of_span == 0
            yield Step(part, min(part + SPAN, end), group, span)


def by_feature(values: Tensor, weight: GroupedWeight) -> Tensor:
    """Values [out, groups] repeated for each feature: [out, in]."""
    return values.repeat_interleave(weight.group_size, -1)[:, : weight.codes.shape[1]] if weight.groups > 1 else values


def malformed(weight: GroupedWeight) -> str:
    """The fault in a weight's shapes or dtypes, or nothing. Codes are not looked at."""
    out, groups = weight.codes.shape[0], weight.groups
    if weight.bits not in (4, 8):
        return f"codes of {weight.bits} bits; 4 and 8 are stored"
    if weight.levels is not None and (weight.bits != 4 or weight.levels.dtype != torch.int8 or weight.levels.shape != (16,)):
        return "a table of levels is 16 of int8, for codes of 4 bits"
    if weight.codes.dtype != torch.uint8 or (weight.zero is not None and weight.zero.dtype != torch.uint8):
        return "codes and zeros are uint8"
    tensors = {"zero": weight.zero, "scale": weight.scale.values, "minimum": weight.minimum.values if weight.minimum else None}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != (out, groups):
            return f"{name} is {[*tensor.shape]}; {[out, groups]} is right for {[*weight.codes.shape]} in groups of {weight.group_size}"
    floats = (torch.float32, torch.float16, torch.bfloat16)
    for name, scales in {"scale": weight.scale, "minimum": weight.minimum}.items():
        if scales is None:
            continue
        if scales.values.dtype not in (*floats, *((torch.uint8, torch.int8) if scales.factor is not None else ())):
            return f"{name} is of {scales.values.dtype}"
        blocks = -(-groups // scales.per_block)
        if scales.factor is not None and (scales.factor.shape != (out, blocks) or scales.factor.dtype not in floats):
            return f"{name}'s factor is {scales.factor.dtype} {[*scales.factor.shape]}; floating {[out, blocks]} is right"
    return ""
