"""The choice of a scheme for each layer, made before the model, so that each layer has its scheme before it has parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from infer.kernels.ops import Ops

from .base import LinearMethod
from .plain import Plain

#: From a layer's checkpoint prefix (of the first of those that are stacked; HEAD for the output head) to its scheme; None: plainly.
Choose = Callable[[str], LinearMethod | None]
#: Stands for the output head, whose weight may be the embedding's.
HEAD = "lm_head"

_choose: ContextVar[Choose | None] = ContextVar("choose", default=None)


@contextmanager
def choosing(choose: Choose | None) -> Iterator[None]:
    """Layers that are made within ask `choose`."""
    token = _choose.set(choose)
    try:
        yield
    finally:
        _choose.reset(token)


def chosen(ops: Ops, name: str) -> LinearMethod:
    """The scheme of a layer that is made now."""
    choose = _choose.get()
    return (choose(name) if choose is not None else None) or Plain(ops)
