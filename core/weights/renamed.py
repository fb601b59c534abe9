"""A checkpoint seen under other tensor names: with or without a prefix, in an older spelling, without heads nobody asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .source import ModelSource, TensorInfo

if TYPE_CHECKING:
    import torch

    from .cut import Cut

#: Heads for other tasks, and buffers, by how their names begin once the base model's prefix is off. A base model alone needs none.
OTHER_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "score.", "head.", "decoder.", "qa_outputs.", "pre_classifier.")
BUFFERS = ("position_ids", "token_type_ids")


@dataclass(frozen=True)
class Naming:
    """How the checkpoints of a family differ from the names our model asks for.

    Args:
        prefixes: of the base model's tensors ("bert."); ours may have one too, which is then not in every file.
        renames: parts of a name and what they are to us, applied in order. Suffixes of old checkpoints (LayerNorm.gamma) are known.
        splits: parts of a name of fused tensors -> what to put there for each of its equal pieces, along the first dimension.
    """

    prefixes: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fit(self, source: ModelSource, wanted: Collection[str]) -> RenamedSource:
        """The checkpoint by the names in `wanted`. What fits none of them keeps its name, for the loader to complain of, or is left
        out if it belongs to a head that is not wanted."""
        found = source.tensors()
        names: dict[str, tuple[str, ...]] = {name: (name,) for name in found if name in wanted}
        taken = set(names)
        for name in found:
            if name in names:
                continue
            pieces = self._ours(name, wanted)
            if pieces is None:
                continue
            if taken.isdisjoint(pieces):
                names[name] = pieces
                taken.update(pieces)
            else:  # twice in one checkpoint
                names[name] = (name,)
        return RenamedSource(source.name, source.path, source, names)

    def _ours(self, name: str, wanted: Collection[str]) -> tuple[str, ...] | None:
        """Our names of a tensor's pieces; None: it is not needed."""
        bare = self._bare(name)
        for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"), *self.renames.items()):
            bare = bare.replace(old, new)
        fused = next((part for part in self.splits if part in bare), None)
        pieces = tuple(bare.replace(fused, new) for new in self.splits[fused]) if fused else (bare,)
        for prefix in ("", *self.prefixes):
            if all(prefix + piece in wanted for piece in pieces):
                return tuple(prefix + piece for piece in pieces)
        return None if bare.startswith(OTHER_HEADS) or bare.endswith(BUFFERS) else (name,)

    def _bare(self, name: str) -> str:
        return next((name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix)), name)


@dataclass(frozen=True)
class RenamedSource(ModelSource):
    """`source` with its tensors under the names that `names` gives; several for one: its equal pieces by rows. Others are left out."""

    source: ModelSource
    names: Mapping[str, tuple[str, ...]]

    def read(self, filename: str) -> bytes | None:
        return self.source.read(filename)

    @property
    def has_weights(self) -> bool:
        return self.source.has_weights

    def tensors(self) -> dict[str, TensorInfo]:
        infos = {}
        for name, info in self.source.tensors().items():
            pieces = self.names.get(name, ())
            for piece in pieces:
                shape = info.shape if len(pieces) == 1 else (info.shape[0] // len(pieces), *info.shape[1:])
                infos[piece] = replace(info, name=piece, shape=shape)
        return infos

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        cuts = cuts or {}
        theirs = {name: cuts[pieces[0]] for name, pieces in self.names.items() if len(pieces) == 1 and pieces[0] in cuts}
        for name, tensor in self.source.stream(theirs):
            pieces = self.names.get(name, ())
            if len(pieces) == 1:
                yield pieces[0], tensor
            elif pieces:
                for piece, part in zip(pieces, tensor.chunk(len(pieces)), strict=True):
                    yield piece, cuts[piece].of(part) if piece in cuts else part
            del tensor  # or it would stay while the next one is read
