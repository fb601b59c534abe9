"""A checkpoint seen under other tensor names: with or without a prefix, in an older spelling, without heads nobody asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..spec.names import Naming, Split, Stack
from ..spec.stack import StackSpec
from .source import ModelSource, TensorInfo
from .stacks import known, names_of, parts_of, shape_of

if TYPE_CHECKING:
    import torch

    from .cut import Cut
    from .formats.values import QuantizedWeight

#: Heads for other tasks, and buffers, by how their names begin once the base model's prefix is off. A base model alone needs none.
OTHER_HEADS = (
    *("pooler.", "cls.", "lm_head.", "embed_out.", "classifier.", "score.", "head.", "decoder.", "qa_outputs.", "pre_classifier."),
    *("predictions.", "sop_classifier.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "sequence_summary."),
    *("generator_predictions.", "generator_lm_head.", "discriminator_predictions.", "lm_predictions.", "mask_predictions.", "linear."),
)
BUFFERS = ("position_ids", "token_type_ids")


def fit(source: ModelSource, stack: StackSpec, wanted: Collection[str], *, whole: bool) -> RenamedSource:
    """The checkpoint by the names in `wanted`. What fits none of them keeps its name, for the loader to complain of.

    Args:
        whole: the model with the head that writes; else heads that are not wanted are left out.
    """
    naming, found = stack.naming, source.tensors()
    splits: dict[str, Split | Stack] = {}
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in found if name in wanted}
    taken = set(names)
    for name in found:
        if name in names or name.endswith(naming.buffers) or name.startswith(naming.media + naming.unused):
            continue
        if naming.unused and _bare(naming, name).startswith(naming.unused):
            continue
        pieces, split = _ours(naming, name, wanted)
        if pieces is None or not taken.isdisjoint(pieces):  # fits nothing, or is twice in one checkpoint
            names[name] = (name,)
            if pieces is None and not whole and _of_another_head(naming, name):
                del names[name]
            continue
        names[name] = pieces
        taken.update(pieces)
        if split is not None:
            splits[name] = known(split, found[name].shape, stack.hidden_size) if isinstance(split, Stack) else split
    embedding, head = f"{stack.names.words}.weight", f"{stack.names.head}.weight"
    if stack.tie_embeddings and embedding not in taken and head in found:  # the one weight under the head's name
        names[head] = (embedding,)
    transposed = frozenset(name for name in found if name.endswith(naming.transposed))
    return RenamedSource(source.name, source.path, source, names, transposed, splits, _turned_by_neighbours(stack))


def beginning(beginnings: tuple[str, ...], source: ModelSource) -> int:
    """The number of tensors whose names in the files begin so: of those that `Naming` leaves out."""
    return sum(name.startswith(beginnings) for name in source.tensors()) if beginnings else 0


def untied(stack: StackSpec, source: ModelSource) -> StackSpec:
    """Without its tie where the checkpoint has both weights: each is then used for what it is, as in transformers."""
    both = {_bare(stack.naming, f"{name}.weight") for name in (stack.names.words, stack.names.head)}
    found = {_bare(stack.naming, name) for name in source.tensors()} if stack.tie_embeddings else set()
    return replace(stack, tie_embeddings=False) if stack.tie_embeddings and both <= found else stack


def as_stored(stack: StackSpec, source: ModelSource) -> StackSpec:
    """Without its tie where the checkpoint has both weights (`untied`), and without a bias of logits that it does not have."""
    if stack.logits_bias and stack.names.logits_bias not in source.tensors():
        stack = replace(stack, logits_bias=False)
    return untied(stack, source)


def _ours(naming: Naming, name: str, wanted: Collection[str]) -> tuple[tuple[str, ...] | None, Split | Stack | None]:
    """Our names of a tensor's pieces, and how it is split; None: it fits nothing, it is one."""
    bare = _bare(naming, name)
    if (end := next((end for end in naming.stacks if bare.endswith(end)), None)) is not None:
        stack = naming.stacks[end]
        for prefix in ("", *naming.prefixes):
            if found := names_of(stack, prefix + bare.removesuffix(end), wanted):
                return found, stack
    fused = next((part for part in naming.splits if part in bare), None)
    split = naming.splits[fused] if fused else None
    pieces = tuple(bare.replace(fused, new) for new in split.pieces) if split is not None and fused else (bare,)
    for prefix in ("", *naming.prefixes):
        if all(prefix + piece in wanted for piece in pieces):
            return tuple(prefix + piece for piece in pieces), split
    return None, None


class Turned(NamedTuple):
    """Heads of `dim` features, of which those from `first` to `stop` turn with their neighbours."""

    dim: int
    first: int
    stop: int

    def order(self) -> torch.Tensor:
        """int64 [dim]: a head's features, those that turn as two halves."""
        import torch

        head, first, stop = torch.arange(self.dim), self.first, self.stop
        return torch.cat([head[:first], head[first:stop:2], head[first + 1 : stop : 2], head[stop:]])

    def rows(self, count: int) -> torch.Tensor:
        """int64 [count]: the same of as many rows, head by head."""
        import torch

        return (torch.arange(0, count, self.dim)[:, None] + self.order()).flatten()


def _turned_by_neighbours(stack: StackSpec) -> dict[str, Turned]:
    """Heads by our name of a tensor whose rows are to be put in another order, see `RopeConfig.interleaved`."""
    found: dict[str, Turned] = {}
    for index, layer in enumerate(stack.layers):
        spec, prefix = layer.attention, stack.names.layer.format(index)
        if spec is None or spec.rope is None or not spec.rope.interleaved:
            continue
        heads = dict.fromkeys(stack.names.qkv[:2], Turned(spec.head_dim, 0, spec.rope.rotary_dim))
        if latent := spec.latent:
            queries, dims = stack.names.qkv[0] if latent.query_rank is None else stack.names.q_up, (latent.nope_dim, latent.rank)
            heads = {
                name: Turned(dim + latent.rope_dim, dim, dim + latent.rope_dim)
                for name, dim in zip((queries, stack.names.qkv[1]), dims, strict=True)
            }
        found |= {f"{prefix}.{name}.{end}": head for name, head in heads.items() for end in ("weight", "bias")}
        for norm in (stack.names.q_norm, stack.names.k_norm) if spec.qk_norm is not None else ():
            names = [f"{prefix}.{norm.format(head)}.weight" for head in range(spec.num_heads if "{}" in norm else 1)]
            found |= dict.fromkeys(names, Turned(spec.head_dim, 0, spec.rope.rotary_dim))
    return found


def _of_another_head(naming: Naming, name: str) -> bool:
    bare = _bare(naming, name)
    return bare.startswith(OTHER_HEADS) or bare.endswith(BUFFERS)


def _bare(naming: Naming, name: str) -> str:
    """Without the base model's prefix, and in our spelling."""
    bare = next((name.removeprefix(prefix) for prefix in naming.prefixes if name.startswith(prefix)), name)
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"), *naming.renames.items()):
        bare = bare.replace(old, new)
    return bare


@dataclass(frozen=True)
class RenamedSource(ModelSource):
    """`source` with its tensors under the names that `names` gives; several for one: its pieces by rows. Others are left out.

    Of `transposed`, by the source's names, rows are columns there. `splits`, by the source's names: how pieces lie. `turned`, by the
    names given: the heads of those whose features turn with their neighbours.
    """

    source: ModelSource
    names: Mapping[str, tuple[str, ...]]
    transposed: frozenset[str] = frozenset()
    splits: Mapping[str, Split | Stack] = field(default_factory=dict)
    turned: Mapping[str, Turned] = field(default_factory=dict)

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
            split = self.splits.get(name)
            for number, piece in enumerate(pieces):
                if isinstance(split, Stack):
                    shape = shape_of(split, len(pieces), info.shape)
                else:
                    shape = whole if split is None else (_rows(split, number, whole[0]), *whole[1:])
                infos[piece] = replace(info, name=piece, shape=shape, group=1 if name in self.transposed else info.group)
        return infos

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        from .formats.values import as_tensor, cut_of

        cuts = cuts or {}
        whole = {name: cuts[pieces[0]] for name, pieces in self.names.items() if len(pieces) == 1 and pieces[0] in cuts}
        theirs = {name: replace(cut, dim=1 - cut.dim) if name in self.transposed else cut for name, cut in whole.items()}
        for name, tensor in self.source.stream(theirs):
            pieces = self.names.get(name, ())
            whole_tensor = as_tensor(tensor).t().contiguous() if pieces and name in self.transposed else tensor
            if len(pieces) == 1 and name not in self.splits:
                yield pieces[0], self._in_order(pieces[0], whole_tensor)
            elif pieces:
                split = self.splits[name]
                parts = parts_of(split, len(pieces), tensor) if isinstance(split, Stack) else _split(whole_tensor, split)
                for piece, part in zip(pieces, parts, strict=True):
                    yield piece, self._in_order(piece, cut_of(part, cuts[piece]) if piece in cuts else part)
            del tensor, whole_tensor  # or it would stay while the next one is read

    def _in_order(self, piece: str, tensor: torch.Tensor | QuantizedWeight) -> torch.Tensor | QuantizedWeight:
        """With the rows of each head, all of them or a rank's, in the order in which halves turn with each other."""
        if piece not in self.turned:
            return tensor
        import torch

        turned = self.turned[piece]
        if isinstance(tensor, torch.Tensor) and tensor.shape[-1] == turned.dim and "norm" in piece:  # [size] or [heads, size]
            return tensor[..., turned.order()]
        order = turned.rows(tensor.shape[0])
        return tensor[order] if isinstance(tensor, torch.Tensor) else tensor.reordered(order)


def _rows(split: Split, number: int, rows: int) -> int:
    """The rows of a piece of a tensor with so many in all; what does not divide is left to the check of shapes."""
    if not split.sizes:
        return rows // len(split.pieces)
    fits = sum(split.sizes) * split.groups == rows
    return split.sizes[number] * split.groups if fits else rows


def _split(tensor: torch.Tensor | QuantizedWeight, split: Split) -> Iterator[torch.Tensor | QuantizedWeight]:
    from .formats.values import QuantizedWeight, as_tensor

    sizes = split.sizes or (tensor.shape[0] // len(split.pieces) // split.groups,) * len(split.pieces)
    starts = list(accumulate(sizes, initial=0))
    if isinstance(tensor, QuantizedWeight) and split.groups == 1:
        yield from (tensor.rows(start, stop) for start, stop in pairwise(starts))
        return
    groups = as_tensor(tensor).unflatten(0, (split.groups, starts[-1]))
    for start, stop in pairwise(starts):
        yield groups[:, start:stop].flatten(0, 1).contiguous()
