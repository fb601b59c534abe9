"""States: where this step's sequences keep what layers without a KV cache remember, and the operations over them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

#: Slot 0 belongs to nobody: rows that only fill a step up to its size name it. What lies there means nothing.
NULL_STATE = 0


class States(NamedTuple):
    """The rows of this step's sequences and their slots in the pools of states.

    Every layer has pools of its own, [slots, ...]; a sequence has the same slot in all of them. Operations read and overwrite the
    slots of their sequences and touch no others. A sequence goes token by token, or in pieces that lie at fixed positions of it, so
    that its bytes do not depend on how steps cut it.
    """

    query_start: Tensor
    """int32 [S + 1]: sequence s owns token rows query_start[s] to query_start[s + 1]."""
    kv_lens: Tensor
    """int32 [S]: tokens of the sequence once this step's are counted. Where they are no more than this step's, it begins from zeros,
    whatever lies in its slot."""
    slots: Tensor
    """int32 [S]: no two the same, but for NULL_STATE."""


class DeltaRule(NamedTuple):
    """The shape of a layer's gated delta rule, and the numbers that its value heads have learned.

    Of its heads of values, `num_heads / num_key_heads` neighbours have the same queries and keys.
    """

    num_heads: int
    num_key_heads: int
    key_dim: int
    value_dim: int
    rate: Tensor
    """float32 [H]: the logarithm of decay for each unit of time, below 0."""
    bias: Tensor
    """float32 [H]: added to what a token says of its time."""

    @property
    def width(self) -> int:
        """Features of the queries, keys and values of a token."""
        return 2 * self.num_key_heads * self.key_dim + self.num_heads * self.value_dim


#: Added to the sum of squares of a query or key before it is divided by its length.
LENGTH_EPS = 1e-6


class Mamba2Scan(NamedTuple):
    """The shape of a layer's scan, and the numbers that its heads have learned (Mamba-2, arXiv 2405.21060).

    Heads in the same of `num_groups` share B and C, which have `state_size` numbers each.
    """

    num_heads: int
    num_groups: int
    head_dim: int
    state_size: int
    rate: Tensor
    """float32 [H]: the logarithm of what a unit of time leaves of a state, below 0 (A)."""
    skip: Tensor
    """float32 [H]: the factor of a token's own features (D)."""
    bias: Tensor
    """float32 [H]: added to what a token says of its time, before its softplus."""
    low: float = 0.0
    high: float = float("inf")
    """Times are kept between these two."""

    @property
    def width(self) -> int:
        """Features of a token: of each head, and B and C of each group."""
        return self.num_heads * self.head_dim + 2 * self.num_groups * self.state_size


class SelectiveScan(NamedTuple):
    """The numbers that a layer's channels have learned (Mamba, arXiv 2312.00752)."""

    rate: Tensor
    """float32 [state size, C]: as of `Mamba2Scan`, of each number of each channel's state."""
    skip: Tensor
    """float32 [C]"""
    bias: Tensor
    """float32 [C]"""


class StateOps(Protocol):
    """The operations of a backend over states. Rows of nobody are zero in what they give."""

    def short_convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, states: States, activation: str | None
    ) -> Tensor:
        """act(bias + sum of weight[k] * the input width - 1 - k tokens before) of each channel -> [N, C], computed in float32, the oldest
        input first; what was before a sequence is zero.

        Args:
            x: [N, C]; rows may be strided.
            weight: float32 [width, C], the oldest input's first.
            bias: float32 [C].
            state: [slots, width - 1, C] in x's dtype: the last inputs, oldest first.
            activation: "silu", or None for none.
        """

    def gated_delta_rule(self, qkv: Tensor, gates: Tensor, rule: DeltaRule, state: Tensor, states: States) -> Tensor:
        """q S / sqrt(key_dim) of each token and value head -> [N, H * value_dim] in qkv's dtype.

        Before a token's q is applied, S becomes S * exp(rate * softplus(a + bias)), and then S + k (sigmoid(b) * (v - k S)), with q and k
        divided by their lengths. Token by token, in float32 (gated delta networks, arXiv 2412.06464).

        Args:
            qkv: [N, rule.width], the queries and the keys of each key head, and the values of each value head. Rows may be strided.
            gates: [N, 2 * H] in any floating dtype: b of each value head, and then a.
            state: float32 [slots, H, key_dim, value_dim].
        """

    def mamba2_scan(self, xbc: Tensor, dt: Tensor, scan: Mamba2Scan, state: Tensor, states: States) -> Tensor:
        """C h + skip * x of each token and head -> [N, H * head_dim] in xbc's dtype.

        h becomes h * exp(step * rate) + B (step * x) before, with step = softplus(dt + bias), kept between `scan.low` and `scan.high`.
        Token by token, in float32.

        Args:
            xbc: [N, scan.width], x of each head, and then B and C of each group. Rows may be strided, here and below.
            dt: [N, H], of the same dtype.
            state: float32 [slots, H, state_size, head_dim].
        """

    def selective_scan(self, x: Tensor, dt: Tensor, bc: Tensor, gate: Tensor, scan: SelectiveScan, state: Tensor, states: States) -> Tensor:
        """(C h + skip * x) * silu(gate) of each token and channel -> [N, C] in x's dtype.

        h becomes h * exp(step * rate) + B (step * x) before, with step = softplus(dt + bias). Token by token, in float32.

        Args:
            x, dt, gate: [N, C], of one dtype. Rows may be strided, here and below.
            bc: [N, 2 * state size], B and then C, the same for all channels.
            state: float32 [slots, state size, C].
        """
