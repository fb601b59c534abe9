"""A watch on the other ranks while this process waits for its GPU.

A GPU that waits for a rank that is gone waits for ever: collectives in recorded steps know no time limit, and whoever asks the device
for a result waits with it. So a thread beside it looks whether all are alive and how long the step takes, and ends the wait from
outside. What the device then gives means nothing, and whoever waited is told so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ..errors import InferError
from .group import Lost

log = logging.getLogger(__name__)

#: Seconds from one look to the next.
INTERVAL = 0.25


class Process(Protocol):
    """One that can be gone."""

    @property
    def ended(self) -> bool: ...


class Watch:
    """
    Args:
        processes: who must be alive.
        abort: makes the device give up what it waits for; may be called from any thread.
        stall_timeout: seconds that `waiting` may take.
        interval: seconds from one look to the next.
    """

    def __init__(
        self, processes: Sequence[Process], abort: Callable[[], None], *, stall_timeout: float, interval: float = INTERVAL
    ) -> None:
        self._processes = processes
        self._abort = abort
        self._stall_timeout = stall_timeout
        self._interval = interval
        self._since: float | None = None
        self._lost = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="infer-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever may wait for the device. Raises Lost where a process is gone or time is up, whatever became of it meanwhile."""
        self._since = time.monotonic()
        try:
            yield
        except InferError:
            raise
        except Exception as error:  # what torch raises of a device whose work was ended
            self.check(error)
            raise
        finally:
            self._since = None
        self.check()

    def check(self, cause: BaseException | None = None) -> None:
        """Raises Lost if what the device gave means nothing."""
        if lost := self._lost or self._missing():
            raise Lost(lost) from cause

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.wait(self._interval):
            self._lost = self._missing() or self._overdue()
            if self._lost:
                try:
                    self._abort()
                except RuntimeError as error:  # then the wait has an end of its own, or none
                    log.debug("cannot be aborted: %s", error)
                return

    def _missing(self) -> str:
        return "a rank is gone" if any(process.ended for process in self._processes) else ""

    def _overdue(self) -> str:
        since = self._since
        return "time is up" if since is not None and time.monotonic() - since > self._stall_timeout else ""
