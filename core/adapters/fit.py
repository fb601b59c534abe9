"""How an adapter fits a model: what of ours each of its pairs is for. No torch is imported with it.

Names in an adapter's file are those of the base model's checkpoint, and its layers may be several of ours, or several of its may be
stacked to one: they go the way that the checkpoint's own tensors go (weights/renamed.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AdapterError
from ..spec.distances import DisentangledSpec
from ..spec.stack import ExpertsSpec, MLPSpec, StackSpec
from ..spec.tensors import tensors
from ..weights.renamed import RenamedSource, fit
from ..weights.source import ModelSource, TensorInfo
from .adapter import AdapterConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ..weights.cut import Cut


@dataclass(frozen=True)
class Matrices(ModelSource):
    """The matrices B of an adapter's pairs as if they were the weights of their layers.

    Args:
        shapes: by layer.
        values: the same, when they are read.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Tensor] | None = None

    def read(self, filename: str) -> bytes | None:
        return None

    def tensors(self) -> dict[str, TensorInfo]:
        return {f"{layer}.weight": TensorInfo(f"{layer}.weight", shape, "F32", "") for layer, shape in self.shapes.items()}

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, Any]]:
        assert self.values is not None, "matrices that are read"
        for layer, matrix in self.values.items():
            yield f"{layer}.weight", matrix


def takers(stack: StackSpec, *, head: bool) -> dict[str, tuple[int, int]]:
    """Our names of the layers that may have a pair, and (out, in) features of each: linear layers of attention, of feed-forward parts and
    of experts for all tokens, projections of embeddings, the embedding itself (size, vocabulary) and, with `head`, what writes."""
    names = stack.names
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensors(replace(stack, tie_embeddings=False), head=head).items()}
    wanted = [names.embedding_projection, names.output_projection, names.head if head else ""]
    for index, layer in enumerate(stack.layers):
        prefix, own = names.layer.format(index), []
        if layer.attention is not None:
            # Where distances go through the same layers as tokens, their queries and keys would be others with every adapter.
            queries = [] if isinstance(stack.relative, DisentangledSpec) else [*names.qkv[: layer.attention.parts]]
            own += [*queries, names.gate, names.q_up, names.attention_out]
        if isinstance(layer.feed_forward, MLPSpec):
            own += [*names.up, names.down]
        elif isinstance(layer.feed_forward, ExpertsSpec) and layer.feed_forward.shared is not None:
            own += [*names.shared_up, names.shared_down]
        wanted += [f"{prefix}.{name}" for name in own if name]
    found = {name: shapes[name] for name in wanted if name in shapes}
    rows, features = shapes[names.words]
    return {name: (shape[0], shape[1]) for name, shape in found.items()} | {names.words: (features, rows)}


def check_fit(config: AdapterConfig, stack: StackSpec, *, head: bool = True, unread: bool = False) -> RenamedSource:
    """Our names of the adapter's pairs, with their matrices B to be had by them.

    Args:
        head: of a model that writes.
        unread: heads and poolers are not read, and so their pairs are not either.

    Raises AdapterError naming a pair that is for no layer of the model, for one that cannot have any here, or of another shape.
    """
    known = takers(stack, head=head)
    source = Matrices("adapter", Path(config.path), {layer: pair.b.info.shape for layer, pair in config.pairs.items()})
    # A tied head is a layer of its own to an adapter.
    found = fit(source, replace(stack, tie_embeddings=False), {f"{name}.weight" for name in known}, whole=not unread)
    found = replace(found, transposed=frozenset())  # of an adapter's matrices none is
    rows = {name.removesuffix(".weight"): info.shape[0] for name, info in found.tensors().items()}
    fitted: dict[str, tuple[str, ...]] = {}
    for layer, pair in config.pairs.items():
        pieces = tuple(name.removesuffix(".weight") for name in found.names.get(f"{layer}.weight", ()))
        if unread and not pieces:
            continue
        if not pieces or any(piece not in known for piece in pieces):
            raise _no_place(config, layer, stack)
        if pair.of_embedding != (pieces == (stack.names.words,)):
            kind = "an embedding" if pair.of_embedding else "a linear layer"
            raise AdapterError(f"adapter {config.path}: its pair for {layer} is that of {kind}, which the model has not there")
        want = sum(known[piece][0] for piece in pieces), known[pieces[0]][1]
        if pair.features != want or any(rows[piece] != known[piece][0] for piece in pieces):
            raise AdapterError(
                f"adapter {config.path}: its pair for {layer} is of (out, in) {pair.features}, and the layer of {want}: it was made for "
                f"another model{'' if config.base_model is None else f' ({config.base_model})'}"
            )
        fitted[f"{layer}.weight"] = found.names[f"{layer}.weight"]
    for layer, entry in config.bases.items():
        pieces = found.names.get(f"{layer}.weight", ())
        name = pieces[0].removesuffix(".weight") if len(pieces) == 1 else ""
        if (
            layer not in config.pairs
            or name not in (stack.names.words, stack.names.head)
            or (name in known and entry.info.shape != known[name][:: -1 if name == stack.names.words else 1])
        ):
            raise AdapterError(
                f"adapter {config.path} has a {layer} of its own, of shape {list(entry.info.shape)}; merge it into the model with PEFT"
            )
    return replace(found, names=fitted)


def _no_place(config: AdapterConfig, layer: str, stack: StackSpec) -> AdapterError:
    names = stack.names
    experts = [name.partition("{}")[0] for name in (*names.expert_up, names.expert_down, names.router) if name]
    if any(name.rstrip(".") in layer for name in experts):
        return AdapterError(f"adapter {config.path} has a pair for {layer}: adapters of experts and their routers are not supported")
    if names.mixer and f".{names.mixer}." in f"{layer}.":
        return AdapterError(f"adapter {config.path} has a pair for {layer}: adapters of layers that keep states are not supported")
    made_for = "" if config.base_model is None else f"; it was made for {config.base_model}"
    return AdapterError(f"adapter {config.path} has a pair for {layer}, a layer that the model does not have or that takes none{made_for}")
