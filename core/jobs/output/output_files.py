"""The files of an output: their names, their locks, what an earlier run left in them, and their descriptors.

OUT                       the rows, once there are all of them
OUT.partial               rows so far
OUT.partial.journal       what is finished and not in it yet
OUT.partial.lock          held while a run writes; so is FILE.partial.lock of each file beside it
FILE, FILE.partial        a file beside it: of --errors, or OUT.ids.jsonl (side_file.py)
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any

from ...errors import ConfigError, OutputError
from ...remote.url import shown_name
from . import faults
from .files import Files, followed, is_file, is_there, refuse_long_name
from .job_note import note_paths, refuse_other_notes
from .journal import JOURNAL_SUFFIX, Journal, Recovered, is_journal, recover
from .lock import LOCK_SUFFIX, FileLock
from .making import is_whole
from .remote.staged import Staged
from .side_file import PARTIAL_SUFFIX, SideFile


class OutputFiles:
    """
    Args:
        name: as the user gave it.
        errors: file for the lines of failed records.
        files: the file layer.
        staged: of an OUT that lies elsewhere; all names here are then of its folder.

    Construction takes the locks. Raises LockedError, OutputError, ConfigError.
    """

    def __init__(self, name: str, *, errors: str | None, files: Files, staged: Staged | None = None) -> None:
        self.name = name if staged is None else staged.name
        self.staged = staged
        self.target = followed(name, f"output {name!r}") if staged is None else staged.target
        self.partial = self.beside(PARTIAL_SUFFIX)
        self.journal_path = self.beside(JOURNAL_SUFFIX)
        self._files = files
        self._sides = self._side_files(errors)
        self._lock_path = self.beside(LOCK_SUFFIX)
        self._lock: FileLock | None = None
        self._out = self._journal_fd = -1
        self._journal: Journal | None = None
        self._created: list[Path] = []
        self.published = False
        self._take_locks()

    def beside(self, suffix: str) -> Path:
        """A file whose name begins as OUT does."""
        return self.target.with_name(self.target.name + suffix)

    def _side_files(self, errors: str | None) -> list[SideFile]:
        """The files of lines beside it."""
        if errors is None:
            return []
        what = f"--errors {shown_name(errors)!r}"
        errors = errors if self.staged is None else self.staged.errors
        assert errors is not None, "OUT has such a file wherever it lies"
        return [SideFile("errors", followed(errors, what), lambda row: row.error_line, what, self._files)]

    @property
    def own_paths(self) -> list[Path]:
        """Every file it writes, or removes, or puts in place."""
        own = [self.target, self.partial, self.journal_path, self._lock_path]
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
            self.unlock()
            raise

    def unlock(self) -> None:
        """Lets others have it."""
        for side in self._sides:
            side.unlock()
        if self._lock is not None:
            self._lock.release()
        if self.staged is not None:
            self.staged.close(has_partial=self.has_partial)

    @property
    def is_finished(self) -> bool:
        """A whole OUT is there and no unfinished one beside it."""
        return self.has_target and not self.has_partial

    @property
    def has_target(self) -> bool:
        return is_there(self.target) or (self.staged is not None and self.staged.exists)

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

    # -- an earlier run's -----------------------------------------------------------------------------------------
    def tidy(self) -> None:
        """Removes what is left of a run that died when OUT was in place: it had finished."""
        if is_there(self._not_whole) or not is_file(self.journal_path) or not is_file(self.target):
            return
        with self.telling():
            if self._is_whole():
                self._clean()

    def _is_whole(self) -> bool:
        """True if OUT is all that the job of the journal beside it was to write. Raises OSError."""
        return is_whole(self._files, self.target, self.journal_path, matrix=False)

    @property
    def _not_whole(self) -> Path:
        """The files that are gone once OUT is there."""
        return self.partial

    def _clean(self) -> None:
        """OUT is in place: removes what it was made of. The journal goes last, as it says so."""
        self._files.remove(self.journal_path)

    def recover(self) -> Recovered | None:
        """The remains of an unfinished run; None if there is nothing of use. Raises ConfigError if it cannot be continued."""
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
            for path in self._unfinished_paths:
                self._files.remove(path)

    @property
    def _unfinished_paths(self) -> list[Path]:
        """The files that an unfinished run leaves."""
        return [self.partial, self.journal_path, *(side.partial for side in self._sides)]

    # -- open -----------------------------------------------------------------------------------------------------
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

    def _sync_data(self) -> None:
        faults.fault("sync")
        self._files.sync(self._out)
        for side in self._sides:
            side.sync()

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
