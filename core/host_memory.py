"""This machine's main memory, and how much of it preempted records may take."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigError

#: Shares of main memory that `swap_space` may take: beyond the first it is said, beyond the second it is refused.
LARGE, TOO_LARGE = 0.4, 0.7


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
