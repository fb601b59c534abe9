"""The contract of a backend: the operations it provides, and the plain data they share.

Shapes: N token rows of a step (padded to a multiple of ROW_MULTIPLE), T <= N real ones, S sequences, H query heads,
K key/value heads, D head size, R sampled rows, V vocabulary size, B blocks of `block_size` tokens.

Every operation is row-wise: what it computes for one row depends on that row's own inputs alone, bit for bit, however
many rows there are and wherever the row stands (design promise 4); on a GPU where `deterministic` asks for it. Backends may
assume N is a multiple of ROW_MULTIPLE, but for weights of which they say otherwise (`any_rows`).

The file is as long as the list of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .lora import AdapterRows, LoRAOps
from .products import ProductOps
from .rows import INT8_ZERO, Rows, ScaledRows  # noqa: F401  # of the contract, as all here
from .state import StateOps, States

#: Token rows are padded to a multiple of this: GEMM libraries treat left-over rows differently.
ROW_MULTIPLE = 16

#: Block 0 holds zeros, is never written and belongs to nobody: masked positions read it, so that what a freed block
#: holds (NaN, say) can never reach a neighbour through 0 * NaN.
NULL_BLOCK = 0

#: Columns of `AttentionConfig.distances` that a tile of keys may reach beyond its queries.
KEYS_AHEAD = 64

#: Numbers of the activation "clamped_swiglu", as gpt-oss has it.
CLAMP, CLAMPED_SLOPE = 7.0, 1.702


class KVCache(NamedTuple):
    """Keys and values of one layer; the layout is the backend's own, but for blocks, which are the first dimension of both."""

    key: Tensor
    value: Tensor
    """Without elements where values are parts of keys (`AttentionConfig.latent`)."""


class Rotation(NamedTuple):
    """Rotary position embedding of one step, halves paired (NeoX order): features [0, F) with [F, 2F), the rest stay."""

    positions: Tensor
    """int64 [N]"""
    cos: Tensor
    """float32 [positions, F]"""
    sin: Tensor
    """float32 [positions, F]"""


class HeadNorm(NamedTuple):
    """RMSNorm of each query and key head before rotation."""

    query: Tensor
    """[D]"""
    key: Tensor
    """[D]"""
    eps: float


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """The shape of a layer's attention, the same for every step."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    sliding_window: int | None = None
    """A position sees itself and the sliding_window - 1 before it; None: all before it."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap)."""
    alibi_slopes: Tensor | None = None
    """float32 [H]: slope * (key position - query position) is added to scores, after the cap."""
    sinks: Tensor | None = None
    """float32 [H]: a further score that takes its share of the softmax and adds no value."""
    distances: Tensor | None = None
    """float32 [H, L + KEYS_AHEAD], for contexts of up to L tokens: what column L - 1 + (key position - query position) holds is added to
    scores, after the cap. The last columns, of keys that no query sees, may be read and are not counted. None: nothing is added."""
    latent: int = 0
    """Features of a value, which are the last ones of the key; K is 1, and there are no options such as windows. 0: values are stored by
    themselves, and have D features."""

    @property
    def value_dim(self) -> int:
        return self.latent or self.head_dim


class Prompts(NamedTuple):
    """The sequences that have more than one of a step's tokens, where the host has said which; P of them and of empty entries."""

    sequences: Tensor
    """int32 [P]: their numbers, rising; whatever behind the last."""
    starts: Tensor
    """int32 [P + 1]: entry p has as many tokens as are between starts[p] and starts[p + 1]; those behind the last have none."""
    tokens: int
    """At most so many, all together."""


class DecodeLaunch(NamedTuple):
    """How a GPU computes decodes, which are the sequences with one new token. It depends on how many sequences the step has."""

    whole: int
    """With so many sequences or more each decode's keys go by in one program; with fewer they are shared out. 0: they never are."""
    joins: bool
    """With so many it is looked at what decodes have in common (`AttentionMeta.prefixes`)."""


class Prefixes(NamedTuple):
    """What decodes of a step have in common, where the host has said it: G groups of sequences whose tables begin with the same blocks."""

    members: Tensor
    """int32 [M]: sequences with one token, those of a group side by side, each once."""
    starts: Tensor
    """int32 [G + 1]: the members of group g are those from starts[g] to starts[g + 1]."""
    lengths: Tensor
    """int32 [G]: tokens in these blocks, which are whole, and behind which each member's own token is."""
    shared: Tensor
    """int32 [S]: of each sequence its group's length; 0 where it is in none."""


@dataclass(slots=True)
class AttentionMeta:
    """The places of this step's tokens in their sequences and in the cache."""

    query_start: Tensor
    """int32 [S + 1]: sequence s owns token rows query_start[s] to query_start[s + 1]."""
    kv_lens: Tensor
    """int32 [S]: tokens of the sequence in the cache once this step's are stored; its rows are the last of them."""
    block_tables: Tensor
    """int32 [S, most blocks]: block ids in order of position, padded with NULL_BLOCK. Rows may be strided."""
    slots: Tensor
    """int64 [T]: block id * block_size + offset where each token's key and value go."""
    block_size: int
    plan: Any = None
    """Prepared by the backend's `plan_attention`, once a step for all layers."""
    state_slots: Tensor | None = None
    """int32 [S]: see `States.slots`; None where no layer keeps states."""
    adapters: AdapterRows | None = None
    """The rows that have an adapter, if any do."""
    spans: Tensor | None = None
    """int32 [T, 2], for sequences with spans of tokens that see each other in both directions: the first and the last position that each
    token sees, beside those that a causal token would. The first is its own or before it, and no further back than an earlier token's; the
    last is its own or after it. All of these are stored by now: a step does not end within a span. None: all tokens are causal. Not with
    `alibi_slopes`, `distances` or `latent`."""
    encoder_lens: Tensor | None = None
    """int32 [S]: tokens of each sequence's encoder input, with which its blocks begin; None where the model has no encoder. They fill whole
    blocks, the rest of the last one is empty, and the decoder's tokens are behind that."""
    prompts: Prompts | None = None
    """None where only the device knows, or where the backend has no use for it."""
    prefixes: Prefixes | None = None
    """None where nobody looked, where there are none, or where the backend finds them itself."""
    cross: AttentionMeta | None = None
    """Of attention to the encoder: each token as a sequence, over the encoder's blocks. Nothing is stored with it."""

    @property
    def states(self) -> States:
        """The sequences' states, where layers keep some."""
        assert self.state_slots is not None, "a step of a model with states has a slot for each sequence"
        return States(self.query_start, self.kv_lens, self.state_slots)


@dataclass(slots=True)
class Segments:
    """The places of texts in a step that keeps no cache: a token attends to all of its own text, and to nothing else."""

    starts: Tensor
    """int32 [S + 1]: text s owns token rows starts[s] to starts[s + 1], at positions 0, 1, 2...; starts[S] is T."""
    plan: Any = None
    """Prepared by the backend's `plan_segments`, once a step for all layers."""
    adapters: AdapterRows | None = None
    """The rows that have an adapter, if any do."""
    unseen: PairBias | None = None
    """Of tokens that others of their text do not see: the same in all layers, and for all heads and queries."""


class PairBias(NamedTuple):
    """A number for each head and each pair of tokens of a text.

    That of head h for query position i and key position j of text s is `values[at + h * head + i * row + j]` with
    (at, head, row) = `places[s]`: a table [H, n, n] for each text (row n), or one by distance for all (row -1).
    """

    values: Tensor
    """float32 [any number]"""
    places: Tensor
    """int64 [S, 3]"""


@dataclass(slots=True)
class SamplingRows:
    """Per-row sampling settings of R rows, as tensors. Neutral values switch a step off for that row."""

    temperature: Tensor
    """float32 [R]; 0 is greedy, anything else is positive and finite."""
    top_k: Tensor
    """int64 [R]; 0 is off."""
    top_p: Tensor
    """float32 [R]; 1 is off."""
    min_p: Tensor
    """float32 [R]; 0 is off."""
    uniform: Tensor
    """float64 [R] in [0, 1): the row's one draw."""


@dataclass(slots=True)
class Penalties:
    """Changes to single logits: row r's are entries row_start[r] to row_start[r + 1], each about another token."""

    row_start: Tensor
    """int64 [R + 1]"""
    token: Tensor
    """int64 [E]"""
    bias: Tensor
    """float32 [E]: added first; 0 is off."""
    repetition: Tensor
    """float32 [E], above 0: divides a logit that is then positive, multiplies any other; 1 is off."""
    subtract: Tensor
    """float32 [E]: taken off after that; infinity forbids the token."""


@dataclass(slots=True)
class TokenMask:
    """The only tokens that some rows may draw."""

    rows: Tensor
    """int64 [R]: which of the M masks is the row's; -1 for none. Rows may share one."""
    bits: Tensor
    """int32 [M, ceil(V / 32)], contiguous: token v is allowed where bit v % 32 of word v // 32 is set."""


class TopLogprobs(NamedTuple):
    """Log-probabilities of A rows."""

    ids: Tensor
    """int64 [A, count]: the most likely tokens in order, lower ids first among equals."""
    values: Tensor
    """float32 [A, count]: theirs."""
    token_values: Tensor
    """float32 [A]: those of the tokens asked about."""
    token_ranks: Tensor
    """int64 [A]: 1 + how many tokens are more likely than the one asked about."""


class Ops(ProductOps, StateOps, LoRAOps, Protocol):
    """One backend. Instances hold settings found out at load time, never per-step state."""

    name: str

    row_chunk: int
    """0, or the fixed number of rows `linear` works on at a time where the GEMM library is not row-wise by itself."""

    deterministic: bool
    """True if a row's bits in any company are asked for where they cost something, as on a GPU. A backend that always gives them does
    not look at it; with one that cannot, `row_chunk` has to do."""

    # -- KV cache ------------------------------------------------------------------------------------------------
    def new_kv_cache(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        latent: int = 0,
    ) -> KVCache:
        """Cache of one layer for `num_blocks` blocks; NULL_BLOCK is zero, the rest may hold anything. `latent` as of AttentionConfig."""

    def kv_refusal(self, dtype: torch.dtype) -> str:
        """Why keys and values cannot be kept in `dtype`, or nothing. float8 is written without scales: what it cannot hold becomes its
        largest number; queries stay in their own dtype, and products are made in it. int8 has a float32 scale for each token and head:
        its largest magnitude / 127, as `quantize`."""

    def rope_and_store(
        self, qkv: Rows, rotation: Rotation | None, norm: HeadNorm | None, cache: KVCache, meta: AttentionMeta, config: AttentionConfig
    ) -> Tensor:
        """The queries [N, H, D], normed and rotated, of qkv [N, (H + 2K) * D] (queries, keys, values); stores the keys, likewise
        normed and rotated, and the values of the first T rows at `meta.slots`. Computes in float32.

        K of `config` may be 0: there are queries alone, and nothing is stored. Where `config.latent`: of [N, (H + K) * D], without values.
        """

    def copy_blocks(self, cache: KVCache, source: Tensor, target: Tensor) -> None:
        """Copies whole blocks source[i] -> target[i] (int64 [C] each); all sources are read before a target is written."""

    def new_host_cache(self, num_blocks: int, like: KVCache) -> KVCache:
        """Room in CPU memory for `num_blocks` blocks of a cache, of any content; pinned if `like` is on a GPU. No block of it is null."""

    def swap_out(self, cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
        """Copies blocks source[i] of `cache` to blocks target[i] of `host`, a `new_host_cache` of it. Both are int64 [C] on the CPU, and
        no target is there twice.

        On a GPU copies are queued on the current stream and may be under way when this returns: what they read or write is another
        stream's, or the CPU's, after an event or a synchronization only.
        """

    def swap_in(self, cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
        """Copies blocks source[i] of `host` to blocks target[i] of `cache`, otherwise as `swap_out`."""

    # -- attention -----------------------------------------------------------------------------------------------
    def plan_attention(self, meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> Any:
        """Prepares what `attention` needs of the step's shape, the same for all layers."""

    def attention(self, query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Tensor:
        """Causal softmax(q k^T * scale) v of query [N, H, D] over the cache -> [N, H * config.value_dim] in query's dtype.

        Causal but for `meta.spans`. Accumulates in float32. Rows from T on are zero.
        """

    def decode_launch(self, config: AttentionConfig) -> DecodeLaunch:
        """Of a layer's attention. It is decided by the shape of a step's `kv_lens`, as recorded steps need it."""

    def plan_segments(self, segments: Segments, num_heads: int, num_kv_heads: int) -> Any:
        """Prepares what `segment_attention` needs of the step's shape, the same for all layers."""

    def segment_attention(
        self, qkv: Rows, rotation: Rotation | None, segments: Segments, config: AttentionConfig, bias: PairBias | None = None
    ) -> Tensor:
        """Softmax(q k^T * scale) v within each text, in both directions, of qkv [N, (H + 2K) * D] (queries, keys, values) -> [N, H * D].

        Queries and keys are rotated first, in float32, and rounded to the model's dtype, as values are. Accumulates in float32; the
        result is of the model's dtype; rows from T on are zero. `config.sliding_window` w: a position sees those less than w
        away on either side; `alibi_slopes`: -slope * distance is added, and so is `bias`. What a row gets depends on its own text alone.
        """

    # -- row-wise layers -----------------------------------------------------------------------------------------
    def rms_norm(self, x: Rows, weight: Tensor, eps: float, *, quantize: bool = False) -> Rows:
        """x / sqrt(mean(x^2) + eps) * weight over the last dimension (its size is weight's), computed in float32.

        `quantize` here and below: the result as quantized rows, see `quantize`.
        """

    def add_rms_norm(self, x: Rows, residual: Tensor, weight: Tensor, eps: float, *, quantize: bool = False) -> tuple[Rows, Tensor]:
        """(rms_norm(s), s) for s = x + residual rounded to residual's dtype. May overwrite both inputs."""

    def layer_norm(self, x: Rows, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False) -> Rows:
        """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, computed in float32."""

    def add_layer_norm(
        self, x: Rows, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False
    ) -> tuple[Rows, Tensor]:
        """(layer_norm(s), s) for s = x + residual rounded to residual's dtype. May overwrite both inputs."""

    def gated_rms_norm(
        self, x: Tensor, gate: Tensor, weight: Tensor | None, eps: float, group_size: int, *, gate_first: bool, quantize: bool = False
    ) -> Rows:
        """rms_norm(x) * silu(gate), or with `gate_first` rms_norm(x * silu(gate)), computed in float32; x, gate [N, F], of one dtype.

        Each group of `group_size` features is normed by itself. `weight`: [F], or [group_size] for all groups; None: nothing is normed.
        The gate's rows may be strided.
        """

    def gated_activation(self, x: Rows, kind: str, *, quantize: bool = False) -> Rows:
        """act(x[:, :I]) * x[:, I:] for x [N, 2I], computed in float32; kind: "silu", "gelu" (erf) or "gelu_tanh".

        Or "sigmoid"; or "clamped_swiglu": gate * sigmoid(CLAMPED_SLOPE * gate) * (up + 1), of a gate at most CLAMP and up from -CLAMP
        to CLAMP.
        """

    def activation(self, x: Rows, kind: str, *, quantize: bool = False) -> Rows:
        """act(x) for x [N, I], computed in float32; kind: "silu", "gelu" (erf), "gelu_tanh", "relu" or "relu2" (its square)."""

    def whole_layer(self, parts: Any) -> Any:
        """A `WholeLayer` of `LayerParts` (layer.py), in the bits of the operations that it is made of; None where the backend has none, or
        not of these parts. Their tensors are kept, and must stay where they are."""

    # -- sampling ------------------------------------------------------------------------------------------------
    def complete_tokens(self, tokens: Tensor, drawn: Tensor) -> Tensor:
        """int64 [N]: `tokens`, those below 0 replaced: -1 - i by drawn[i] of int64 [R], R above 0; or by 0, where that is below 0 itself.

        May overwrite `tokens`.
        """

    def sample(
        self, logits: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None = None
    ) -> tuple[Tensor, Tensor]:
        """(tokens int64 [R], finite bool [R]) of logits [R, V] in any floating dtype, computed in float32; rows may be strided.

        Mask, penalties, temperature, min_p (against the whole distribution), top_k, top_p (of what top_k left; equal logits at either
        border stay together), then inverse CDF in token order. `rows` None: all are greedy. Greedy ties go to the lowest id.
        Where a logit is infinite or NaN before all that, `finite` is false and the token is 0; where no token is left, it is -1.
        """

    def processed_logits(
        self, logits: Tensor, places: Tensor, rows: SamplingRows | None, penalties: Penalties | None, mask: TokenMask | None
    ) -> Tensor:
        """float32 [A, V]: what `sample` draws from in rows `places` (int64 [A], finite) of logits [R, V]; tokens it would drop are -inf.

        Logits of greedy rows are neither divided nor dropped. The other arguments are those of all R rows.
        """

    def top_logprobs(self, logits: Tensor, rows: Tensor, tokens: Tensor, count: int) -> TopLogprobs:
        """log_softmax of rows `rows` (int64 [A]) of logits [R, V]: its `count` <= V largest, and those of `tokens` (int64 [A]).

        The rows' logits are finite or -inf, and one at least is finite.
        """
