"""A checkpoint with an adapter added to its weights: W + scale * B A, summed in float32 and rounded, or quantized, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..spec.stack import StackSpec
from ..weights.cut import Cut
from ..weights.formats.values import as_tensor
from ..weights.source import ModelSource, TensorInfo
from .books import stamped
from .installed import Both, by_our_names
from .weights import AdapterWeights

if TYPE_CHECKING:
    from ..weights.formats.values import QuantizedWeight


@dataclass(frozen=True)
class Merged(ModelSource):
    """`source` by our names, see `renamed.fit`.

    Args:
        matrices: by our names of layers.
        words: name of the embedding, whose matrices are the other way round.
        head: name of what writes, where it is tied in the checkpoint and not in the model: its weight is the embedding's.
    """

    source: ModelSource
    matrices: Mapping[str, Both]
    words: str
    head: str = ""

    def read(self, filename: str) -> bytes | None:
        return self.source.read(filename)

    def tensors(self) -> dict[str, TensorInfo]:
        found = self.source.tensors()
        if self.head:
            found[f"{self.head}.weight"] = replace(found[f"{self.words}.weight"], name=f"{self.head}.weight")
        return found

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        cuts = cuts or {}
        for name, tensor in self.source.stream(cuts):
            layer = name.removesuffix(".weight")
            if self.head and layer == self.words:  # ranks share both alike
                yield f"{self.head}.weight", self._sum(self.head, as_tensor(tensor), cuts.get(name))
            yield name, self._sum(layer, tensor, cuts.get(name))

    def _sum(self, layer: str, tensor: torch.Tensor | QuantizedWeight, cut: Cut | None) -> torch.Tensor | QuantizedWeight:
        if layer not in self.matrices:
            return tensor
        a, b = self.matrices[layer]
        left, right = (a.t(), b.t()) if layer == self.words else (b, a)
        if cut is not None:
            left, right = (cut.of(left), right) if cut.dim == 0 else (left, cut.of(right))
        return as_tensor(tensor).float() + left @ right


def adapter_to_merge(path: str) -> AdapterWeights:
    """The adapter in a folder, of any rank. Raises AdapterError."""
    return AdapterWeights.read(stamped(path), None)


def unties(adapter: AdapterWeights, stack: StackSpec) -> bool:
    """True if the embedding and the head, which are one in the model, are two once it is merged."""
    if not stack.tie_embeddings:
        return False
    both = by_our_names(adapter, stack, head=True)
    return stack.names.words in both or stack.names.head in both


def merged(source: ModelSource, stack: StackSpec, adapter: AdapterWeights, *, head: bool) -> Merged:
    """
    Args:
        source: by our names.
        stack: the model's, without its tie where `unties`.
        head: of a model that writes.

    Raises AdapterError where the adapter does not fit the model.
    """
    names, found = stack.names, source.tensors()
    own_head = head and not stack.tie_embeddings and f"{names.head}.weight" not in found
    return Merged(source.name, source.path, source, by_our_names(adapter, stack, head=head), names.words, names.head if own_head else "")
