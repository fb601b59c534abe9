"""Rotation of queries and keys as config.json describes it; layers/rope.py makes the tables.

Sources: RoFormer (arXiv 2104.09864); linear scaling (arXiv 2306.15595); YaRN (arXiv 2309.00071); LongRoPE (arXiv 2402.13753);
the `llama3` rule is the one published with Llama 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ModelError, nearest

#: Kinds of scaling that we have, and what each cannot do without.
KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (),
}
#: Other names of kinds. Of M-RoPE, whose positions are in three parts for images, text has three times the same.
ALIASES = {"su": "longrope", "mrope": "default"}


@dataclass(frozen=True)
class RopeConfig:
    """`rotary_dim` features of a head are rotated; `scaling` is config.json's rope_scaling without its type."""

    rotary_dim: int
    theta: float
    kind: str
    scaling: Mapping[str, Any]
    max_position: int
    interleaved: bool = False
    """A head's features turn with their neighbour, in place of first half with second. Weights are put in the other order as they
    are loaded (`weights/renamed.py`): scores are the same in any order that queries and keys share."""

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], head_dim: int, *, interleaved: bool = False) -> RopeConfig:
        """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Raises ModelError."""
        scaling = dict(rope_of(hf))
        kind = scaling.pop("rope_type", scaling.pop("type", "default"))
        kind = ALIASES.get(kind, kind)
        theta = scaling.pop("rope_theta", None) or hf.get("rope_theta") or 10000.0
        partial = scaling.pop("partial_rotary_factor", None) or hf.get("partial_rotary_factor") or 1.0
        if kind not in KINDS:
            raise ModelError(f"rope scaling {kind!r} is not supported (known: {', '.join(KINDS)}){nearest(kind, KINDS)}")
        if missing := [key for key in KINDS[kind] if scaling.get(key) is None]:
            raise ModelError(f"config.json: rope scaling {kind!r} lacks {' and '.join(missing)}")
        if kind == "proportional":  # all of a head is in the table, and what does not turn has angle 0
            scaling["turning"] = int(head_dim * partial // 2)
            partial = 1.0
        longest = int(hf.get("max_position_embeddings") or 2048)
        config = cls(int(head_dim * partial), float(theta), kind, scaling, longest, interleaved)
        config._check()
        return config

    def _check(self) -> None:
        """Raises ModelError for numbers that make no rotation."""
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ModelError(f"config.json: {self.rotary_dim} features of a head cannot be rotated in pairs; see head_dim")
        if self.kind == "llama3" and self.scaling["high_freq_factor"] < self.scaling["low_freq_factor"]:
            raise ModelError("config.json: rope scaling 'llama3': high_freq_factor must not be below low_freq_factor")
        if self.kind == "longrope":
            for key in KINDS["longrope"]:
                if len(self.scaling[key]) != self.rotary_dim // 2:
                    raise ModelError(f"config.json: rope scaling 'longrope': {key} must have {self.rotary_dim // 2} numbers")
        try:
            if self.kind == "yarn" and not all(map(math.isfinite, (*self.ramp, self.sharpening))):
                raise OverflowError
        except ArithmeticError:
            raise ModelError(f"config.json: rope scaling 'yarn' has numbers that make no rotation: {dict(self.scaling)}") from None

    @property
    def original(self) -> int:
        """The length that the model was trained with."""
        return self.scaling.get("original_max_position_embeddings") or self.max_position

    @cached_property
    def factor(self) -> float:
        """The factor that lengths grow by."""
        return self.scaling.get("factor") or self.max_position / self.original

    @property
    def query_growth(self) -> float:
        """The factor by which queries grow with the logarithm of their position; 0: they do not."""
        return float(self.scaling.get("llama_4_scaling_beta") or 0.0)

    @cached_property
    def ramp(self) -> tuple[float, float]:
        """Of YaRN: dimensions that turn more than `beta_fast` times over the original length are kept, those below `beta_slow` are
        stretched, and these are where the ramp between begins and ends."""

        def dimension(turns: float) -> float:
            return self.rotary_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = dimension(self.scaling.get("beta_fast") or 32), dimension(self.scaling.get("beta_slow") or 1)
        if self.scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        return max(low, 0), min(high, self.rotary_dim - 1)

    @cached_property
    def sharpening(self) -> float:
        """Of YaRN and LongRoPE: attention is sharpened by `attention_factor` (0.1 ln(factor) + 1), which is put into cos and sin."""
        stated, mscale, all_dim = (self.scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
        if stated is not None:
            return float(stated)
        if self.kind == "longrope":
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original)) if self.factor > 1 else 1.0

        def of(scale: float) -> float:
            return 0.1 * scale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

        return of(mscale) / of(all_dim) if mscale and all_dim else of(1.0)


def rope_of(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of rotation as config.json has them: `rope_scaling` first, as in transformers."""
    return hf_config.get("rope_scaling") or hf_config.get("rope_parameters") or {}
