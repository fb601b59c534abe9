"""One attempt at a job, opened: its inputs, its output, and what earlier attempts left."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, BinaryIO

from ..errors import ConfigError
from .identity import Identity
from .input.inputs import Inputs
from .input.reader import RecordReader
from .job_time import job_time
from .options import JobOptions
from .output.finished import Finished
from .output.job_note import JobNote
from .output.journal import Recovered
from .output.matrix_output import MatrixOutput
from .output.opening import merge_left, open_output
from .output.output import JobOutput
from .output.previous import Previous
from .output.sinks.table_sink import KEPT
from .output.table_output import TableOutput
from .stats import JobStats
from .tally import Tally


class Attempt:
    """
    Args:
        stdout: the stream behind `-`.

    Raises ConfigError, LockedError, OutputError; then nothing is held.

    Attributes:
        now: the job's time, which its templates tell. An earlier attempt's goes on.
        recovered: the unfinished output that is gone on with, if there is one; `was_begun`: there was one, of use or not.
        finished: the finished output that is gone on with, if there is one.
        previous: its rows that are kept, to be closed with this.
    """

    def __init__(self, options: JobOptions, stats: JobStats, *, stdout: BinaryIO | None = None) -> None:
        self.options = options
        self.stats = stats
        self.was_done = False
        self.was_begun = False
        self.recovered: Recovered | None = None
        self.finished: Finished | None = None
        self.previous: Previous | None = None
        self._identity: Identity | None = None
        self.inputs = Inputs(options.inputs, options.input_format, state_dir=options.state_dir)
        try:
            self.output = open_output(
                options.output,
                inputs=self.inputs.statuses,
                input_names=options.inputs,
                state_dir=options.state_dir,
                overwrite=options.overwrite,
                resume=options.resume,
                redo=options.again.is_asked,
                output_format=options.output_format,
                vectors=options.vectors,
                embedding_dtype=options.embedding_dtype,
                compression=options.compression,
                errors=options.errors,
                fsync=options.fsync,
                stdout=stdout,
                stats=stats,
            )
        except BaseException:
            self.inputs.close()
            raise
        self.reader = self.read(self.inputs)
        try:
            self._look_back()
            self.now = self._time()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of everything; never raises."""
        if self.previous is not None:
            self.previous.close()
        self.output.close()
        self.inputs.close()

    def read(self, inputs: Inputs) -> RecordReader:
        """A reader of the selected records of `inputs`."""
        options = self.options
        return RecordReader(inputs.sources, options.max_line_bytes, selection=options.selection, keep_raw=options.errors is not None)

    def _look_back(self) -> None:
        """Looks for what earlier attempts left: an unfinished output, a finished one, or both."""
        output, again = self.output, self.options.again
        if not isinstance(output, JobOutput):
            return
        if self.options.resume:
            self.was_begun = output.has_partial
            self.recovered = output.recover()
            if self.recovered is not None and "merge" in self.recovered.header:
                raise ConfigError(merge_left(output))
        there = output.has_target
        if again.is_asked and not there:
            raise ConfigError(f"output {output.name!r} is not there: only a finished output can be answered anew in part")
        if there and (self.options.resume or again.is_asked):
            self.finished = Finished(output)

    def _time(self) -> datetime:
        if self.recovered is not None:
            told = self.recovered.header.get("time")
        else:
            told = self.finished.time if self.finished is not None else None
        return job_time() if told is None else datetime.fromisoformat(told)

    @property
    def resumable(self) -> bool:
        """True if --resume would go on from here."""
        return isinstance(self.output, JobOutput) and not self.output.is_in_place and not self.was_done

    @property
    def holds_answers(self) -> bool:
        """True if stopping now leaves something that need not be done again."""
        unfinished = self.recovered is not None and self.recovered.holds_answers
        return unfinished or (isinstance(self.output, JobOutput) and self.output.holds_answers)

    # -- what job it is at -----------------------------------------------------------------------------------------
    def describe(self, size: int, meta: Mapping[str, str]) -> None:
        """Of vectors, see `MatrixOutput`; called before `identify`, and of no effect where the output is none."""
        if isinstance(self.output, MatrixOutput):
            self.output.describe(size, meta)

    def identify(self, fingerprint: Mapping[str, Any]) -> None:
        """Says what job it is at."""
        self._identity = Identity.of(
            fingerprint,
            self.options.selection,
            output_format=self.options.output_format,
            compression=self.output.sink.compression if isinstance(self.output, JobOutput) else "none",
            errors=self.options.errors is not None,
            rows=KEPT if isinstance(self.output, TableOutput) else "none",
        )
        if isinstance(self.output, TableOutput):
            self.output.command = str(fingerprint.get("command", ""))

    @property
    def identity(self) -> Identity:
        assert self._identity is not None
        return self._identity

    @property
    def fingerprint(self) -> str:
        """The job's, in hex."""
        return self.identity.digest

    def header(self, *, keeps: Mapping[str, Any] | None) -> dict[str, Any]:
        """Of the journal. `keeps`: which rows of the OUT that is there are kept, and of which OUT."""
        matrix = {"matrix": self.output.sink.layout} if isinstance(self.output, MatrixOutput) else {}
        return {**self.identity.to_json(), **matrix, "time": self.now.isoformat(), "keeps": keeps, "inputs": self.inputs.sizes}

    def note(self, *, records: int, sha256: str, tally: Tally) -> JobNote:
        """The note beside OUT."""
        return JobNote(
            self.identity,
            records=records,
            total_seen=self.reader.num_records,
            input_chain=self.reader.input_chain.hex(),
            sha256=sha256,
            tally=tally.to_entry(),
            time=self.now.isoformat(),
            attempts=self.stats.attempts,
            run_s=round(self.stats.run_all_s, 3),
            limit=self.options.limit,
            digests=bytes(self.reader.digests),
            rows_sha256=self.output.rows_sha256 if isinstance(self.output, TableOutput) else "",
        )
