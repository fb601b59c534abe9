"""Threads to compute with: one for each physical core that this process may use.

Two threads on one core take turns at the same vector units, and threads beyond a container's quota are stopped in the middle
of a step while the others wait for them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Some 50 microseconds: more than the gap between two operations, less than a slice of the system's scheduler.
SPIN_COUNT = 3000


@dataclass(frozen=True)
class Threads:
    """A number of threads."""

    count: int
    cores: int
    """Physical cores of the whole machine."""
    limit: str = ""
    """The limit that keeps them below the number of cores, if there is one."""

    @property
    def note(self) -> str:
        """The notice that a user should see, or nothing."""
        return f"threads: {self.count} of {self.cores} cores ({self.limit})" if self.limit else ""


def choose_threads(asked: int | None, *, root: Path = Path("/")) -> Threads:
    """As many as asked for by the setting or else OMP_NUM_THREADS, or one a usable core.

    `root` is where proc and sys are.
    """
    cpus = root / "sys/devices/system/cpu"
    cores = len(_cores(cpus, _online(cpus)))
    if asked is not None:
        return Threads(asked, cores)
    if given := re.match(r"\s*([1-9]\d*)", os.environ.get("OMP_NUM_THREADS", "")):
        return Threads(int(given[1]), cores)
    usable = _usable_cpus()
    count = len(_cores(cpus, usable)) if usable else cores
    limit = "this process may not run on the others" if count < cores else ""
    quota = min(_quotas(root), default=math.inf)
    if quota < count:
        count, limit = max(1, math.ceil(quota)), f"the control group allows {quota:g} CPUs"
    return Threads(count, cores, limit)


def cpus_in_order(*, root: Path = Path("/")) -> tuple[int, ...]:
    """One CPU of each physical core that this process may use, the lowest; none where the system does not say.

    Those of a node of memory stand together, and in it those of a shared cache, so that any few of them are near each other.
    """
    cpus = root / "sys/devices/system/cpu"
    nodes = {
        cpu: int(folder.name[4:])
        for folder in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
        for cpu in _numbers(_read(folder / "cpulist"))
    }
    found: dict[str, tuple[int, int, int]] = {}
    for cpu in sorted(_usable_cpus()):
        core = _read(cpus / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        shared = _numbers(_read(cpus / f"cpu{cpu}/cache/index3/shared_cpu_list"))
        found.setdefault(core, (nodes.get(cpu, 0), min(shared, default=0), cpu))
    return tuple(cpu for _, _, cpu in sorted(found.values()))


def share_of(cpus: Sequence[int], count: int, number: int) -> Sequence[int]:
    """Those of one of several that have `count` threads each; from the first on again where there are too few."""
    return [cpus[(number * count + i) % len(cpus)] for i in range(count)] if cpus else ()


def choose_lanes(asked: int | None, threads: int, notes: list[str]) -> int:
    """As many lanes as asked for, or one for four threads, from 2 to 4; never more than threads.

    Every lane reads all weights, so more than a few would want more memory bandwidth than a machine has.
    """
    if asked is None:
        return min(threads, max(2, threads // 4), 4)
    if asked > threads:
        notes.append(f"lanes: {threads}, one for each thread")
    return min(asked, threads)


def bound_spinning() -> None:
    """Limits how long a thread of GCC's OpenMP that waits for the others keeps its core busy, unless the environment says
    how. To be called before torch is imported.

    Its default of 300,000 rounds, milliseconds, costs nothing on an idle machine and made steps 5 to 10 times slower on a
    busy one, where the core is taken from the very thread that is waited for. No spinning at all is slower by a quarter on
    an idle machine; SPIN_COUNT is as good as the default there.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


def _usable_cpus() -> set[int]:
    """Numbers of the CPUs this process may run on; empty where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _online(cpus: Path) -> set[int]:
    """Numbers of the machine's CPUs."""
    numbers = _numbers(_read(cpus / "online"))
    return numbers or set(range(os.cpu_count() or 1))


def _cores(cpus: Path, numbers: set[int]) -> set[str]:
    """The physical cores that CPUs of these numbers belong to. Without a description each CPU is one."""
    return {_read(cpus / f"cpu{i}/topology/thread_siblings_list") or str(i) for i in numbers}


def _quotas(root: Path) -> Iterator[float]:
    """The limits on this process, in CPUs: that of its control group and those of the groups around it, of both versions.

    In a container the path of the group may be one that only the host sees; the container's own limit is then at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            top = root / "sys/fs/cgroup" / mount
            group = top / path.strip("/")
            while True:
                yield from _quota(group)
                if group == top:
                    break
                group = group.parent


def _quota(group: Path) -> Iterator[float]:
    """The limit of one group, if it has one."""
    words = _read(group / "cpu.max").split() or [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        yield int(words[0]) / int(words[1])


def _numbers(text: str) -> set[int]:
    """The numbers in a list such as 0-3,8."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.strip().isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
