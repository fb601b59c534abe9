"""Adapters in the layers of a model: each layer has the matrices of those that have some for it, by slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from infer.kernels.lora import LoRAPart
from infer.kernels.ops import Ops

from ..errors import AdapterError
from ..spec.stack import StackSpec
from ..weights.cut import Cut
from ..weights.formats.values import as_tensor
from .fit import Matrices, check_fit, takers
from .weights import AdapterWeights

#: A [rank, in] and B [out, rank] of one of our layers, float32.
Both = tuple[Tensor, Tensor]


class Layer(Protocol):
    """A linear layer, as far as adapters know it."""

    names: tuple[str, ...]
    """Checkpoint prefixes of what is stacked in it."""
    in_features: int
    out_features: int
    """Those of this rank."""
    starts: tuple[int, ...]
    """The first of this rank's output features of each."""
    cuts: Sequence[Cut] | None
    pairs: dict[int, Any]
    """What kernels have packed, by slot."""


class Words(Protocol):
    """The embedding, likewise."""

    cut: Cut | None
    pairs: dict[int, Any]

    @property
    def table(self) -> Tensor:
        """[vocabulary, size], or this rank's part."""

    def take_pair(self, slot: int, ops: Ops, a: Tensor, b: Tensor) -> None:
        """A [rank, vocabulary] and B [size, rank], in the model's dtype, of an adapter's slot."""


class Installed:
    """
    Args:
        layers: all linear layers but the head.
        head: what writes; None: it does not.
        words: the embedding; None: another stage of a pipeline has it.
        unread: see `check_fit`.
        dtype: the model's.
    """

    def __init__(
        self,
        stack: StackSpec,
        ops: Ops,
        layers: Iterable[Layer],
        head: Layer | None,
        words: Words | None,
        dtype: torch.dtype,
        device: torch.device,
        *,
        unread: bool = False,
    ) -> None:
        self._stack, self._ops, self._dtype, self._device = stack, ops, dtype, device
        self._words, self._writes, self._unread = words, head is not None, unread
        self._layers = [(layer, layer.names) for layer in layers if layer.names]
        if head is not None:
            self._layers.append((head, (stack.names.head,)))  # a tied one has the embedding's name

    def bytes_of(self, rank: int) -> int:
        """Memory of an adapter with pairs of this rank for all layers that may have some."""
        known = takers(self._stack, head=False)
        own = [layer for layer, names in self._layers if known.keys() & set(names)]
        return sum(rank * len(layer.names) * (layer.in_features + layer.out_features) for layer in own) * self._dtype.itemsize

    @torch.inference_mode()
    def put(self, slot: int, adapter: AdapterWeights) -> None:
        """Takes an adapter into a slot, in place of what was there. Raises AdapterError where it does not fit; the slot is as it was."""
        found = by_our_names(adapter, self._stack, head=self._writes, unread=self._unread)
        self._check_bases(adapter)
        self._check_range(adapter, found)
        packed = [self._pack(layer, names, found) for layer, names in self._layers]
        for (layer, _), one in zip(self._layers, packed, strict=True):
            layer.pairs.pop(slot, None)
            if one is not None:
                layer.pairs[slot] = one
        if self._words is None:
            return
        self._words.pairs.pop(slot, None)
        if (words := found.get(self._stack.names.words)) is not None:
            a, b = words
            self._words.take_pair(slot, self._ops, self._kept(a), self._kept(b))

    def _pack(self, layer: Layer, names: Sequence[str], found: Mapping[str, Both]) -> Any:
        columns: dict[int, int] = {}
        stacked: list[Tensor] = []
        parts: list[LoRAPart] = []
        for number, name in enumerate(names):
            if name not in found:
                continue
            a, b = found[name]
            cut = None if layer.cuts is None else layer.cuts[number]
            if id(a) not in columns:  # pieces of one layer of the adapter's have one A
                columns[id(a)] = sum(len(one) for one in stacked)
                stacked.append(a if cut is None or cut.dim == 0 else cut.of(a))
            own = b if cut is None or cut.dim == 1 else cut.of(b)
            parts.append(LoRAPart(self._kept(own), layer.starts[number], columns[id(a)]))
        return self._ops.pack_lora(self._kept(torch.cat(stacked)), parts) if parts else None

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype).contiguous()

    def _check_range(self, adapter: AdapterWeights, found: Mapping[str, Both]) -> None:
        """Whole matrices are looked at, so that all ranks take an adapter or none does."""
        largest = torch.finfo(self._dtype).max
        for layer, both in found.items():
            if any(matrix.abs().max() > largest for matrix in both):
                name = str(self._dtype).removeprefix("torch.")
                raise AdapterError(
                    f"adapter {adapter.config.path}: its pair for {layer}, with the scale, has numbers above {largest:g}, the largest of "
                    f"{name}; --dtype bfloat16 or float32 has room for them"
                )

    def _check_bases(self, adapter: AdapterWeights) -> None:
        """The embedding that an adapter's file has too is the model's own, or more was trained than its pairs."""
        if self._words is None:
            return
        table, cut = self._words.table, self._words.cut
        for layer, entry in adapter.config.bases.items():
            if not adapter.config.pairs[layer].of_embedding and not self._stack.tie_embeddings:
                continue  # a head of its own is packed, and not to be compared
            theirs = adapter.tensor(entry).to(table.dtype)
            if not torch.equal(theirs if cut is None else cut.of(theirs), table.cpu()):
                raise AdapterError(f"adapter {adapter.config.path} has a {layer} of its own that is not the model's; merge it with PEFT")


def by_our_names(adapter: AdapterWeights, stack: StackSpec, *, head: bool, unread: bool = False) -> dict[str, Both]:
    """The pairs by the names of our layers; those that were one layer of the adapter's share A."""
    config = adapter.config
    found = check_fit(config, stack, head=head, unread=unread)
    read = {layer: adapter.matrices(pair) for layer, pair in config.pairs.items() if f"{layer}.weight" in found.names}
    of_piece = {piece: name.removesuffix(".weight") for name, pieces in found.names.items() for piece in pieces}
    assert isinstance(found.source, Matrices)
    filled = replace(found, source=replace(found.source, values={layer: b for layer, (_, b) in read.items()}))
    return {name.removesuffix(".weight"): (read[of_piece[name]][0], as_tensor(matrix)) for name, matrix in filled.stream()}
