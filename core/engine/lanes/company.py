"""Company: whether other processes want the cores that this one computes on.

Linux tells for each thread how long it was ready to run but had no core. If nothing else runs, that is almost no time. If another
process is busy on one of two cores, the thread that shares this core waits for half of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

#: Seconds between two looks.
PERIOD = 0.25
#: Shares of the threads' time without a core: above the first there is company, below the second there is none.
CROWDED, CALM = 0.08, 0.03
#: Looks without company after which it is gone.
PATIENCE = 8


class Company:
    """
    Args:
        threads: that compute.
        tasks: where the system tells of this process's threads. Where it does not, there is never company.
    """

    def __init__(self, threads: int, *, tasks: Path = Path("/proc/self/task"), clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = threads
        self._tasks = tasks
        self._clock = clock
        self._looked = clock()
        self._waited = self._read()
        self._calm_looks = 0
        self._is_there = False

    def is_there(self) -> bool:
        """True if cores were taken from this process lately. Cheap: looks a few times a second, however often it is asked."""
        now = self._clock()
        if (passed := now - self._looked) < PERIOD:
            return self._is_there
        waited = self._read()
        share = sum(ns - self._waited.get(task, ns) for task, ns in waited.items()) / 1e9 / (passed * self._threads)
        self._looked, self._waited = now, waited
        self._calm_looks = self._calm_looks + 1 if share < CALM else 0
        if share > CROWDED:
            self._is_there = True
        elif self._calm_looks >= PATIENCE:
            self._is_there = False
        return self._is_there

    def _read(self) -> dict[str, int]:
        """Nanoseconds that each thread has waited for a core."""
        waited = {}
        try:
            for task in self._tasks.iterdir():
                try:
                    waited[task.name] = int((task / "schedstat").read_text().split()[1])
                except (OSError, ValueError, IndexError):  # it has ended, or the system does not say
                    continue
        except OSError:
            return {}
        return waited
