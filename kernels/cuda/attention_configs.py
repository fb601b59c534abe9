"""Tile shapes of the attention kernels, as data: nothing is tuned at start-up.

- prefill: many query rows share each key tile; as large as registers hold without spilling.
- decode: the heads of one group, with tensor cores' smallest tile; keys in flight are what counts.
- fixed: prompts and decodes alike, where results must not depend on which of the two a row is part of.
- segments: prefill over texts that keep no cache.
- biased: segments and prefill with a number added to each pair's score, whose addresses and numbers need registers too, and shared memory
  for each stage: with prefill's own tiles 112 KiB, which sm_86's row does not have.
- fixed biased: fixed, where such a number is added.

As compiled ahead of time by Triton 3.9, attention over the cache spills no registers with 16 bits, whatever the options: by 3.6 8 bytes
(heads of 256 with options on sm_90), by 3.4 80 at most. No signature has ALiBi with a float8 cache (24 to 44 bytes on sm_80) or with heads
of 80 on gfx942. `fixed` with heads of 128 would spill on sm_120 with four warps and 32 keys (72 bytes with options, by 3.9), and with eight
warps (52, by 3.6); on sm_86, which has the same row, 12 bytes do. With four warps `fixed` with heads of 64, and prompts in float32 with
heads of 128 (1.2 kB), would by 3.6, and texts with options and heads of 64 by 3.9 (580 bytes on sm_100). sm_80's rows take no more than
90 KiB of shared memory, and do for sm_86 too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

#: (BLOCK_M, BLOCK_N, num_warps, num_stages).
Row = tuple[int, int, int, int]
#: By (kernel, architecture, bits of an operand; 8: of 16 bits, made of a float8 cache), for head sizes up to 64, 128 and 256. What an
#: architecture lacks is sm_80's; a kernel without rows for 8 bits has the same as for 16. Loads go from block table to keys to product:
#: on NVIDIA's it takes 5 stages to have two tiles of keys on their way.
_TABLE: dict[tuple[str, str, int], tuple[Row, Row, Row]] = {
    ("prefill", "sm_80", 16): ((128, 64, 8, 5), (64, 64, 8, 5), (64, 32, 8, 3)),
    ("prefill", "sm_90", 16): ((128, 64, 8, 3), (128, 64, 8, 5), (64, 64, 8, 3)),
    ("prefill", "gfx942", 16): ((128, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 1)),
    ("prefill", "sm_80", 8): ((64, 32, 8, 2), (64, 32, 8, 2), (32, 32, 8, 2)),
    ("prefill", "sm_90", 8): ((128, 64, 8, 3), (128, 64, 8, 3), (64, 64, 8, 2)),
    ("prefill", "gfx942", 8): ((128, 64, 4, 2), (64, 64, 8, 1), (64, 32, 4, 1)),
    ("prefill", "sm_80", 32): ((32, 16, 4, 2), (32, 16, 8, 2), (16, 16, 4, 2)),
    ("decode", "sm_80", 16): ((16, 64, 4, 5), (16, 64, 4, 5), (16, 32, 8, 5)),
    ("decode", "sm_90", 16): ((16, 64, 4, 5), (16, 64, 4, 5), (16, 64, 4, 3)),
    ("decode", "gfx942", 16): ((16, 64, 4, 2), (16, 64, 4, 2), (16, 32, 4, 2)),
    ("decode", "sm_80", 32): ((16, 32, 4, 2), (16, 32, 4, 2), (16, 16, 4, 2)),
    ("fixed", "sm_80", 16): ((32, 64, 8, 3), (32, 32, 4, 5), (32, 32, 8, 3)),
    ("fixed", "sm_86", 16): ((32, 64, 8, 3), (32, 64, 4, 3), (32, 32, 8, 3)),
    ("fixed", "sm_90", 16): ((32, 64, 8, 3), (32, 64, 4, 3), (32, 32, 8, 3)),
    ("fixed", "gfx942", 16): ((32, 64, 4, 2), (32, 64, 4, 1), (32, 32, 4, 1)),
    ("fixed", "sm_80", 8): ((32, 64, 8, 3), (32, 64, 8, 3), (32, 32, 8, 2)),
    ("fixed", "sm_90", 8): ((32, 64, 8, 3), (32, 64, 8, 3), (32, 32, 8, 2)),
    ("fixed", "gfx942", 8): ((32, 64, 4, 2), (32, 64, 4, 1), (32, 32, 4, 1)),
    ("fixed", "sm_80", 32): ((16, 32, 4, 2), (16, 32, 4, 2), (16, 16, 8, 1)),
    ("fixed biased", "sm_80", 16): ((32, 64, 8, 3), (32, 32, 4, 3), (32, 32, 8, 3)),
    ("fixed biased", "gfx942", 16): ((32, 64, 4, 2), (32, 64, 4, 1), (32, 32, 4, 1)),
    ("fixed biased", "sm_80", 32): ((16, 32, 4, 2), (16, 32, 4, 2), (16, 16, 8, 1)),
    ("segments", "sm_80", 16): ((128, 64, 8, 3), (128, 32, 8, 3), (64, 32, 8, 2)),
    ("segments", "sm_90", 16): ((128, 64, 8, 3), (128, 64, 8, 3), (64, 64, 8, 2)),
    ("segments", "gfx942", 16): ((128, 64, 4, 2), (128, 64, 8, 1), (64, 32, 4, 1)),
    ("segments", "sm_80", 32): ((32, 16, 4, 2), (32, 16, 8, 2), (16, 16, 4, 2)),
    ("biased", "sm_80", 16): ((64, 32, 8, 3), (64, 32, 8, 2), (32, 32, 8, 2)),
    ("biased", "sm_90", 16): ((64, 64, 4, 2), (64, 32, 8, 3), (32, 32, 8, 2)),
    ("biased", "gfx942", 16): ((64, 64, 4, 2), (64, 32, 8, 2), (32, 32, 8, 2)),
    ("biased", "sm_80", 32): ((32, 16, 4, 2), (32, 16, 8, 2), (16, 16, 4, 2)),
}
_HEAD_CLASSES = (64, 128, 256)


#: BLOCK_M of decodes, on every architecture.
DECODE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Launch:
    blocks: dict[str, int]
    """BLOCK_M and BLOCK_N."""
    num_warps: int
    num_stages: int


@functools.cache
def launch(kernel: str, arch: str, dtype: torch.dtype, head_dim: int, cache_dtype: torch.dtype | None = None) -> Launch:
    """The launch of `kernel` for operands of `dtype`, made of a cache of `cache_dtype`. Heads over 256 get the narrowest tiles."""
    bits = dtype.itemsize * 8
    widths = [8, bits] if bits == 16 and cache_dtype is not None and cache_dtype.itemsize == 1 else [bits]
    rows = next(_TABLE[key] for key in ((kernel, name, width) for width in widths for name in (arch, "sm_80")) if key in _TABLE)
    size = next((i for i, most in enumerate(_HEAD_CLASSES) if head_dim <= most), len(_HEAD_CLASSES) - 1)
    block_m, block_n, warps, stages = rows[size] if head_dim <= _HEAD_CLASSES[-1] else (16, 16, 8, 1)
    return Launch({"BLOCK_M": block_m, "BLOCK_N": block_n}, warps, stages)
