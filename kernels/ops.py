"""The operations a backend provides, and the plain data they share.

Shapes: N token rows of a step (padded to a multiple of ROW_MULTIPLE), T <= N real ones, S sequences, H query heads,
K key/value heads, D head size, R sampled rows, V vocabulary size, B blocks of `block_size` tokens.

Every operation is row-wise: what it computes for one row depends on that row's own inputs alone, bit for bit, however
many rows there are and wherever the row stands (design promise 4). Backends may assume N is a multiple of ROW_MULTIPLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

#: Token rows are padded to a multiple of this: GEMM libraries treat left-over rows differently.
ROW_MULTIPLE = 16

#: Block 0 holds zeros, is never written and belongs to nobody: masked positions read it, so that what a freed block
#: holds (NaN, say) can never reach a neighbour through 0 * NaN.
NULL_BLOCK = 0


class KVCache(NamedTuple):
    """Keys and values of one layer; the layout is the backend's own."""

    key: Tensor
    value: Tensor


@dataclass(slots=True)
class AttentionMeta:
    """Where this step's tokens stand in their sequences and in the cache."""

    query_start: Tensor
    """int32 [S + 1]: sequence s owns token rows query_start[s] to query_start[s + 1]."""
    kv_lens: Tensor
    """int32 [S]: tokens of the sequence in the cache once this step's are stored; its rows are the last of them."""
    block_tables: Tensor
    """int32 [S, most blocks]: block ids in order of position, padded with NULL_BLOCK."""
    slots: Tensor
    """int64 [T]: block id * block_size + offset where each token's key and value go."""
    block_size: int
    plan: Any = None
    """What the backend's `plan_attention` prepared, once a step for all layers."""


@dataclass(slots=True)
class SamplingRows:
    """Per-row sampling settings of R rows, as tensors. Neutral values switch a step off for that row."""

    temperature: Tensor
    """float32 [R]; 0 is greedy."""
    top_k: Tensor
    """int64 [R]; 0 is off."""
    top_p: Tensor
    """float32 [R]; 1 is off."""
    min_p: Tensor
    """float32 [R]; 0 is off."""
    uniform: Tensor
    """float64 [R] in [0, 1): the row's one draw."""
    all_greedy: bool
    """No row draws: the settings above need not be looked at."""
    any_truncated: bool
    """Some row has top_k, top_p or min_p on."""


@dataclass(slots=True)
class Penalties:
    """Sparse penalties: entry i is about token `token[i]` of row `row[i]`; a (row, token) pair appears once."""

    row: Tensor
    """int64 [E]"""
    token: Tensor
    """int64 [E]"""
    repetition: Tensor
    """float32 [E]: divides a positive logit, multiplies a negative one; 1 is off."""
    subtract: Tensor
    """float32 [E]: frequency_penalty * count + presence_penalty; 0 is off."""


class Ops(Protocol):
    """One backend. Instances hold settings found out at load time, never per-step state."""

    name: str

    row_chunk: int
    """0, or the fixed number of rows `linear` works on at a time where the GEMM library is not row-wise by itself."""

    # -- KV cache ------------------------------------------------------------------------------------------------
    def new_kv_cache(
        self, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        """Cache of one layer for `num_blocks` blocks; NULL_BLOCK is zero, the rest may hold anything."""

    def store_kv(self, key: Tensor, value: Tensor, cache: KVCache, meta: AttentionMeta) -> None:
        """Writes the first T rows of key and value [N, K, D] to `meta.slots`."""

    def copy_blocks(self, cache: KVCache, source: Tensor, target: Tensor) -> None:
        """Copies whole blocks source[i] -> target[i] (int64 [C] each); all sources are read before a target is written."""

    # -- attention -----------------------------------------------------------------------------------------------
    def plan_attention(self, meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> Any:
        """What `attention` needs of the step's shape, the same for all layers."""

    def attention(self, query: Tensor, cache: KVCache, meta: AttentionMeta, scale: float, sliding_window: int | None) -> Tensor:
        """Causal softmax(q k^T * scale) v of query [N, H, D] over the cache -> [N, H, D] in query's dtype.

        The row at position p sees positions max(0, p - sliding_window + 1) to p. Accumulates in float32. Rows from T on are zero.
        """

    # -- row-wise layers -----------------------------------------------------------------------------------------
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [N, in] @ weight [out, in]^T + bias [out] -> [N, out]."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last dimension (its size is weight's), computed in float32."""

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(rms_norm(s), s) for s = x + residual rounded to x's dtype. May overwrite both inputs."""

    def rope(self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotates the first 2F features of x [N, heads, D], halves paired (NeoX order), by cos/sin [positions, F] float32."""

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """silu(x[:, :I]) * x[:, I:] for x [N, 2I], computed in float32."""

    # -- sampling ------------------------------------------------------------------------------------------------
    def apply_penalties(self, logits: Tensor, penalties: Penalties) -> None:
        """In place on logits float32 [R, V]: repetition first, then `subtract`."""

    def sample(self, logits: Tensor, rows: SamplingRows) -> Tensor:
        """One token a row, int64 [R], of logits float32 [R, V].

        Temperature, min_p (against the whole distribution), top_k, top_p (of what top_k left; ties at either border
        stay), then inverse CDF in token order. Greedy ties go to the lowest token id. Rows must be finite or -inf.
        """
