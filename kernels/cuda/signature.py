"""Signatures: what each kernel says of how it is launched; see aot.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .configs import SHARED


@dataclass(frozen=True)
class Target:
    """A processor that kernels are compiled for."""

    name: str
    backend: str
    arch: int | str
    warp_size: int
    matrix_instruction: str
    """The instructions that the assembly holds where tensor cores are used, as a regular expression."""
    row: str
    """Of the tables of configurations: the one that this processor goes by."""

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory one block may have."""
        return SHARED[self.row]

    @property
    def converts_e4m3(self) -> bool:
        """See `narrow.converts_e4m3`."""
        return not isinstance(self.arch, int) or self.arch >= 89


#: Limits: CUDA C++ programming guide, table of technical specifications by compute capability; CDNA 3 ISA guide, LDS.
TARGETS = (
    Target("sm_80", "cuda", 80, 32, r"\bmma\.sync", "sm_80"),
    Target("sm_86", "cuda", 86, 32, r"\bmma\.sync", "sm_86"),
    Target("sm_90", "cuda", 90, 32, r"\b(mma\.sync|wgmma\.mma_async)", "sm_90"),
    Target("sm_100", "cuda", 100, 32, r"\b(mma\.sync|tcgen05\.mma)", "sm_90"),
    Target("sm_120", "cuda", 120, 32, r"\bmma\.sync", "sm_86"),
    Target("gfx942", "hip", "gfx942", 64, r"\bv_mfma_", "gfx942"),
)
#: Their names.
ALL = tuple(target.name for target in TARGETS)


@dataclass(frozen=True)
class Signature:
    """One way in which a kernel is launched."""

    kernel: Any
    """The function that `triton.jit` gave."""
    name: str
    """Of this signature, for people: kernel, dtype and shape class."""
    types: dict[str, str]
    """Of each argument that is no constexpr, as Triton writes them: "*fp16", "i64", "fp32". Pointers count as aligned to 16 bytes;
    an integer known to be a multiple of 16 is "i64:16", one that is always 1 belongs to constexprs."""
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    uses_tensor_cores: bool = False
    targets: tuple[str, ...] = ALL
    """Names of the targets it is for: another configuration may be another's, and not every dtype is everywhere."""
    always: bool = False
    """True if `--quick` compiles it on each of its targets, and not only where it is a kernel's first."""
    spill_limit: int = 0
    """Most bytes of registers that one thread may spill. Say why where it is not 0."""
