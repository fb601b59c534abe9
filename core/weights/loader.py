"""From checkpoint to parameters: everything is checked by name and shape before any memory is taken.

Tensors come one at a time and each parameter is finished (packed, quantized) when its last part is there, so that the
most memory held is that of the finished weights and one tensor more.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from .cut import Cut
from .fit import INVERSE_FREQUENCIES, compare
from .formats.values import as_tensor, cut_of
from .parameter import Parameter, Part

if TYPE_CHECKING:
    from .source import ModelSource

log = logging.getLogger(__name__)

#: Relative distance of frequencies that a checkpoint's dtype explains.
_FAR = 0.02


def load(
    parameters: Iterable[Parameter],
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    *,
    ignore: frozenset[str] = frozenset(),
    frequencies: torch.Tensor | None = None,
) -> None:
    """Fills those of `parameters` that are held from `source`.

    Args:
        ignore: names of tensors that may be there without being used.
        frequencies: what config.json makes of rotation, to compare with where the file has its own.

    Raises ModelError naming tensors that are missing, unexpected or of another shape.
    """
    places = _places(parameters)
    compare(source.name, {name: users[0][1].shape for name, users in places.items()}, source.tensors(), ignore=ignore)
    places = {name: held for name, users in places.items() if (held := [(one, part) for one, part in users if one.held])}
    cuts = {name: _common_cut(users) for name, users in places.items()}
    for name, tensor in source.stream({name: cut for name, cut in cuts.items() if cut is not None}):
        for parameter, part in places.get(name, ()):
            parameter.fill(part, tensor if part.cut == cuts[name] or part.cut is None else cut_of(tensor, part.cut), dtype, device)
        if frequencies is not None and name.endswith(INVERSE_FREQUENCIES):
            frequencies = _compared(frequencies, as_tensor(tensor), name, source)
        del tensor  # or it would stay while the next one is read


def _compared(frequencies: torch.Tensor, stored: torch.Tensor, name: str, source: ModelSource) -> torch.Tensor | None:
    """Says so if the file's frequencies are others than config.json's, once: None, there is no more to compare."""
    ours, theirs = frequencies.cpu(), stored.float().flatten()
    if ours.shape == theirs.shape and torch.allclose(theirs, ours, rtol=_FAR, atol=0):
        return frequencies
    log.warning("%s: %s has other frequencies than config.json makes; config.json's are used, as in transformers", source.name, name)
    return None


def load_dummy(parameters: Iterable[Parameter], dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> None:
    """Random weights of a size that keeps activations finite: matrices N(0, 1/fan-in), vectors 1 (norms) or 0 (biases)."""
    generator = torch.Generator().manual_seed(seed)
    for name, users in _places(parameters).items():
        shape = users[0][1].shape
        if len(shape) == 1:
            tensor = torch.full(shape, 0.0 if name.endswith("bias") else 1.0)
        else:
            tensor = torch.empty(shape).normal_(0, 1 / math.sqrt(shape[-1]), generator=generator)
        for parameter, part in users:
            if not parameter.held:  # its numbers are drawn all the same, or those of others would be other ones
                continue
            parameter.fill(part, tensor if part.cut is None else part.cut.of(tensor), dtype, device)


def _common_cut(users: list[tuple[Parameter, Part]]) -> Cut | None:
    """The part that all users of a tensor take of it, if it is the same; None: read it whole."""
    first = users[0][1].cut
    return first if all(part.cut == first for _, part in users) else None


def _places(parameters: Iterable[Parameter]) -> dict[str, list[tuple[Parameter, Part]]]:
    """Checkpoint name -> where the tensor goes: a tied embedding has two uses."""
    places = defaultdict(list)
    for parameter in parameters:
        for part in parameter.parts:
            places[part.name].append((parameter, part))
    return places
