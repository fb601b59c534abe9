"""Beside: records prepared in a thread of their own while the engine steps, where preparing them waits for disks and other machines."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..record import Record
from .pending import Pending
from .protocol import AnyTask

#: Records of one batch: the first of them are wanted soon, and the media of all of them are held.
BATCH = 32


class Beside:
    """One batch at a time, so that records reach the engine in the order in which they were read. For one thread."""

    def __init__(self, task: AnyTask) -> None:
        self._task = task
        self._records: Sequence[Record] = ()
        self._pendings: list[Pending] | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()

    @property
    def num_records(self) -> int:
        """Those that are in work."""
        return len(self._records)

    def begin(self, records: Sequence[Record]) -> None:
        """Prepares a batch; none is in work."""
        assert not self._records
        assert records
        self._records, self._pendings, self._error = records, None, None
        self._done.clear()
        # Nobody waits for it when the program ends: a host that does not answer keeps nobody.
        threading.Thread(target=self._prepare, name="prepare", daemon=True).start()

    def take(self, seconds: float) -> list[Pending]:
        """The batch, if it is done by then; else nothing. Raises what preparing it raised."""
        if not self._records or not self._done.wait(seconds):
            return []
        self._records = ()
        if self._error is not None:
            raise self._error
        assert self._pendings is not None
        found, self._pendings = self._pendings, None
        return found

    def _prepare(self) -> None:
        try:
            self._pendings = self._task.prepare(self._records)
        except BaseException as error:
            self._error = error
        self._done.set()
