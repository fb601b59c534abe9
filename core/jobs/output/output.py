"""The output of a job. A regular file is a JobOutput: it can be lost at any instant and found again.

    OUT.partial            always a prefix of OUT
    OUT.partial.journal    what is finished and not in it yet, and how far it can be trusted (journal.py)
    OUT                    appears whole, at the end, after what belongs to it

Their names and locks are in output_files.py. A matrix, which is made of its rows at the end, is a MatrixOutput (matrix_output.py).
Anything else (`-`, a FIFO, /dev/…) is a StraightOutput: written through, nothing kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import OutputError
from ..row import Row
from ..stats import JobStats
from ..tally import Tally
from . import faults
from .files import Files
from .job_note import JobNote
from .journal import Commit, Recovered
from .making import sha256_of
from .output_files import OutputFiles
from .remote.staged import Staged
from .sinks.sink import LineSink, Sink
from .spill_index import SpillIndex

#: Least seconds between commits; what finished since the last one is what a kill costs.
COMMIT_EVERY = 0.2
#: Seconds between syncs with --fsync interval.
SYNC_EVERY = 5.0


class JobOutput(OutputFiles):
    """The output of a job that can be resumed.

    Args:
        name: as the user gave it.
        sink: how rows are written, and what OUT is made of.
        errors: file for the lines of failed records.
        fsync: interval, always or never.
        files: the file layer; tests put their own here.
        stats: attempts and seconds, which commits tell.
        staged: of an OUT that lies elsewhere.

    Construction takes the lock and looks at what is there; `begin` or `resume` makes it writable.
    """

    #: OUT is the rows as they are written, so its hash is known when the last one is.
    hashes_rows = True

    def __init__(
        self,
        name: str,
        *,
        sink: Sink | None = None,
        errors: str | None = None,
        fsync: str = "interval",
        files: Files | None = None,
        stats: JobStats | None = None,
        staged: Staged | None = None,
    ) -> None:
        self.sink = sink or LineSink()
        self.spilled = SpillIndex()
        self.is_terminal = False
        self.sha256 = hashlib.sha256()
        self._whole: Path | None = None  # what becomes OUT by its name alone
        self._begun = self._resumed = False
        self._stats = stats or JobStats()
        self._fsync = fsync
        self._unframed: list[Row] = []
        self._unframed_bytes = 0
        self._state = Commit()
        self._tally = Tally()
        self._changed = False
        self._next_commit = self._next_sync = 0.0
        super().__init__(name, errors=errors, files=files or Files(), staged=staged)

    # -- begin ---------------------------------------------------------------------------------------------------
    def begin(self, header: dict[str, Any]) -> None:
        """Starts an empty output of the job `header`."""
        with self.telling():
            self._open()
            self._begun = True  # what is there is this run's own
            assert self._journal is not None
            self._journal.begin({**header, "sides": {side.name: side.place(self.target) for side in self._sides}})
            self._empty()
        faults.fault("begin")

    def resume(self, recovered: Recovered) -> None:
        """Goes on where an unfinished run ended: its torn ends are cut off."""
        self._resumed = True
        with self.telling():
            assert self._journal is not None
            self._journal.continue_from(recovered)
            self._state, self.spilled = recovered.commit, recovered.spilled
            self._tally = Tally.from_entry(recovered.commit.tally)
            self._files.truncate(self._out, self._state.out_bytes)
            for side in self._sides:
                side.cut(self._state.sides.get(side.name, (0, 0))[0])
            if self.hashes_rows:
                self.sha256 = sha256_of(self._files, self._out, self._state.out_bytes)

    # -- Output --------------------------------------------------------------------------------------------------
    @property
    def num_rows(self) -> int:
        return self._state.rows + len(self._unframed)

    @property
    def holds_answers(self) -> bool:
        """True if there is anything that a resumed run would not have to do again."""
        return bool(self.num_rows or len(self.spilled))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._unframed.append(row)
            self._unframed_bytes += len(row.data) + 1
            if self.sink.frame_bytes and self._unframed_bytes >= self.sink.frame_bytes:
                self._write_frame()
        if not self.sink.frame_bytes:
            self._write_frame()
        self._changed = self._changed or bool(rows)

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        now = time.monotonic()
        if not force and now < self._next_commit:
            return False
        if not (self._begun or self._resumed):
            return True  # there was nothing to answer
        assert self._journal is not None
        journal, rows = self._journal, self._state.rows
        with self.telling():
            for row in fresh:
                if row.ordinal >= rows and row.ordinal not in self.spilled:
                    self.spilled.put(row.ordinal, *journal.spill(row))
                    self._changed = True
            if self._changed:
                faults.fault("spill")
                if self._fsync == "always":
                    self._sync_data()
                faults.fault("commit")
                self._state = replace(self._state, attempts=self._stats.attempts, run_s=self._stats.run_all_s)
                journal.commit(self._state)
                journal.write()
                faults.fault("committed")
                self._changed = False
                if self._fsync == "always":
                    journal.sync()
            if self._fsync == "interval" and now >= self._next_sync:
                self._sync_data()
                journal.sync()
                self._next_sync = time.monotonic() + SYNC_EVERY
        self.spilled.drop_before(self._state.rows)
        self._next_commit = time.monotonic() + COMMIT_EVERY
        return True

    def fetch(self, ordinal: int) -> Row:
        assert self._journal is not None
        with self.telling():
            return self._journal.read_row(*self.spilled.get(ordinal))

    def make(self) -> None:
        """Puts on disk all that OUT is to be, unless that was done. It may take a while and be interrupted."""
        if self._whole is not None:
            return
        if not (self._begun or self._resumed):  # there was nothing to answer
            with self.telling():
                self._open()
                self._begun = True
                self._empty()
        if self._unframed:
            self._write_frame()
            self._changed = True
        self.checkpoint([], force=True)
        if self.sink.frame_bytes and not self._state.out_bytes:  # no rows, but a compressed file is never empty
            with self.telling():
                self._files.write(self._out, self.sink.frame([]))
            self.sha256.update(self.sink.frame([]))
        with self.telling(self._bytes_to_make):
            if self._fsync != "never":
                self._sync_data()
                if self._journal is not None:
                    self._journal.sync()  # whoever finds it beside OUT must see that it is finished
            faults.fault("publish")
            whole = self._make()
            self._close_data()
            self._whole = whole

    def finish(self, note: JobNote | None = None) -> None:
        """Publishes. The note is in place when the bytes are all there and OUT is not yet."""
        self.make()
        assert self._whole is not None
        with self.telling():
            if self.staged is not None:
                self.staged.will_send()
            if note is not None:
                note.write(self.target, self._files)
            for side in self._sides:
                side.publish()
            faults.fault("beside")
            self._files.rename(self._whole, self.target)
            self.published = True
            faults.fault("published")
            self._clean()
            faults.fault("cleaned")

    def send(self) -> None:
        """Puts an OUT that lies elsewhere in its place, once it is whole here. May take a while and be interrupted: the next attempt
        goes on with it. Raises InferError."""
        if self.staged is not None:
            self.staged.send()

    @property
    def is_in_place(self) -> bool:
        """True if nothing is left to do with it."""
        return self.published and not (self.staged is not None and self.staged.is_pending)

    def close(self) -> None:
        self._close_files()
        if self._begun and not self.published and not self.holds_answers:
            with contextlib.suppress(OutputError):
                self.discard()  # a run that ended before its first answer leaves nothing behind
        elif not (self._begun or self._resumed):
            for path in self._created:  # nothing was there, and we only looked
                with contextlib.suppress(OSError):
                    self._files.remove(path)
        self.unlock()

    # -- where a matrix differs ----------------------------------------------------------------------------------
    @property
    def _bytes_to_make(self) -> int:
        """Room that OUT needs beside what is there."""
        return 0

    def _make(self) -> Path:
        """Puts in one file what is to become OUT, and returns where it is."""
        return self.partial

    # -- own -----------------------------------------------------------------------------------------------------
    def _write_frame(self) -> None:
        """Encodes and writes all unframed rows."""
        if not self._unframed:
            return
        rows, self._unframed, self._unframed_bytes = self._unframed, [], 0
        data = self.sink.frame(rows)
        state = self._state
        with self.telling(len(data)):
            self._files.write(self._out, data)
            sides = {side.name: side.write(rows, state) for side in self._sides}
        faults.fault("write")
        if self.hashes_rows:
            self.sha256.update(data)
        for row in rows:
            self._tally.add(row.tally)
        self._state = replace(
            state,
            rows=state.rows + len(rows),
            out_bytes=state.out_bytes + len(data),
            out_crc=zlib.crc32(data, state.out_crc),
            chain=rows[-1].chain,
            sides=sides,
            tally=self._tally.to_entry(),
        )
