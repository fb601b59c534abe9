"""A finished OUT, and what its note says of it: whether it is this job's, and the rows that a new attempt keeps."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ConfigError, OutputError
from ..identity import Identity
from ..tally import Tally
from .files import Files
from .job_note import JOB_SUFFIX, JobNote, find_note
from .making import sha256_of
from .matrix_output import MatrixOutput
from .output import JobOutput
from .previous import Again, FinishedOutput, Previous, count_rows
from .table_output import TableOutput


class Finished:
    """The OUT that is there. Raises ConfigError if its note makes no sense."""

    def __init__(self, output: JobOutput) -> None:
        self._output = output
        self._sha256: str | None = None
        self.note: JobNote | None = find_note(output.target)

    @property
    def time(self) -> str | None:
        """The time of the job."""
        return None if self.note is None else self.note.time

    @property
    def attempts(self) -> int:
        """The number of attempts at the job."""
        return 1 if self.note is None else self.note.attempts

    @property
    def run_s(self) -> float:
        """The seconds that all attempts took."""
        return 0.0 if self.note is None else self.note.run_s

    @property
    def sha256(self) -> str:
        """Of the file as it is. Raises OutputError."""
        if self._sha256 is None:
            self._sha256 = self._hash_of(self._output.target)
        return self._sha256

    def _hash_of(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return sha256_of(Files(), file.fileno(), os.fstat(file.fileno()).st_size).hexdigest()
        except OSError as error:
            raise OutputError(f"{str(path)!r} of output {self._output.name!r} cannot be read: {error.strerror}") from None

    @property
    def rows_sha256(self) -> str:
        """Of the file of rows beside a table; empty for anything else. Raises OutputError."""
        return self._hash_of(self._rows) if isinstance(self._output, TableOutput) else ""

    @property
    def stamp(self) -> dict[str, str | None]:
        """The file and the note beside it, for a journal: an attempt that goes on with the rows of one keeps those of no other."""
        return {"sha256": self.sha256, "note": None if self.note is None else self.note.sha256}

    @property
    def is_intact(self) -> bool:
        """True if it is the file that its note describes."""
        return self.note is not None and self.note.sha256 == self.sha256

    @property
    def has_errors_file(self) -> bool:
        """True if its failed lines were copied to a file."""
        return self.note is not None and bool(self.note.identity.frames.get("errors file"))

    @property
    def tally(self) -> Tally:
        """Of its rows."""
        return count_rows(str(self._rows)) if self.note is None else Tally.from_entry(self.note.tally)

    def is_of(self, identity: Identity) -> bool:
        """True if it is the output of the job `identity`, as that left it."""
        return self.note is not None and not self.note.identity.differences(identity) and self.is_intact

    def check(self, identity: Identity, *, force: bool, changed: bool) -> None:
        """Raises ConfigError unless it is the output of the job `identity`, as that left it. `force`: whatever it is of.

        Args:
            changed: rows of changed records are to be told from others.
        """
        name = self._output.name
        if isinstance(self._output, MatrixOutput):
            self._require_rows()
        if self.note is None and (not force or changed):
            otherwise = "leave --redo changed out" if force else "take it for this job's with --resume-force"
            raise ConfigError(
                f"output {name!r} is there, but not {self._output.target.name + JOB_SUFFIX!r} beside it, which says what job it is of; "
                f"put it back, start again with --overwrite, choose another output, or {otherwise}"
            )
        if self.note is not None and not force:
            self.note.identity.refuse(identity)
            if not self.is_intact:
                raise ConfigError(
                    f"output {name!r} is not the file that the note beside it describes: it was changed after its job finished; "
                    "start again with --overwrite, choose another output, or take it as it is with --resume-force"
                )

        if isinstance(self._output, TableOutput):
            self._require_rows()
            if self.note is not None and self.rows_sha256 != self.note.rows_sha256:
                what = f"{str(self._rows)!r} is not the file of rows that {name!r} was made of"
                raise ConfigError(f"{what}; put it back, or start again with --overwrite")

    def _require_rows(self) -> None:
        if not self._rows.exists():
            what = f"output {self._output.name!r} is there, but {str(self._rows)!r} is not"
            raise ConfigError(f"{what}; put it back, or start again with --overwrite")

    def refuse_matrix(self, *, grown: bool) -> None:
        """Raises ConfigError where rows cannot be taken over. `grown`: there are more records than rows."""
        if not isinstance(self._output, MatrixOutput):
            return
        what = f"{self._output.name!r}, a finished {self._output.sink.name} file"
        if grown:
            raise ConfigError(
                f"the input has grown, and rows cannot be added to {what}; "
                "answer the new records with --offset into another output, or all of them with --overwrite"
            )
        raise ConfigError(
            f"failed lines cannot be copied from {what} that was made without --errors; leave --errors out, or start again with --overwrite"
        )

    def previous(self, again: Again, *, force: bool) -> Previous:
        """Its rows for a new output."""
        return Previous(FinishedOutput(str(self._rows)), self.note, again, force=force)

    @property
    def _rows(self) -> Path:
        """The file that has a line for each row."""
        if isinstance(self._output, MatrixOutput):
            return self._output.ids_path
        return self._output.rows_path if isinstance(self._output, TableOutput) else self._output.target
