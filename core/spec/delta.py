"""The mixer of gated delta networks: sizes, states and tensors. See `mixers.MixerSpec`. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ModelError
from .mixers import Named, StateSpec, window
from .names import Split


@dataclass(frozen=True, kw_only=True)
class DeltaSpec:
    """out(norm(rule(convolution(q, k, v), gates)) * silu(z)) of q, k, v, z and gates that are all made of the token (arXiv 2412.06464)."""

    num_heads: int
    """Of values. Those in a row have the same queries and keys, where of these there are fewer."""
    num_key_heads: int
    key_dim: int
    value_dim: int
    width: int
    """Taps of the convolution."""
    norm_eps: float

    def __post_init__(self) -> None:
        if self.num_heads % self.num_key_heads:
            raise ModelError(f"config.json: {self.num_heads} value heads of linear attention cannot share {self.num_key_heads} key heads")

    @property
    def keys(self) -> int:
        """Features of all queries, and of all keys."""
        return self.num_key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Features of all values."""
        return self.num_heads * self.value_dim

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return window(2 * self.keys + self.values, self.width), StateSpec((self.num_heads, self.key_dim, self.value_dim), is_wide=True)

    @property
    def shared(self) -> int:
        return self.num_key_heads

    @property
    def pieces(self) -> dict[str, int]:
        """Output features of each layer that reads the token, gates apart."""
        return {"in_proj_q": self.keys, "in_proj_k": self.keys, "in_proj_v": self.values, "in_proj_z": self.values}

    def splits(self, name: str) -> dict[str, Split]:
        """Of `Naming`: the layers that checkpoints have for several, where the mixer's name is `name`: key head by key head, each with what
        its value heads have, or in Qwen3.5 all queries, all keys and all values."""
        of_head = tuple(size // self.num_key_heads for size in self.pieces.values())
        gates = (self.num_heads // self.num_key_heads,) * 2
        names = tuple(f"{name}.{one}." for one in self.pieces)
        return {
            f"{name}.in_proj_qkvz.": Split(names, of_head, self.num_key_heads),
            f"{name}.in_proj_ba.": Split((f"{name}.in_proj_b.", f"{name}.in_proj_a."), gates, self.num_key_heads),
            f"{name}.in_proj_qkv.": Split(names[:3], tuple(self.pieces.values())[:3]),
        }

    def tensors(self, prefix: str, hidden_size: int) -> Iterator[Named]:
        for name, size in (*self.pieces.items(), ("in_proj_b", self.num_heads), ("in_proj_a", self.num_heads)):
            yield f"{prefix}.{name}.weight", (size, hidden_size)
        yield f"{prefix}.conv1d.weight", (2 * self.keys + self.values, 1, self.width)
        for name in ("A_log", "dt_bias"):
            yield f"{prefix}.{name}", (self.num_heads,)
        yield f"{prefix}.norm.weight", (self.value_dim,)
        yield f"{prefix}.out_proj.weight", (hidden_size, self.values)

    def shared_inputs(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield f"{prefix}.out_proj.weight", self.values
