"""Tensors that hold all experts of a layer, taken apart: see `Stack`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import count, takewhile
from typing import TYPE_CHECKING

from ..spec.names import Stack

if TYPE_CHECKING:
    import torch

    from .formats.values import QuantizedWeight


def names_of(stack: Stack, prefix: str, wanted: Collection[str]) -> tuple[str, ...]:
    """Our names of what is in a tensor, expert by expert; as many experts as are wanted, which may be none."""
    every = (prefix + piece.format(expert) for expert in count() for piece in stack.pieces)
    return tuple(takewhile(lambda name: name in wanted, every))


def known(stack: Stack, shape: tuple[int, ...], hidden_size: int) -> Stack:
    """The same with no doubt about which dimension of a tensor is which: one is the model's features, the inputs of gate and up and
    the outputs of down."""
    if stack.transposed is not None:
        return stack
    return replace(stack, transposed=len(shape) == 3 and shape[2 if len(stack.pieces) > 1 else 1] != hidden_size)


def shape_of(stack: Stack, pieces: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each of so many pieces; what does not divide stays as it is, for the check of shapes."""
    experts, parts = pieces // len(stack.pieces), len(stack.pieces)
    features: tuple[int, ...]
    if len(shape) == 3:
        features = shape[:0:-1] if stack.transposed else shape[1:]
    elif len(shape) == 2 and _is_bias(stack):
        features = shape[1:]
    else:  # quantized: experts are below each other
        features = (shape[0] // max(experts, 1), *shape[1:])
    whole = shape[0] % max(experts, 1) == 0 if len(shape) == 2 and not _is_bias(stack) else shape[0] == experts
    return (features[0] // parts, *features[1:]) if whole and features[0] % parts == 0 else shape


def parts_of(stack: Stack, pieces: int, tensor: torch.Tensor | QuantizedWeight) -> Iterator[torch.Tensor | QuantizedWeight]:
    """The pieces, in the order of their names."""
    import torch

    from .formats.coded import Coded

    parts, experts = len(stack.pieces), pieces // len(stack.pieces)
    if isinstance(tensor, torch.Tensor) and (tensor.dim() == 3 or _is_bias(stack)):
        for expert in tensor:
            rows = expert.t() if stack.transposed and expert.dim() == 2 else expert
            size = rows.shape[0] // parts
            for part in range(parts):
                yield (rows[part::parts] if stack.interleaved else rows[part * size : (part + 1) * size]).contiguous()
        return
    rows_each = tensor.shape[0] // experts
    size = rows_each // parts
    for start in range(0, tensor.shape[0], rows_each):
        own = tensor[start : start + rows_each] if isinstance(tensor, torch.Tensor) else tensor.rows(start, start + rows_each)
        for part in range(parts):
            first, step = (part, parts) if stack.interleaved else (part * size, 1)
            order = torch.arange(first, first + size * step, step)
            piece = own[order] if isinstance(own, torch.Tensor) else own.reordered(order)
            yield (piece.in_groups() or piece) if isinstance(piece, Coded) else piece  # packed in a form that is multiplied so


def _is_bias(stack: Stack) -> bool:
    return stack.pieces[0].endswith(".bias")
