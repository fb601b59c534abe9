"""StackSpec: the layers of a model that we have code for, described part by part. No torch.

Each layer names its attention and its feed-forward part; what a layer keeps in the cache, what ranks may share and which tensors the
checkpoint has follow from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..errors import ModelError
from .activations import XIELU, activation_kind
from .distances import DisentangledSpec, DistanceSpec
from .mixers import MixerSpec, StateSpec
from .names import Names, Naming
from .rope import RopeConfig


@dataclass(frozen=True, slots=True)
class KVSpec:
    """Keys and values that one layer keeps of a token."""

    num_kv_heads: int
    head_dim: int
    layer: int | None = None
    """The number of that layer, where others read them too."""
    latent: int = 0
    """Values are the last so many features of keys, and are not kept by themselves; 0: they are."""

    @property
    def tensors(self) -> tuple[int, ...]:
        """Numbers in each of the cache's tensors."""
        return (self.num_kv_heads * self.head_dim,) * (1 if self.latent else 2)

    def token_bytes(self, item_bytes: int, *, scaled: bool = False) -> tuple[int, ...]:
        """Bytes of a token in each of them; `scaled`: with a float32 for each head."""
        return tuple(numbers * item_bytes + (4 * self.num_kv_heads if scaled else 0) for numbers in self.tensors)


@dataclass(frozen=True, slots=True)
class Shares:
    """Counts that ranks divide evenly: heads, KV heads (several ranks may hold the same), features between feed-forward layers, experts."""

    num_heads: int
    num_kv_heads: int
    inner: int
    mixed: int = 0
    """Channels or heads of what keeps states; 0 here and above: there is none."""
    experts: int = 0
    """Where each is one rank's; 0 where ranks share each."""

    def fit(self, size: int) -> bool:
        """True if `size` ranks can share it."""
        kv = self.num_kv_heads % size == 0 or size % self.num_kv_heads == 0
        return kv and all(count % size == 0 for count in (self.num_heads, self.inner, self.mixed, self.experts))


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """A root-mean-square norm, or one of mean and variance (`centered`)."""

    eps: float
    centered: bool = False
    bias: bool = False
    offset: float = 0.0
    """Added to the stored weights."""
    weighted: bool = True
    """False: there are no weights, for norms of queries and keys and of values."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """Keys and values that are made of one latent a token (multi-head latent attention, arXiv 2405.04434).

    What is kept of a token is the latent and one rotated key for all heads. A head's key is that and `nope_dim` features made of the
    latent, which do not rotate; its value is made of the latent alone.
    """

    rank: int
    """Features of the latent."""
    nope_dim: int
    rope_dim: int
    value_dim: int
    norm: NormSpec
    """Of latents."""
    query_rank: int | None = None
    """Features of the latent that queries are made of; None: they are made of the hidden state itself."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """Attention over keys and values of `num_kv_heads`, grouped where queries have more heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeConfig | None = None
    """None: queries and keys are not rotated."""
    slopes: tuple[float, ...] = ()
    """Of each head (ALiBi): slope * (key position - query position) is added to scores; empty: nothing is."""
    window: int | None = None
    """Positions that a token sees, itself included (in an encoder on either side); None is all."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""
    qkv_bias: bool = False
    key_bias: bool = True
    out_bias: bool = False
    clip: float | None = None
    """Queries and keys, normed where they are, and values are kept between -clip and clip, before rotation."""
    qk_norm: NormSpec | None = None
    """Of queries and keys."""
    qk_norm_over: str = "head"
    """"head": each head by itself, all with the same weights; "own": each with its own; "all": all heads of a token together."""
    norm_after_rotation: bool = False
    sinks: bool = False
    """Each head has a learned score that takes its share of the softmax and adds no value."""
    chunk: int | None = None
    """Positions come in chunks of so many, and a token sees those of its own chunk alone; None: it sees all."""
    growth: tuple[float, float] | None = None
    """Queries grow with their position: by 1 + second * ln(1 + floor((position + 1) / first)) (arXiv 2501.19399)."""
    reads: int | None = None
    """The number of an earlier layer whose keys and values it reads; None: it has its own."""
    values_are_keys: bool = False
    """Values are what keys are made of, before their norm and rotation."""
    value_norm: NormSpec | None = None
    """Of each value head, without weights."""
    gated: bool = False
    """What a head has seen is multiplied by the sigmoid of as many features, made of the token as its query is."""
    latent: LatentSpec | None = None
    """`head_dim` is then that of queries, of which the last features rotate, and `num_kv_heads` is 1, since all heads read the same."""
    out_scale: float = 1.0
    """What it gives is multiplied by it."""

    def biases(self, count: int) -> tuple[bool, ...]:
        """Whether each of the first `count` of queries, keys, values and gates has one."""
        return tuple(self.qkv_bias and (self.key_bias or part != 1) for part in range(count))

    @property
    def parts(self) -> int:
        """How many of queries, keys and values, in this order, have weights."""
        return 1 if self.reads is not None else 2 if self.values_are_keys else 3

    @property
    def cache(self) -> KVSpec:
        if self.latent is not None:
            return KVSpec(1, self.latent.rope_dim + self.latent.rank, latent=self.latent.rank)
        return KVSpec(self.num_kv_heads, self.head_dim)

    @property
    def value_width(self) -> int:
        """Features that all heads give together."""
        return self.num_heads * (self.head_dim if self.latent is None else self.latent.value_dim)


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """down(act(gate(x)) * up(x)), or without a gate down(act(up(x))). Raises ModelError for an activation that we do not have.

    The activation "xielu" has learned numbers, see layers/xielu.py.
    """

    size: int
    activation: str
    gated: bool = True
    bias: bool = False
    down_bias: bool | None = None
    """None: as `bias`."""
    gate_scale: float = 1.0
    """What the activation reads is multiplied by it."""
    out_scale: float = 1.0
    """What it gives is multiplied by it."""

    def __post_init__(self) -> None:
        if not self.learned_activation:
            activation_kind(self.activation, gated=self.gated)

    @property
    def biases(self) -> tuple[bool, bool]:
        """Of the layers up and down."""
        return self.bias, self.bias if self.down_bias is None else self.down_bias

    @property
    def learned_activation(self) -> bool:
        return self.activation == XIELU and not self.gated

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features between layers that ranks share."""
        return (self.size,)


@dataclass(frozen=True, kw_only=True)
class RoutingSpec:
    """Choice of `per_token` experts for a token, and of their weights, by a score for each that is made of the router's numbers."""

    per_token: int
    scores: str = "softmax"
    """"softmax": over all experts; "sigmoid": of each; "chosen": experts are chosen by the numbers themselves, and a softmax over those
    chosen makes their weights."""
    bias: bool = False
    """Of the router."""
    correction: int = 0
    """Dimensions of what is added to scores to choose by, and not to weigh by: 1 [experts], 2 [1, experts]; 0: there is none."""
    groups: int = 1
    """Experts stand in so many groups, one after the other, of which only the best `groups_chosen` are chosen from."""
    groups_chosen: int = 1
    group_by: int = 1
    """A group is as good as the sum of so many of its best scores."""
    normalized: bool = False
    """A token's weights are divided by their sum."""
    smallest_sum: float = 1e-20
    """By this where it is smaller."""
    added_to_sum: float = 0.0
    """To that sum, before."""
    scales_input: bool = False
    """Experts read the token times its weight, in place of their results being weighed."""
    norm: NormSpec | None = None
    """Of what the router reads, with weights of its own that are divided by the square root of their number."""
    expert_scales: bool = False
    """Each expert has a learned factor of its weight."""
    scale: float = 1.0
    """All weights are multiplied by it in the end."""


@dataclass(frozen=True, kw_only=True)
class ExpertsSpec:
    """`count` feed-forward parts of which each token has some. As `MLPSpec`. Raises ModelError for numbers that do not fit."""

    count: int
    routing: RoutingSpec
    size: int
    activation: str
    gated: bool = True
    bias: bool = False
    shared_size: int = 0
    """Of a further expert, that every token has and no router weighs; 0: there is none."""
    shared_bias: bool = False
    shared_gate: bool = False
    """It is weighed all the same, by the sigmoid of a product with the token."""

    def __post_init__(self) -> None:
        activation_kind(self.activation, gated=self.gated)
        per_token, groups = self.routing.per_token, self.routing.groups
        if per_token > self.count:
            raise ModelError(f"config.json: a token has {per_token} experts, and there are {self.count}")
        if self.count % groups or not self.routing.groups_chosen <= groups:
            raise ModelError(f"config.json: {self.count} experts cannot be chosen from {self.routing.groups_chosen} of {groups} groups")
        if per_token > self.count // groups * self.routing.groups_chosen:
            raise ModelError(f"config.json: {self.routing.groups_chosen} of {groups} groups have no {per_token} experts")

    @property
    def each(self) -> MLPSpec:
        """An expert by itself."""
        return MLPSpec(size=self.size, activation=self.activation, gated=self.gated, bias=self.bias)

    @property
    def shared(self) -> MLPSpec | None:
        """The expert that every token has."""
        if not self.shared_size:
            return None
        return MLPSpec(size=self.shared_size, activation=self.activation, gated=self.gated, bias=self.shared_bias)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Features between layers that ranks share."""
        return (self.size, self.shared_size) if self.shared_size else (self.size,)


@dataclass(frozen=True, kw_only=True)
class PerLayerSpec:
    """Per-layer embeddings: each token has a vector of `size` features for each layer, made of its id and of its embedding, which gates
    what the layer adds in the end: norm(out(act(gate(x)) * vector))."""

    vocab_size: int
    size: int
    activation: str

    def __post_init__(self) -> None:
        activation_kind(self.activation, gated=True)


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """A layer's parts, one at least. Attention and what keeps states read the same x, and what both give is added."""

    attention: AttentionSpec | None
    cross: AttentionSpec | None = None
    """A decoder's attention to all that its encoder gives, behind the layer's own attention and with a norm of its own."""
    mixer: MixerSpec | None = None
    feed_forward: MLPSpec | ExpertsSpec | None
    experts: ExpertsSpec | None = None
    """Experts beside the feed-forward part, each with norms of its own."""

    def shares(self, *, whole_experts: bool) -> Iterator[Shares]:
        """What ranks share of it, each expert or `whole_experts`."""
        heads = (0, 0) if self.attention is None else (self.attention.num_heads, self.attention.num_kv_heads)
        mixed = 0 if self.mixer is None else self.mixer.shared
        parts = [part for part in (self.feed_forward, self.experts) if part is not None]
        for part in parts:
            if isinstance(part, ExpertsSpec) and whole_experts:
                yield Shares(*heads, part.shared_size, mixed, part.count)
            else:
                yield from (Shares(*heads, size, mixed) for size in part.sizes)
        if not parts:
            yield Shares(*heads, 0, mixed)

    def need_attention(self) -> AttentionSpec:
        """Its attention, of a kind of model whose layers all have one."""
        assert self.attention is not None, "not a hybrid"
        return self.attention

    @property
    def mixture(self) -> ExpertsSpec | None:
        """Its experts, in place of the feed-forward part or beside it."""
        return self.feed_forward if isinstance(self.feed_forward, ExpertsSpec) else self.experts


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """out(norm(act(dense(x)))) of a pooled text, without what has no name."""

    out: str
    out_bias: bool = True
    dense: str | None = None
    dense_bias: bool = True
    activation: str = "tanh"
    norm: str | None = None

    def __post_init__(self) -> None:
        if self.activation != "tanh":
            activation_kind(self.activation)


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """The layers of a model that we have code for, from the embedding to the head; of one with an encoder those of the decoder."""

    names: Names
    naming: Naming
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    norm: NormSpec
    pre_norm: bool = True
    """x + attention(norm(x)) and a norm at the end; else norm(x + attention(x))."""
    first_is_normed: bool = False
    """The first layer has no norm before its attention, since the embeddings have had one."""
    adds_to_normed: bool = False
    """What a part gives is added to what it has read, in place of that before its norm."""
    parallel: bool = False
    """Attention and feed-forward part read the same x; without a norm of its own, the latter reads the former's."""
    residual_scale: float = 1.0
    """What attention and the feed-forward part give is multiplied by it before it is added."""
    num_positions: int = 0
    """Rows of the learned position table; 0: there is none."""
    position_offset: int = 0
    """The row of a text's first token, where no padding token decides."""
    sinusoids: str = ""
    """Positions are not learned but sines and cosines, of this kind: see layers/sinusoids.py; empty: they are learned."""
    padding_token: int | None = None
    """RoBERTa's: its id is its own position too, text begins at the next one, and where it stands in a text it is not counted."""
    num_token_types: int = 0
    embedding_size: int | None = None
    """Features of the embedding, its positions and types and its norm where they are projected to those of the layers; None: the same."""
    projects_back: bool = False
    """Hidden states are projected to the embedding's features in the end, by layers without bias; positions have those of the layers."""
    relative: DistanceSpec | DisentangledSpec | None = None
    """What attention knows of distances, an encoder's, or a decoder's beside one (`DistanceSpec` alone)."""
    causal: bool = False
    """A token of an encoder sees itself and those before it alone."""
    passes: tuple[int, ...] = ()
    """An encoder's layers as they run, by their number in `layers`; empty: each once."""
    embedding_scale: float = 1.0
    scales_given: bool = False
    """Embeddings that are given in place of a token's are multiplied by it too: it is a part of the model's, not of the table's."""
    per_layer: PerLayerSpec | None = None
    tie_embeddings: bool = False
    head_bias: bool = False
    logits_bias: bool = False  # a tensor [1, vocab_size] is added to logits
    logits_scale: float = 1.0
    logits_soft_cap: float | None = None  # of scaled logits
    classifier: ClassifierSpec | None = None
    encoder: StackSpec | None = None
    """The stack that reads the input of an encoder-decoder; this one then writes the output. Its names are those of the same checkpoint."""
    tower_positions: int = 0  # hidden states of an encoder of sound outside of the stack, which this one attends to; 0: there is none

    @property
    def output_size(self) -> int:
        """Features of hidden states in the end, which the head reads."""
        return self.embedding_size if self.projects_back and self.embedding_size is not None else self.hidden_size

    @property
    def caches(self) -> tuple[KVSpec, ...]:
        """The keys and values that layers keep of a token: one for each that does not read another's."""
        own = (layer.attention for layer in self.layers if layer.attention is not None)
        return tuple(one.cache for one in own if one.reads is None)

    @cached_property
    def cache_places(self) -> tuple[int | None, ...]:
        """The places among `caches` of what each layer reads; None of one without attention."""
        places: list[int | None] = []
        count = 0
        for layer in self.layers:
            if layer.attention is None:
                places.append(None)
            elif layer.attention.reads is not None:
                places.append(places[layer.attention.reads])
            else:
                places.append(count)
                count += 1
        return tuple(places)

    @property
    def first_reader(self) -> int:
        """The number of the first layer from which on none keeps anything of a token; that of layers where there is none."""
        keeping = [i for i, layer in enumerate(self.layers) if layer.mixer or layer.attention is None or layer.attention.reads is None]
        return keeping[-1] + 1

    @cached_property
    def shared_layers(self) -> frozenset[int]:
        """The numbers of layers whose keys and values others read too."""
        attending = (layer.attention for layer in self.layers if layer.attention is not None)
        return frozenset(one.reads for one in attending if one.reads is not None)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """All that its layers keep of a sequence, whatever its length."""
        return tuple(state for layer in self.layers if layer.mixer is not None for state in layer.mixer.states)

    @property
    def has_far_distances(self) -> bool:
        """True if positions are known by distances alone, of which the last bucket has no end: no text is too long."""
        return isinstance(self.relative, DistanceSpec) and not self.num_positions

    @property
    def has_experts(self) -> bool:
        return any(layer.mixture is not None for layer in self.layers)

    @property
    def max_length(self) -> int | None:
        """The longest text the learned positions are there for; None: any."""
        return self.num_positions - self.first_position if self.num_positions else None

    @property
    def first_position(self) -> int:
        """The row of the position table that a text's first token has."""
        return self.position_offset if self.padding_token is None else self.padding_token + 1
