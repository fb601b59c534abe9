"""Where finished rows go. A regular file is a JobOutput: it can be lost at any instant and found again.

    OUT.partial            always a prefix of OUT
    OUT.partial.journal    what is finished and not in it yet, and how far it can be trusted (journal.py)
    OUT.partial.lock       held while a run writes
    OUT                    appears whole, at the end

Anything else (`-`, a FIFO, /dev/…) is a StraightOutput: written through, nothing kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, OutputError
from .compression import encoder
from .faults import fault
from .files import Files, RealFiles
from .journal import Commit, Journal, Recovered, SpillIndex, recover
from .lock import OutputLock
from .row import Row
from .tally import Tally

PARTIAL_SUFFIX = ".partial"
JOURNAL_SUFFIX = ".partial.journal"
LOCK_SUFFIX = ".partial.lock"

#: Least seconds between commits; what finished since the last one is what a kill costs.
COMMIT_EVERY = 0.2
#: Seconds between syncs with --fsync interval.
SYNC_EVERY = 5.0

#: The disk's fault, not the command line's.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


class Output(Protocol):
    """The writer's side of an output."""

    spilled: SpillIndex
    """Rows that can be fetched back: finished, not written, not held in memory."""

    @property
    def num_rows(self) -> int:
        """Rows in it so far: the ordinal of the next."""

    def write(self, rows: Sequence[Row]) -> None:
        """The next rows, in order. Raises OutputError, or BrokenPipeError when nobody reads any more."""

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        """Makes what was finished survive, `fresh` rows included whether written or not; False if it is too early for that."""

    def fetch(self, ordinal: int) -> Row:
        """A spilled row."""

    def finish(self) -> None:
        """Nothing more comes: make the output what its name promises."""

    def close(self) -> None:
        """Let go of it, finished or not. Never raises."""


class JobOutput:
    """The output of a job that can be resumed.

    Args:
        name: as the user gave it.
        compression: none, gzip or zstd.
        errors: file for the lines of failed records.
        fsync: interval, always or never.
        files: the file layer; tests put their own here.

    Construction takes the lock and looks at what is there; `begin` or `resume` makes it writable.
    """

    def __init__(
        self,
        name: str,
        *,
        compression: str = "none",
        errors: str | None = None,
        fsync: str = "interval",
        files: Files | None = None,
        clock: Callable[[], tuple[int, float]] = lambda: (1, 0.0),
    ) -> None:
        self.name = name
        self.target = Path(os.path.realpath(name))
        self.partial = self.target.with_name(self.target.name + PARTIAL_SUFFIX)
        self.journal_path = self.target.with_name(self.target.name + JOURNAL_SUFFIX)
        self.errors = Path(os.path.realpath(errors)) if errors is not None else None
        self.spilled = SpillIndex()
        self.is_terminal = False
        self.published = False
        self._begun = False
        self._resumed = False
        self._created: list[Path] = []
        self._errors_published = False
        self.sha256 = hashlib.sha256()
        self._files = files or RealFiles()
        self._clock = clock
        self._fsync = fsync
        self._encode, self._frame_bytes = encoder(compression)
        self._unframed: list[Row] = []
        self._unframed_bytes = 0
        self._state = Commit()
        self._tally = Tally()
        self._changed = False
        self._next_commit = self._next_sync = 0.0
        self._out = self._error = -1
        self._journal_fd = -1
        self._journal: Journal | None = None
        self._lock = OutputLock(self.target.with_name(self.target.name + LOCK_SUFFIX), name)

    @property
    def own_paths(self) -> list[Path]:
        """Every file it writes, or removes, or puts in place."""
        theirs = [self.errors, self._error_partial]
        return [self.target, self.partial, self.journal_path, self._lock.path, *(path for path in theirs if path is not None)]

    # -- what is there -------------------------------------------------------------------------------------------
    @property
    def is_finished(self) -> bool:
        """A whole OUT is there and no unfinished one beside it."""
        return self.target.exists() and not self.has_partial

    @property
    def has_partial(self) -> bool:
        return self.partial.exists() or self.journal_path.exists()

    def tidy(self) -> None:
        """Removes the journal of a run that died when OUT was in place: it had finished."""
        if self.partial.exists() or not self.journal_path.exists() or not self.target.is_file():
            return
        with self._telling():
            journal = self._files.open(self.journal_path, 0o600)
            try:
                target = self._files.open(self.target, 0o666)
                try:
                    left = recover(self._files, journal, target, None)
                finally:
                    self._files.close(target)
            finally:
                self._files.close(journal)
            whole = (
                left is not None and left.holds_answers and not len(left.spilled) and left.commit.out_bytes == self.target.stat().st_size
            )
            if whole:
                self._files.remove(self.journal_path)

    def recover(self) -> Recovered | None:
        """What an unfinished run left; None if nothing of use. Raises ConfigError if it cannot be continued."""
        if not self.has_partial:
            return None
        with self._telling():
            self._open()
            recovered = recover(self._files, self._journal_fd, self._out, self._error if self.errors else None)
            unknown = recovered is None and bool(self._files.read(self._out, 1, 0))
        if unknown:
            raise ConfigError(
                f"{str(self.partial)!r} has no journal that can be read, so it cannot be resumed; start again with --overwrite"
            )
        return recovered

    def discard(self) -> None:
        """Throws away what an unfinished run left."""
        self._close_files()
        with self._telling():
            for path in (self.partial, self.journal_path, self._error_partial):
                if path is not None:
                    self._files.remove(path)

    # -- begin ---------------------------------------------------------------------------------------------------
    def begin(self, header: dict[str, Any]) -> None:
        """Starts an empty output of the job `header`."""
        with self._telling():
            self._open()
            self._begun = True  # what is there is this run's own
            assert self._journal is not None
            self._journal.begin(header)
            self._empty()
        fault("begin")

    def resume(self, recovered: Recovered) -> None:
        """Goes on where an unfinished run ended: its torn ends are cut off."""
        self._resumed = True
        with self._telling():
            assert self._journal is not None
            self._take_errors_back(whole=recovered.commit.error_bytes > 0)
            self._journal.continue_from(recovered)
            self._state, self.spilled = recovered.commit, recovered.spilled
            self._tally = Tally.from_entry(recovered.commit.tally)
            self._files.truncate(self._out, self._state.out_bytes)
            if self._error >= 0:
                self._files.truncate(self._error, self._state.error_bytes)
            offset = 0
            while offset < self._state.out_bytes:
                chunk = self._files.read(self._out, min(1 << 20, self._state.out_bytes - offset), offset)
                self.sha256.update(chunk)
                offset += len(chunk)

    # -- Output --------------------------------------------------------------------------------------------------
    @property
    def num_rows(self) -> int:
        return self._state.rows + len(self._unframed)

    @property
    def holds_answers(self) -> bool:
        """Whether there is anything that a resumed run would not have to do again."""
        return bool(self.num_rows or len(self.spilled))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._unframed.append(row)
            self._unframed_bytes += len(row.data) + 1
            if self._frame_bytes and self._unframed_bytes >= self._frame_bytes:
                self._write_frame()
        if not self._frame_bytes:
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
        with self._telling():
            for row in fresh:
                if row.ordinal >= rows and row.ordinal not in self.spilled:
                    self.spilled.put(row.ordinal, *journal.spill(row))
                    self._changed = True
            if self._changed:
                fault("spill")
                if self._fsync == "always":
                    self._sync_data()
                fault("commit")
                attempts, run_s = self._clock()
                self._state = replace(self._state, attempts=attempts, run_s=run_s)
                journal.commit(self._state)
                journal.write()
                fault("committed")
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
        with self._telling():
            return self._journal.read_row(*self.spilled.get(ordinal))

    def finish(self, before_publishing: Callable[[], None] = lambda: None) -> None:
        """Publishes. `before_publishing` is called when the bytes are all there and OUT is not yet."""
        if not (self._begun or self._resumed):  # there was nothing to answer
            with self._telling():
                self._open()
                self._begun = True
                self._empty()
        if self._unframed:
            self._write_frame()
            self._changed = True
        self.checkpoint([], force=True)
        if self._frame_bytes and not self._state.out_bytes:  # no rows, but a compressed file is never empty
            with self._telling():
                self._files.write(self._out, self._encode(b""))
            self.sha256.update(self._encode(b""))
        with self._telling():
            if self._fsync != "never":
                self._sync_data()
                if self._journal is not None:
                    self._journal.sync()  # whoever finds it beside OUT must see that it is finished
            fault("publish")
            before_publishing()
            if self.errors is not None and self._error_partial is not None:
                self._files.rename(self._error_partial, self.errors)
            self._files.rename(self.partial, self.target)
            self.published = True
            fault("published")
            self._files.remove(self.journal_path)
            fault("cleaned")

    def close(self) -> None:
        self._close_files()
        if self._begun and not self.published and not self.holds_answers:
            with contextlib.suppress(OutputError):
                self.discard()  # a run that ended before its first answer leaves nothing behind
        elif not (self._begun or self._resumed):
            for path in self._created:  # nothing was there, and we only looked
                with contextlib.suppress(OSError):
                    self._files.remove(path)
        self._lock.release()

    # -- own -----------------------------------------------------------------------------------------------------
    @property
    def _error_partial(self) -> Path | None:
        return None if self.errors is None else self.errors.with_name(self.errors.name + PARTIAL_SUFFIX)

    def _open(self) -> None:
        if self._journal is None:
            errors = self._error_partial
            # A run that died between publishing the errors and publishing the output.
            self._errors_published = (
                self.errors is not None and errors is not None and not errors.exists() and self.errors.is_file() and self.partial.exists()
            )
            self._journal_fd = self._open_or_create(self.journal_path, 0o600)
            self._journal = Journal(self._files, self._journal_fd)
            self._out = self._open_or_create(self.partial, 0o666)
            if self.errors is not None and errors is not None:
                self._error = self._open_or_create(self.errors if self._errors_published else errors, 0o666)

    def _open_or_create(self, path: Path, mode: int) -> int:
        if not path.exists():
            self._created.append(path)
        return self._files.open(path, mode)

    def _take_errors_back(self, *, whole: bool) -> None:
        """Makes the open errors file this run's own again: the published one if it is `whole`, else a new one."""
        if not self._errors_published:
            return
        assert self.errors is not None
        assert self._error_partial is not None
        self._errors_published = False
        if whole:
            self._files.rename(self.errors, self._error_partial)
        else:
            self._files.close(self._error)
            self._error = self._files.open(self._error_partial, 0o666)

    def _empty(self) -> None:
        """Throws away the contents of output and errors file."""
        self._files.truncate(self._out, 0)
        self._take_errors_back(whole=False)
        if self._error >= 0:
            self._files.truncate(self._error, 0)

    def _close_files(self) -> None:
        for fd in (self._out, self._error, self._journal_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    self._files.close(fd)
        self._out = self._error = self._journal_fd = -1
        self._journal = None

    def _write_frame(self) -> None:
        """Encodes and writes all unframed rows."""
        if not self._unframed:
            return
        rows, self._unframed, self._unframed_bytes = self._unframed, [], 0
        data = self._encode(b"".join([row.data + b"\n" for row in rows]))
        errors = b"".join([row.error_line + b"\n" for row in rows if row.error_line is not None]) if self._error >= 0 else b""
        state = self._state
        with self._telling(len(data)):
            self._files.write(self._out, data)
            if errors:
                self._files.write(self._error, errors)
        fault("write")
        self.sha256.update(data)
        for row in rows:
            self._tally.add(row.tally)
        self._state = replace(
            state,
            rows=state.rows + len(rows),
            out_bytes=state.out_bytes + len(data),
            out_crc=zlib.crc32(data, state.out_crc),
            chain=rows[-1].chain,
            error_bytes=state.error_bytes + len(errors),
            error_crc=zlib.crc32(errors, state.error_crc),
            tally=self._tally.to_entry(),
        )

    def _sync_data(self) -> None:
        fault("sync")
        self._files.sync(self._out)
        if self._error >= 0:
            self._files.sync(self._error)

    @contextlib.contextmanager
    def _telling(self, num_bytes: int = 0) -> Any:
        """Turns the system's errors into ours."""
        try:
            yield
        except OSError as error:
            kind = OutputError if error.errno in _NO_ROOM or self.holds_answers else ConfigError
            due = num_bytes or (self._journal.bytes_due if self._journal else 0)
            needed = f" (it needs room for {due:,} more bytes at least)" if due and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise kind(f"output {self.name!r} cannot be written: {error.strerror}{needed}") from None
