"""Rows that go into the modules of a model of transformers and come out of them, in a forward pass of one row of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

#: By a module's name and the number of its call: rows [N, F] that went in, if any did, and that came out.
Rows = dict[tuple[str, int], tuple[Tensor | None, Tensor]]


@contextmanager
def traced(body: nn.Module, rows: slice, count: int) -> Iterator[Rows]:
    """Gives these rows of a step's `count`, of each module whose output has one for each token.

    Modules with experts inside are left out: rounding alone may choose others.
    """
    found: Rows = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            left = _of_tokens(output if isinstance(output, (tuple, list)) else (output,), count)
            if left is None:
                return
            entered = _of_tokens((*args, *kwargs.values()), count)
            number = sum(1 for known, _ in found if known == name)
            found[name, number] = (None if entered is None else _cut(entered, rows), _cut(left, rows))

        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    for name, module in body.named_modules():
        if name and not any("expert" in part.lower() or hasattr(one, "num_experts") for part, one in module.named_modules()):
            watch(name, module)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of_tokens(values: tuple[Any, ...] | list[Any], count: int) -> Tensor | None:
    """The first floating tensor [1, N, ...] or [N, F] among values, as [N, ...]."""
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            if value.dim() > 2 and value.shape[:2] == (1, count):
                return value[0]
            if value.dim() == 2 and value.shape[0] == count:
                return value
    return None


def _cut(tensor: Tensor, rows: slice) -> Tensor:
    return tensor[rows].flatten(1).clone()
