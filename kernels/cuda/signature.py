"""What each kernel says of how it is launched, so that it can be compiled where it cannot run: see aot.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """A processor that kernels are compiled for."""

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared_limit: int
    """Bytes of shared memory one block may have."""
    matrix_instruction: str
    """What the assembly holds where tensor cores are used, as a regular expression."""


#: Limits: CUDA C++ programming guide, table of technical specifications by compute capability; CDNA 3 ISA guide, LDS.
TARGETS = (
    Target("sm_80", "cuda", 80, 32, 163 * 1024, r"\bmma\.sync"),
    Target("sm_90", "cuda", 90, 32, 227 * 1024, r"\b(mma\.sync|wgmma\.mma_async)"),
    Target("gfx942", "hip", "gfx942", 64, 64 * 1024, r"\bv_mfma_"),
)


@dataclass(frozen=True)
class Signature:
    """One way in which a kernel is launched."""

    kernel: Any
    """What `triton.jit` gave."""
    name: str
    """Of this signature, for people: kernel, dtype and shape class."""
    types: dict[str, str]
    """Of each argument that is no constexpr, as Triton writes them: "*fp16", "i64", "fp32". Pointers count as aligned to 16 bytes;
    an integer known to be a multiple of 16 is "i64:16", one that is always 1 belongs to constexprs."""
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    uses_tensor_cores: bool = False
    targets: tuple[str, ...] = ("sm_80", "sm_90", "gfx942")
    """Names of the targets it is for: another configuration may be another's, and not every dtype is everywhere."""
    always: bool = False
    """Whether `--quick` compiles it on each of its targets, and not only where it is a kernel's first."""
    spill_limit: int = 0
    """Most bytes of registers that one thread may spill. Say why where it is not 0."""
