"""Main memory of this machine, the part that this process may have, and that of preempted records."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..errors import ConfigError, EngineError

#: Shares of main memory that `swap_space` may take: beyond the first it is said, beyond the second it is refused.
LARGE, TOO_LARGE = 0.4, 0.7

#: Bytes of address space below which torch cannot even be loaded: it ends the process when that fails in some places.
LEAST_ADDRESS_SPACE = 640 << 20
#: How loaders, allocators and thread libraries tell of too little memory in errors that have no number.
_LACKING = ("failed to map segment", "annot allocate memory", "an't allocate memory", "can't start new thread", "bad_alloc")


def address_space() -> int | None:
    """Bytes of address space that this process may have (`ulimit -v`); None where there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft in (resource.RLIM_INFINITY, -1) else soft


def refuse_little_address_space() -> None:
    """Raises EngineError where torch could not be loaded."""
    limit = address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise EngineError(f"out of memory: {_limited(limit)}, and torch alone takes {LEAST_ADDRESS_SPACE >> 20} MiB; raise the limit")


def lacks_memory(error: BaseException | None) -> bool:
    """True for an error that comes from a lack of memory or of address space."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, (ImportError, RuntimeError, OSError)) and any(sign in str(error) for sign in _LACKING):
            return True
        error = error.__cause__ or error.__context__
    return False


def how_memory_lacks() -> str:
    """The message for the user."""
    limit = address_space()
    if limit is None:
        return "out of memory; ask for less (--kv-cache-memory-bytes, --max-num-seqs), or choose a smaller model"
    return f"out of memory: {_limited(limit)}; raise the limit, or ask for less (--kv-cache-memory-bytes, --max-num-seqs)"


def _limited(limit: int) -> str:
    return f"the address space of this process is limited to {limit >> 20:,} MiB (ulimit -v)"


def total_memory(*, root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process may use, its control group's limit counted; None where the system does not say.

    `root` is where sys is.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((root / limit).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return total if total > 0 else None


def choose_swap_space(asked: float, *, is_given: bool, ranks: int, total: int | None, notes: list[str]) -> float:
    """GiB of main memory for each of `ranks` GPUs.

    Args:
        asked: the setting's value.
        is_given: whether the user gave it: a default that is too large is lowered.
        total: bytes of main memory; None if that is not known.

    Raises ConfigError for a given value that is too large.
    """
    if total is None:
        return asked
    whole = total / 2**30
    share = asked * ranks / whole
    if share <= LARGE:
        return asked
    if not is_given:
        lowered = whole * LARGE / ranks
        notes.append(f"swap_space: {lowered:.1f} GiB for each GPU, {LARGE:.0%} of this machine's {whole:.1f} GiB in all")
        return lowered
    each = f" for each of {ranks} GPUs" if ranks > 1 else ""
    if share > TOO_LARGE:
        raise ConfigError(
            f"swap_space={asked:g} GiB{each} is too large for this machine's {whole:.1f} GiB of memory; "
            f"lower it to {whole * TOO_LARGE / ranks:.1f} or less (0: preempted records are computed again)"
        )
    notes.append(f"swap_space: {asked:g} GiB{each} may take {share:.0%} of this machine's {whole:.1f} GiB of memory")
    return asked
