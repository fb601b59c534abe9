"""CPU features, as Linux reports them. Imports no torch: a command that needs no engine may ask."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

#: Dot products of bfloat16: x86's two kinds, and Arm's.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
#: What `infer doctor` shows, weakest first.
SHOWN = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@functools.cache
def features() -> frozenset[str]:
    """Names of the CPU's instruction sets as in /proc/cpuinfo; empty where there is no such file."""
    return frozenset(_field("flags", "Features").split())


@functools.cache
def model_name() -> str:
    """The CPU's own name, or else its architecture."""
    return _field("model name") or platform.processor() or platform.machine()


def _field(*names: str) -> str:
    """The first CPU's field under one of these names; empty if there is none."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() in names), "")
