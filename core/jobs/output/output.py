"""Where finished rows go. A regular file is a JobOutput: it can be lost at any instant and found again.

    OUT.partial            always a prefix of OUT; of a matrix, its rows so far
    OUT.partial.journal    what is finished and not in it yet, and how far it can be trusted (journal.py)
    OUT.partial.lock       held while a run writes; so is FILE.partial.lock of each file beside it
    OUT.partial.made       OUT while it is made from the rows of a matrix
    OUT.ids.jsonl          whose each row of a matrix is, and errors; grows as OUT.ids.jsonl.partial
    OUT                    appears whole, at the end, after what belongs to it

Anything else (`-`, a FIFO, /dev/…) is a StraightOutput: written through, nothing kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, OutputError
from ..row import Row
from ..stats import JobStats
from ..tally import Tally
from .faults import fault
from .files import Files, RealFiles, followed, is_file, is_there, refuse_long_name
from .job_note import JobNote, note_paths, refuse_other_notes
from .journal import JOURNAL_SUFFIX, Commit, Journal, Recovered, is_journal, recover
from .lock import LOCK_SUFFIX, FileLock
from .making import Making, is_whole, sha256_of
from .side_file import PARTIAL_SUFFIX, SideFile, SideLines
from .sinks.sink import LineSink, Sink, Stored
from .spill_index import SpillIndex

MADE_SUFFIX = ".partial.made"
IDS_SUFFIX = ".ids.jsonl"

#: Least seconds between commits; what finished since the last one is what a kill costs.
COMMIT_EVERY = 0.2
#: Seconds between syncs with --fsync interval.
SYNC_EVERY = 5.0


class JobOutput:
    """The output of a job that can be resumed.

    Args:
        name: as the user gave it.
        sink: how rows are written, and what OUT is made of.
        errors: file for the lines of failed records.
        fsync: interval, always or never.
        files: the file layer; tests put their own here.
        stats: attempts and seconds, which commits tell.

    Construction takes the lock and looks at what is there; `begin` or `resume` makes it writable.
    """

    def __init__(
        self,
        name: str,
        *,
        sink: Sink | None = None,
        errors: str | None = None,
        fsync: str = "interval",
        files: Files | None = None,
        stats: JobStats | None = None,
    ) -> None:
        self.name = name
        self.sink = sink or LineSink()
        self.target = followed(name, f"output {name!r}")
        self.partial = self.target.with_name(self.target.name + PARTIAL_SUFFIX)
        self.journal_path = self.target.with_name(self.target.name + JOURNAL_SUFFIX)
        self.made = self.target.with_name(self.target.name + MADE_SUFFIX)
        self.ids_path = self.target.with_name(self.target.name + IDS_SUFFIX)
        self.spilled = SpillIndex()
        self.is_terminal = False
        self.published = False
        self._begun = False
        self._resumed = False
        self._created: list[Path] = []
        self._making: Making | None = None
        self._whole: Path | None = None  # what becomes OUT by its name alone
        self.sha256 = hashlib.sha256()
        self._files = files or RealFiles()
        self._stats = stats or JobStats()
        self._fsync = fsync
        sides = []
        if errors is not None:
            what = f"--errors {errors!r}"
            sides.append(SideLines("errors", followed(errors, what), lambda row: row.error_line, what))
        if self.sink.is_matrix:
            what = f"{str(self.ids_path)!r}, which belongs to output {name!r},"
            sides.append(SideLines("ids", self.ids_path, lambda row: row.side, what))
        self._sides = [SideFile(lines, self._files) for lines in sides]
        self._unframed: list[Row] = []
        self._unframed_bytes = 0
        self._state = Commit()
        self._tally = Tally()
        self._changed = False
        self._next_commit = self._next_sync = 0.0
        self._out = self._journal_fd = -1
        self._journal: Journal | None = None
        self._lock_path = self.target.with_name(self.target.name + LOCK_SUFFIX)
        self._lock: FileLock | None = None
        self._take_locks()

    @property
    def own_paths(self) -> list[Path]:
        """Every file it writes, or removes, or puts in place."""
        own = [self.target, self.partial, self.journal_path, self._lock_path, *([self.made] if self.sink.is_matrix else [])]
        return own + note_paths(self.target) + [path for side in self._sides for path in (side.path, side.partial, side.lock_path)]

    def _take_locks(self) -> None:
        own = self.own_paths
        if len(set(own)) < len(own):
            raise ConfigError("--errors names the output, or a file beside it that belongs to it; choose another file")
        for path in own:
            refuse_long_name(path, self.name)
        self._lock = FileLock(self._lock_path, f"output {self.name!r}")
        try:
            for side in self._sides:
                side.lock()
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        for side in self._sides:
            side.unlock()
        if self._lock is not None:
            self._lock.release()

    # -- what is there -------------------------------------------------------------------------------------------
    @property
    def is_finished(self) -> bool:
        """A whole OUT is there and no unfinished one beside it."""
        return self.has_target and not self.has_partial

    @property
    def has_target(self) -> bool:
        return is_there(self.target)

    @property
    def has_partial(self) -> bool:
        return is_there(self.partial) or is_there(self.journal_path)

    @property
    def errors_path(self) -> Path | None:
        return next((side.path for side in self._sides if side.name == "errors"), None)

    def refuse_files_in_the_way(self, *, replace_errors: bool = False, overwrite: bool = False) -> None:
        """Raises ConfigError for files of others that have names of ours: nothing here is to be gone on with.

        Args:
            replace_errors: the file of failed lines may be replaced.
            overwrite: all of them may, but for the output of another run.
        """
        for side in self._sides:
            side.refuse_others(replace=overwrite or (replace_errors and side.name == "errors"), partial=overwrite)
        if not overwrite:
            refuse_other_notes(self.target, self.name)
        if self.sink.is_matrix and is_there(self.made) and not overwrite:
            raise ConfigError(f"{str(self.made)!r} is needed for output {self.name!r} and is there; move it away, or use --overwrite")

    def tidy(self) -> None:
        """Removes what is left of a run that died when OUT was in place: it had finished."""
        not_yet = self.made if self.sink.is_matrix else self.partial
        if is_there(not_yet) or not is_file(self.journal_path) or not is_file(self.target):
            return
        with self.telling():
            if is_whole(self._files, self.target, self.journal_path, matrix=self.sink.is_matrix):
                self._clean()

    def recover(self) -> Recovered | None:
        """What an unfinished run left; None if nothing of use. Raises ConfigError if it cannot be continued."""
        if not self.has_partial:
            return None
        with self.telling():
            self._open()
            recovered = recover(self._files, self._journal_fd, self._out, {side.name: side.fd for side in self._sides})
            unknown = recovered is None and bool(self._files.read(self._out, 1, 0))
            strange = recovered is None and not is_journal(self._files, self._journal_fd)
            told = (recovered.header.get("sides") or {}) if recovered else {}
            for side in self._sides:
                borne_out, _ = recovered.commit.sides.get(side.name, (0, 0)) if recovered else (0, 0)
                side.refuse_strange(told.get(side.name), borne_out, self.target)
        if strange:
            raise ConfigError(f"{str(self.journal_path)!r} is needed for output {self.name!r} and is another file; move it away")
        if unknown:
            raise ConfigError(
                f"{str(self.partial)!r} has no journal that can be read, so it cannot be resumed; start again with --overwrite"
            )
        return recovered

    def discard(self) -> None:
        """Throws away what an unfinished run left."""
        self._close_files()
        with self.telling():
            for path in (self.partial, self.journal_path, *(side.partial for side in self._sides)):
                self._files.remove(path)
            if self.sink.is_matrix:
                self._files.remove(self.made)

    # -- begin ---------------------------------------------------------------------------------------------------
    def begin(self, header: dict[str, Any]) -> None:
        """Starts an empty output of the job `header`."""
        with self.telling():
            self._open()
            self._begun = True  # what is there is this run's own
            assert self._journal is not None
            self._journal.begin({**header, "sides": {side.name: side.place(self.target) for side in self._sides}})
            self._empty()
        fault("begin")

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
            if not self.sink.is_matrix:
                self.sha256 = sha256_of(self._files, self._out, self._state.out_bytes)

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
                fault("spill")
                if self._fsync == "always":
                    self._sync_data()
                fault("commit")
                self._state = replace(self._state, attempts=self._stats.attempts, run_s=self._stats.run_all_s)
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
        with self.telling(self._state.out_bytes if self.sink.is_matrix else 0):
            if self._fsync != "never":
                self._sync_data()
                if self._journal is not None:
                    self._journal.sync()  # whoever finds it beside OUT must see that it is finished
            fault("publish")
            whole = self._make() if self.sink.is_matrix else self.partial
            self._close_data()
            self._whole = whole

    def finish(self, note: JobNote | None = None) -> None:
        """Publishes. The note is in place when the bytes are all there and OUT is not yet."""
        self.make()
        assert self._whole is not None
        with self.telling():
            if note is not None:
                note.write(self.target, self._files)
            for side in self._sides:
                side.publish()
            fault("beside")
            self._files.rename(self._whole, self.target)
            self.published = True
            fault("published")
            self._clean()
            fault("cleaned")

    def close(self) -> None:
        self._close_files()
        if self._making and not self.published:
            with contextlib.suppress(OSError):
                self._files.remove(self._making.path)  # it can be made again, and may be what filled the disk
        if self._begun and not self.published and not self.holds_answers:
            with contextlib.suppress(OutputError):
                self.discard()  # a run that ended before its first answer leaves nothing behind
        elif not (self._begun or self._resumed):
            for path in self._created:  # nothing was there, and we only looked
                with contextlib.suppress(OSError):
                    self._files.remove(path)
        self._unlock()

    # -- own -----------------------------------------------------------------------------------------------------
    def _open(self) -> None:
        if self._journal is None:
            has_output = is_there(self.partial)
            self._journal_fd = self._open_or_create(self.journal_path, 0o600)
            self._journal = Journal(self._files, self._journal_fd)
            self._out = self._open_or_create(self.partial, 0o666)
            for side in self._sides:
                side.open(self._open_or_create, has_output=has_output)

    def _open_or_create(self, path: Path, mode: int) -> int:
        if not is_there(path):
            self._created.append(path)
        return self._files.open(path, mode)

    def _empty(self) -> None:
        """Throws away the contents of the output and of the files beside it."""
        self._files.truncate(self._out, 0)
        for side in self._sides:
            side.cut(0)

    def _clean(self) -> None:
        """OUT is in place: removes what it was made of. The journal goes last, as it says so."""
        if self.sink.is_matrix:
            self._files.remove(self.partial)
        self._files.remove(self.journal_path)

    def _make(self) -> Path:
        """Writes what is to become OUT beside it, and says so in the journal; returns where it is."""
        assert self._journal is not None
        ids = next(side.fd for side in self._sides if side.name == "ids")
        self._making = making = Making(self._files, self.made)
        making.make(self.sink, Stored(self._files, self._out, ids, self._state.rows, self._state.out_bytes), sync=self._fsync != "never")
        fault("made")
        self.sha256 = making.sha256
        if self._state.rows:  # without any there is no journal to tell
            self._journal.made(making.num_bytes, making.sha256.hexdigest())
            self._journal.write()
            if self._fsync != "never":
                self._journal.sync()
        fault("told")
        return making.path

    def _close_data(self) -> None:
        """All but the journal. Raises OSError: some systems say only now that writing failed."""
        for side in self._sides:
            side.close_file()
        fd, self._out = self._out, -1
        if fd >= 0:
            self._files.close(fd)

    def _close_files(self) -> None:
        """Closes everything and never raises: a file that is not published may be incomplete."""
        for side in self._sides:
            with contextlib.suppress(OSError):
                side.close_file()
        with contextlib.suppress(OSError):
            self._close_data()
        fd, self._journal_fd, self._journal = self._journal_fd, -1, None
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._files.close(fd)

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
        fault("write")
        if not self.sink.is_matrix:
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

    def _sync_data(self) -> None:
        fault("sync")
        self._files.sync(self._out)
        for side in self._sides:
            side.sync()

    @contextlib.contextmanager
    def telling(self, num_bytes: int = 0) -> Any:
        """Turns the system's errors into ours."""
        try:
            yield
        except OSError as error:
            due = num_bytes or (self._journal.bytes_due if self._journal else 0)
            needed = f" (it needs room for {due:,} more bytes at least)" if due and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            where = f": {error.filename!r}" if error.filename is not None else ""
            done = f"output {self.name!r} is whole and in its place, but" if self.published else f"output {self.name!r} cannot be written:"
            raise OutputError(f"{done} {error.strerror}{needed}{where}") from None
