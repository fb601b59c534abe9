"""A checkpoint seen under other tensor names: with or without a prefix, in an older spelling, without heads nobody asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..spec.model_spec import StackSpec
from ..spec.names import Naming
from .source import ModelSource, TensorInfo

if TYPE_CHECKING:
    import torch

    from .cut import Cut
    from .formats.values import QuantizedWeight

#: Heads for other tasks, and buffers, by how their names begin once the base model's prefix is off. A base model alone needs none.
OTHER_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "score.", "head.", "decoder.", "qa_outputs.", "pre_classifier.")
BUFFERS = ("position_ids", "token_type_ids")


def fit(source: ModelSource, stack: StackSpec, wanted: Collection[str], *, whole: bool) -> RenamedSource:
    """The checkpoint by the names in `wanted`. What fits none of them keeps its name, for the loader to complain of.

    Args:
        whole: the model with the head that writes; else heads that are not wanted are left out.
    """
    naming, found = stack.naming, source.tensors()
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in found if name in wanted}
    taken = set(names)
    for name in found:
        if name in names or name.endswith(naming.buffers):
            continue
        pieces = _ours(naming, name, wanted)
        if pieces is None or not taken.isdisjoint(pieces):  # fits nothing, or is twice in one checkpoint
            names[name] = (name,)
            if pieces is None and not whole and _of_another_head(naming, name):
                del names[name]
            continue
        names[name] = pieces
        taken.update(pieces)
    embedding, head = f"{stack.names.words}.weight", f"{stack.names.head}.weight"
    if stack.tie_embeddings and embedding not in taken and head in found:  # the one weight under the head's name
        names[head] = (embedding,)
    return RenamedSource(source.name, source.path, source, names, frozenset(name for name in found if name.endswith(naming.transposed)))


def untied(stack: StackSpec, source: ModelSource) -> StackSpec:
    """Without its tie where the checkpoint has both weights: each is then used for what it is, as in transformers."""
    both = {_bare(stack.naming, f"{name}.weight") for name in (stack.names.words, stack.names.head)}
    found = {_bare(stack.naming, name) for name in source.tensors()} if stack.tie_embeddings else set()
    return replace(stack, tie_embeddings=False) if stack.tie_embeddings and both <= found else stack


def _ours(naming: Naming, name: str, wanted: Collection[str]) -> tuple[str, ...] | None:
    """Our names of a tensor's pieces; None: it fits nothing."""
    bare = _bare(naming, name)
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"), *naming.renames.items()):
        bare = bare.replace(old, new)
    fused = next((part for part in naming.splits if part in bare), None)
    pieces = tuple(bare.replace(fused, new) for new in naming.splits[fused]) if fused else (bare,)
    for prefix in ("", *naming.prefixes):
        if all(prefix + piece in wanted for piece in pieces):
            return tuple(prefix + piece for piece in pieces)
    return None


def _of_another_head(naming: Naming, name: str) -> bool:
    bare = _bare(naming, name)
    return bare.startswith(OTHER_HEADS) or bare.endswith(BUFFERS)


def _bare(naming: Naming, name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in naming.prefixes if name.startswith(prefix)), name)


@dataclass(frozen=True)
class RenamedSource(ModelSource):
    """`source` with its tensors under the names that `names` gives; several for one: its equal pieces by rows. Others are left out.

    Of `transposed`, by the source's names, rows are columns there.
    """

    source: ModelSource
    names: Mapping[str, tuple[str, ...]]
    transposed: frozenset[str] = frozenset()

    def read(self, filename: str) -> bytes | None:
        return self.source.read(filename)

    @property
    def scheme(self) -> str:
        return self.source.scheme

    @property
    def has_weights(self) -> bool:
        return self.source.has_weights

    def tensors(self) -> dict[str, TensorInfo]:
        infos = {}
        for name, info in self.source.tensors().items():
            pieces = self.names.get(name, ())
            whole = info.shape[::-1] if name in self.transposed else info.shape
            for piece in pieces:
                shape = whole if len(pieces) == 1 else (whole[0] // len(pieces), *whole[1:])
                infos[piece] = replace(info, name=piece, shape=shape, group=1 if name in self.transposed else info.group)
        return infos

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        from .formats.values import as_tensor

        cuts = cuts or {}
        whole = {name: cuts[pieces[0]] for name, pieces in self.names.items() if len(pieces) == 1 and pieces[0] in cuts}
        theirs = {name: replace(cut, dim=1 - cut.dim) if name in self.transposed else cut for name, cut in whole.items()}
        for name, tensor in self.source.stream(theirs):
            pieces = self.names.get(name, ())
            if len(pieces) == 1:
                yield pieces[0], as_tensor(tensor).t().contiguous() if name in self.transposed else tensor
            elif pieces:
                whole_tensor = as_tensor(tensor).t().contiguous() if name in self.transposed else as_tensor(tensor)
                for piece, part in zip(pieces, whole_tensor.chunk(len(pieces)), strict=True):
                    yield piece, cuts[piece].of(part) if piece in cuts else part
                del whole_tensor
            del tensor  # or it would stay while the next one is read
