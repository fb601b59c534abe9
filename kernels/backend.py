"""Backend: operations assembled from the functions that its modules define by the names of `Ops`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from .layer import LayerParts, WholeLayer
from .lora import LoRAOps
from .ops import AttentionConfig, DecodeLaunch, Ops
from .products import ProductOps
from .state import StateOps

#: The names of all operations.
OPERATIONS = tuple(
    name
    for part in (Ops, ProductOps, StateOps, LoRAOps)
    for name, value in vars(part).items()
    if callable(value) and not name.startswith("_")
)


class Backend(Ops):
    """
    Args (of a subclass):
        modules: where its operations are defined, but for those that are methods of its own.
        wrap: applied to each of those functions.
    """

    def __init_subclass__(
        cls, *, modules: tuple[ModuleType, ...] = (), wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda operation: operation
    ) -> None:
        for name in OPERATIONS:
            if getattr(cls, name) is not getattr(Ops, name):
                continue
            found = [*{vars(module)[name]: None for module in modules if callable(vars(module).get(name))}]
            if len(found) != 1:
                raise TypeError(f"backend {cls.name}: {len(found)} functions named {name}; one is needed")
            setattr(cls, name, staticmethod(wrap(found[0])))

    def __init__(self) -> None:
        self.row_chunk = 0
        self.deterministic = False

    def pack_halves(self, weight: Tensor) -> Any:
        """As any other weight."""
        return self.pack_weight(weight)

    def linear_gated(self, x: Tensor, weight: Any, bias: Tensor | None, kind: str) -> Tensor:
        """One after the other."""
        made = self.gated_activation(self.linear(x, weight, bias), kind)
        assert isinstance(made, Tensor), "asked for without quantization"
        return made

    def most_products(self, kind: str) -> tuple[float, float] | None:
        """A library's cannot be told."""
        return None

    def decode_launch(self, config: AttentionConfig) -> DecodeLaunch:
        """A GPU's."""
        return DecodeLaunch(0, joins=False)

    def whole_layer(self, parts: LayerParts) -> WholeLayer | None:
        """One operation after the other."""
        return None

    def any_rows(self, weight: Any) -> bool:
        """Libraries treat left-over rows differently."""
        return False
