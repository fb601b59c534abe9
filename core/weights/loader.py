"""From checkpoint to parameters: everything is checked by name and shape before any memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from ..errors import ModelError
from .parameter import Parameter

if TYPE_CHECKING:
    from .source import ModelSource

#: Tensors some checkpoints carry that are computed, not learned.
COMPUTED = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
#: How many names an error message lists.
NAMED = 5


def load(
    parameters: Iterable[Parameter], source: ModelSource, dtype: torch.dtype, device: torch.device, *, ignore: frozenset[str] = frozenset()
) -> None:
    """Fills `parameters` from `source`. `ignore` names tensors that may be there without being used.

    Raises ModelError naming tensors that are missing, unexpected or of another shape.
    """
    parameters = list(parameters)
    places = {part.name: (parameter, part) for parameter in parameters for part in parameter.parts}
    found = source.tensors()
    unused = {name for name in found if name not in places and name not in ignore and not name.endswith(COMPUTED)}
    problems = []
    if missing := [name for name in places if name not in found]:
        problems.append(f"missing: {_some(missing)}")
    if unused:
        problems.append(f"unexpected: {_some(sorted(unused))}")
    for name, (_, part) in places.items():
        if name in found and tuple(found[name].shape) != part.shape:
            problems.append(f"{name} has shape {tuple(found[name].shape)}, config.json makes it {part.shape}")
    if problems:
        shown = "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")
        raise ModelError(f"the weights of {source.name} do not fit its config.json: {shown}")

    for parameter in parameters:
        parameter.allocate(dtype, device)
    for name, tensor in source.stream():
        if name in places:
            parameter, part = places[name]
            parameter.fill(part, tensor)


def load_dummy(parameters: Iterable[Parameter], dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> None:
    """Random weights of a size that keeps activations finite: matrices N(0, 1/fan-in), vectors 1 (norms) or 0 (biases)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.allocate(dtype, device)
        if len(parameter.shape) == 1:
            parameter.tensor.fill_(0.0 if parameter.parts[0].name.endswith("bias") else 1.0)
        else:
            values = torch.empty(parameter.shape).normal_(0, 1 / math.sqrt(parameter.shape[-1]), generator=generator)
            parameter.tensor.copy_(values)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
