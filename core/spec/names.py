"""Names of a checkpoint's tensors: what an architecture calls its parts, and how its files may differ from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Names:
    """Checkpoint prefixes. Those of a layer stand behind `layer` with its number in; a part without a name is not there."""

    words: str
    positions: str = ""
    types: str = ""
    embedding_norm: str = ""
    embedding_projection: str = ""
    """From the embedding's features to those of the layers (`StackSpec.embedding_size`), and from there back in the end."""
    output_projection: str = ""
    relative: str = ""
    """The table of what is learned of distances between tokens (`StackSpec.relative`), and its norm."""
    relative_norm: str = ""
    layer: str
    attention_norm: str = ""
    """Before attention and what keeps states, or behind it where the norms come after (`StackSpec.pre_norm`)."""
    qkv: tuple[str, ...]
    """Queries, keys and values, or one layer that is all three in this order. Where there is a latent (`LatentSpec`): queries or their
    latent, and the latent with the rotated key behind it."""
    q_up: str = ""
    """From the latent of queries, whose norm is `q_norm`, to queries."""
    kv_up: str = ""
    """From the latent, whose norm is `k_norm`, to keys and values, head by head."""
    gate: str = ""
    """See `AttentionSpec.gated`."""
    sinks: str = ""
    """See `AttentionSpec.sinks`: a tensor, not a prefix."""
    q_norm: str = ""
    """With "{}" in it: one norm a head, by number."""
    k_norm: str = ""
    attention_out: str
    cross_norm: str = ""
    """Of a decoder's attention to an encoder (`LayerSpec.cross`): its norm, queries, keys and values, and what it gives."""
    cross_qkv: tuple[str, ...] = ()
    cross_out: str = ""
    mixer: str = ""
    """What keeps states; the names in it are its own, see `MixerSpec.tensors`."""
    attention_out_norm: str = ""
    """Of what attention gives, before it is added."""
    relative_qk: tuple[str, ...] = ()
    """Queries and keys of distances; without: those of tokens are theirs too."""
    mlp_norm: str = ""
    up: tuple[str, ...]
    """Of a gated block: gate and up, or one layer that is both, gate first."""
    down: str
    mlp_out_norm: str = ""
    """Of what the feed-forward part gives, before it is added."""
    experts_norm: str = ""
    """Where experts are beside the feed-forward part (`LayerSpec.experts`): before them, behind them, and behind that part."""
    experts_out_norm: str = ""
    beside_experts_norm: str = ""
    layer_scale: str = ""
    """A tensor, not a prefix: one number that hidden states are multiplied by after a layer."""
    per_layer_words: str = ""
    """See `PerLayerSpec`: the table by ids, what is made of embeddings, and the norm of that; then of each layer."""
    per_layer_projection: str = ""
    per_layer_norm: str = ""
    per_layer_gate: str = ""
    per_layer_out: str = ""
    per_layer_out_norm: str = ""
    activation: str = ""
    """Of the numbers that an activation has learned."""
    router: str = ""
    router_correction: str = ""
    """See `RoutingSpec.correction`: a tensor, not a prefix; as are the next two."""
    router_norm: str = ""
    expert_scales: str = ""
    expert_up: tuple[str, ...] = ()
    """As `up`, with "{}" for an expert's number."""
    expert_down: str = ""
    shared_up: tuple[str, ...] = ()
    """As `up`, of the expert for all tokens."""
    shared_down: str = ""
    shared_gate: str = ""
    final_norm: str = ""
    head: str = ""
    logits_bias: str = ""
    """See `StackSpec.logits_bias`: a tensor, not a prefix."""


@dataclass(frozen=True)
class Split:
    """A tensor that is several of ours, cut along its first dimension.

    Args:
        pieces: what to put in the place of the part of its name.
        sizes: rows of each piece within a group; empty: all are equal.
        groups: times that the pieces follow each other (once a head, say).
    """

    pieces: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Stack:
    """A tensor of all experts of a layer, one after the other, [experts, out, in] or of biases [experts, out], that is several of ours.

    Args:
        pieces: what to put in the place of the end of its name for each part of an expert, with "{}" for the expert's number.
        interleaved: rows of the parts take turns; else one part is below the other.
        transposed: weights are [experts, in, out], but where they are quantized; None: in some files, as their shapes tell.
    """

    pieces: tuple[str, ...]
    interleaved: bool = False
    transposed: bool | None = False


@dataclass(frozen=True)
class Naming:
    """Differences between the names in a family's checkpoints and those our model asks for.

    Args:
        prefixes: of the base model's tensors ("bert."); ours may have one too, which is then not in every file.
        renames: parts of a name and what they are to us, applied in order. Suffixes of old checkpoints (LayerNorm.gamma) are known.
        transposed: ends of names (as in the file) of matrices that are stored [in, out].
        splits: parts of a name of fused tensors, and what they are fused of.
        stacks: ends of names of tensors that hold all experts, and what is in them.
        buffers: ends of names of tensors that are computed, not learned, and not read.
        media: beginnings of names of what reads images or sound, which is not there in our model.
        unused: the same of layers that guess further tokens ahead, and of what no layer reads; in the file's spelling or ours.
    """

    prefixes: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    splits: Mapping[str, Split] = field(default_factory=dict)
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
