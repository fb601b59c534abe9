"""Mixers of Mamba and of Mamba-2: sizes, states and tensors. See `mixers.MixerSpec`. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ModelError
from .mixers import Named, StateSpec, window
from .names import Split


@dataclass(frozen=True, kw_only=True)
class Mamba2Spec:
    """out(norm(scan(convolution(x, B, C)), gate)) of gate, x, B, C and times that are all made of the token (arXiv 2405.21060)."""

    num_heads: int
    head_dim: int
    num_groups: int
    """Heads in a group share B and C, and their features are normed together."""
    state_size: int
    width: int
    """Taps of the convolution."""
    bias: bool = False
    """Of what is made of the token."""
    conv_bias: bool = True
    out_bias: bool = False
    times: tuple[float, float] = (0.0, float("inf"))
    """Times are kept between these two."""
    norm_eps: float | None = None
    """None: there is no norm, the gate alone."""
    gate_first: bool = True
    """The norm is of what the gate has let through."""
    factors: tuple[float, ...] = ()
    """What gate, x, B, C and times are multiplied by; empty: nothing is."""
    out_scale: float = 1.0
    """What it gives is multiplied by it."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_groups:
            raise ModelError(f"config.json: {self.num_heads} Mamba heads cannot share {self.num_groups} groups")

    @property
    def size(self) -> int:
        """Features of all heads."""
        return self.num_heads * self.head_dim

    @property
    def of_groups(self) -> int:
        """Numbers of B, and of C."""
        return self.num_groups * self.state_size

    @property
    def states(self) -> tuple[StateSpec, ...]:
        state = StateSpec((self.num_heads, self.state_size, self.head_dim), is_wide=True)
        return window(self.size + 2 * self.of_groups, self.width), state

    @property
    def shared(self) -> int:
        return self.num_groups if self.num_groups > 1 else self.num_heads

    @property
    def pieces(self) -> dict[str, int]:
        """Output features of each layer that reads the token, in their order in the one that checkpoints have for all."""
        sizes = (self.size, self.size, self.of_groups, self.of_groups, self.num_heads)
        return dict(zip(("gate_proj", "x_proj", "b_proj", "c_proj", "dt_proj"), sizes, strict=True))

    def splits(self, name: str) -> dict[str, Split]:
        """Of `Naming`: that one layer, where the mixer's name is `name`."""
        return {f"{name}.in_proj.": Split(tuple(f"{name}.{one}." for one in self.pieces), tuple(self.pieces.values()))}

    def tensors(self, prefix: str, hidden_size: int) -> Iterator[Named]:
        for name, size in self.pieces.items():
            yield f"{prefix}.{name}.weight", (size, hidden_size)
            if self.bias:
                yield f"{prefix}.{name}.bias", (size,)
        channels = self.size + 2 * self.of_groups
        yield f"{prefix}.conv1d.weight", (channels, 1, self.width)
        if self.conv_bias:
            yield f"{prefix}.conv1d.bias", (channels,)
        for name in ("A_log", "D", "dt_bias"):
            yield f"{prefix}.{name}", (self.num_heads,)
        if self.norm_eps is not None:
            yield f"{prefix}.norm.weight", (self.size,)
        yield f"{prefix}.out_proj.weight", (hidden_size, self.size)
        if self.out_bias:
            yield f"{prefix}.out_proj.bias", (hidden_size,)

    def shared_inputs(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield f"{prefix}.out_proj.weight", self.size


@dataclass(frozen=True, kw_only=True)
class MambaSpec:
    """out(scan(x) * silu(gate)) of x and gate that are made of the token, x by a convolution; its times, B and C are made of x
    (arXiv 2312.00752)."""

    size: int
    """Channels."""
    state_size: int
    rank: int
    """Of times: numbers that those of all channels are made of."""
    width: int
    """Taps of the convolution."""
    bias: bool = False
    """Of what is made of the token, and of `out`."""
    conv_bias: bool = True
    norm_eps: float | None = None
    """Of norms of times, B and C; None: there are none."""
    learned_norms: bool = False
    """They have weights."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return window(self.size, self.width), StateSpec((self.state_size, self.size), is_wide=True)

    @property
    def shared(self) -> int:
        return self.size

    @property
    def norms(self) -> dict[str, int]:
        """Names and sizes of norms that have weights."""
        sizes = {"dt_layernorm": self.rank, "b_layernorm": self.state_size, "c_layernorm": self.state_size}
        return sizes if self.norm_eps is not None and self.learned_norms else {}

    def splits(self, name: str) -> dict[str, Split]:
        """Of `Naming`: the one layer that checkpoints have for x and gate, where the mixer's name is `name`."""
        return {f"{name}.in_proj.": Split((f"{name}.value_proj.", f"{name}.gate_proj."))}

    def tensors(self, prefix: str, hidden_size: int) -> Iterator[Named]:
        for name in ("value_proj", "gate_proj"):
            yield f"{prefix}.{name}.weight", (self.size, hidden_size)
            if self.bias:
                yield f"{prefix}.{name}.bias", (self.size,)
        yield f"{prefix}.conv1d.weight", (self.size, 1, self.width)
        if self.conv_bias:
            yield f"{prefix}.conv1d.bias", (self.size,)
        yield f"{prefix}.x_proj.weight", (self.rank + 2 * self.state_size, self.size)
        yield f"{prefix}.dt_proj.weight", (self.size, self.rank)
        yield f"{prefix}.dt_proj.bias", (self.size,)
        yield f"{prefix}.A_log", (self.size, self.state_size)
        yield f"{prefix}.D", (self.size,)
        for name, size in self.norms.items():
            yield f"{prefix}.{name}.weight", (size,)
        yield f"{prefix}.out_proj.weight", (hidden_size, self.size)
        if self.bias:
            yield f"{prefix}.out_proj.bias", (hidden_size,)

    def shared_inputs(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield f"{prefix}.x_proj.weight", self.size
        yield f"{prefix}.out_proj.weight", self.size
