"""Tile shapes of attention over latents, as data: see ../attention_configs.py, whose kernels' names these are."""

from __future__ import annotations

import torch

from ..attention_configs import Launch, Row
from ..configs import next_power_of_2

#: By (kernel, architecture, bits of an operand; 8: of 16 bits, made of a float8 cache); what an architecture lacks is sm_80's, and what
#: has no row for 8 bits has the same as for 16. An accumulator row is as wide as a latent, 512 features mostly: that leaves registers for
#: few rows, and sm_86's shared memory for two tiles of 32 latents. With four warps decodes spill 112 bytes by Triton 3.6. Where
#: float8 goes by its bits, 3.4 spills 340 bytes of tiles of 32.
_TABLE: dict[tuple[str, str, int], Row] = {
    ("prefill", "sm_80", 16): (32, 32, 8, 2),
    ("prefill", "gfx942", 16): (32, 16, 4, 1),
    ("prefill", "sm_80", 8): (16, 16, 8, 2),
    ("prefill", "sm_90", 8): (16, 32, 8, 2),
    ("prefill", "gfx942", 8): (16, 32, 4, 1),
    ("prefill", "sm_80", 32): (16, 16, 8, 1),
    ("prefill", "gfx942", 32): (16, 16, 4, 1),
    ("decode", "sm_80", 16): (16, 32, 8, 2),
    ("decode", "gfx942", 16): (16, 32, 4, 1),
    ("decode", "sm_80", 8): (16, 16, 8, 2),
    ("decode", "gfx942", 8): (16, 32, 4, 1),
    ("decode", "sm_80", 32): (16, 16, 8, 1),
    ("decode", "gfx942", 32): (16, 16, 4, 1),
    ("fixed", "sm_80", 16): (16, 32, 8, 2),
    ("fixed", "gfx942", 16): (16, 32, 4, 1),
    ("fixed", "sm_80", 8): (16, 16, 8, 2),
    ("fixed", "gfx942", 8): (16, 32, 4, 1),
    ("fixed", "sm_80", 32): (16, 16, 8, 1),
    ("fixed", "gfx942", 32): (16, 16, 4, 1),
}


def latent_launch(kernel: str, arch: str, dtype: torch.dtype, cache_dtype: torch.dtype) -> Launch:
    """The launch of `kernel` for operands of `dtype`, made of a cache of `cache_dtype`."""
    bits = dtype.itemsize * 8
    widths = [8, bits] if bits == 16 and cache_dtype.itemsize == 1 else [bits]
    block_m, block_n, warps, stages = next(
        _TABLE[key] for key in ((kernel, name, width) for width in widths for name in (arch, "sm_80")) if key in _TABLE
    )
    return Launch({"BLOCK_M": block_m, "BLOCK_N": block_n}, warps, stages)


def of_latents(heads: int, dim: int, latent: int) -> dict[str, int]:
    """Constants of the kernel that a layer decides."""
    turned = dim - latent
    pads = {"RANK_PAD": max(16, next_power_of_2(latent)), "TURNED_PAD": max(16, next_power_of_2(turned))}
    return {"HEADS": heads, "RANK": latent, "TURNED": turned} | pads
