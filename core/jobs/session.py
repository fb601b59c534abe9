"""One attempt at a job: what an earlier one left, what there is to do, and the way to a published output.

Session(options)          inputs opened, output locked; refuses what must not be written
set_matrix(size, meta)    how long the vectors are, for outputs that are matrices
begin(fingerprint)        new, or the same job as before (identity.py); raises ConfigError naming what differs
is_done                   after that: all that is asked for is in OUT already
run(start, …)             the loop (run.py), and OUT appears
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any, BinaryIO

from ..engine.protocol import AnyEngine
from ..errors import ConfigError
from .identity import Identity
from .input.inputs import Inputs
from .input.reader import RecordReader
from .input.replay import Records, replay
from .job_time import job_time
from .options import JobOptions
from .output.files import Files
from .output.finished import Finished
from .output.job_note import JobNote
from .output.journal import Recovered
from .output.opening import merge_left, open_output, refuse_files_in_the_way
from .output.output import JobOutput
from .output.previous import Again, Previous
from .output.sinks.matrix_sink import MatrixSink
from .run import Job, MaxErrors
from .stats import JobStats
from .tally import Tally
from .tasks.base import Task


class Session:
    """
    Args:
        stdout: the stream behind `-`.

    Raises ConfigError, LockedError, OutputError; then nothing is held.
    """

    def __init__(self, options: JobOptions, stats: JobStats, *, stdout: BinaryIO | None = None) -> None:
        self.options = options
        self.stats = stats
        self.fingerprint = ""
        self.is_done = False
        self._identity: Identity | None = None
        self._was_begun = False
        self._recovered: Recovered | None = None
        self._finished: Finished | None = None
        self._previous: Previous | None = None
        self.inputs = Inputs(options.inputs)
        try:
            self.output = open_output(
                options.output,
                inputs=self.inputs.statuses,
                overwrite=options.overwrite,
                resume=options.resume,
                redo=options.again.is_asked,
                output_format=options.output_format,
                embedding_dtype=options.embedding_dtype,
                compression=options.compression,
                errors=options.errors,
                fsync=options.fsync,
                stdout=stdout,
                clock=self._clock,
            )
        except BaseException:
            self.inputs.close()
            raise
        self.reader = self._reader(self.inputs)
        self._records: Records = self.reader
        try:
            self._look_back()
            self.now = self._time()
        except BaseException:
            self.close()
            raise

    @property
    def resumable(self) -> bool:
        """Whether --resume would go on from here."""
        return isinstance(self.output, JobOutput) and not self.output.published and not self.is_done

    @property
    def holds_answers(self) -> bool:
        """Whether stopping now leaves something that need not be done again."""
        unfinished = self._recovered is not None and self._recovered.holds_answers
        return unfinished or (isinstance(self.output, JobOutput) and self.output.holds_answers)

    def _reader(self, inputs: Inputs) -> RecordReader:
        options = self.options
        return RecordReader(inputs.sources, options.max_line_bytes, selection=options.selection, keep_raw=options.errors is not None)

    def _look_back(self) -> None:
        """Looks for what earlier attempts left: an unfinished output, a finished one, or both."""
        output, again = self.output, self.options.again
        if not isinstance(output, JobOutput):
            return
        if self.options.resume:
            self._was_begun = output.has_partial
            self._recovered = output.recover()
            if self._recovered is not None and "merge" in self._recovered.header:
                raise ConfigError(merge_left(output))
        there = output.has_target
        if again.is_asked and not there:
            raise ConfigError(f"output {output.name!r} is not there: only a finished output can be answered anew in part")
        if there and (self.options.resume or again.is_asked):
            self._finished = Finished(output)

    def _time(self) -> datetime:
        """The job's time: what its templates tell. An earlier attempt's goes on."""
        if self._recovered is not None:
            told = self._recovered.header.get("time")
        else:
            told = self._finished.time if self._finished is not None else None
        return job_time() if told is None else datetime.fromisoformat(told)

    def set_matrix(self, size: int, meta: Mapping[str, str]) -> None:
        """Values of a vector, and what readers of the file may want to know of how it was made. Called before `begin`.

        Of no effect where the output is no matrix.
        """
        if self._matrix is not None:
            self._matrix.describe(size, meta)

    @property
    def _matrix(self) -> MatrixSink | None:
        sink = self.output.sink if isinstance(self.output, JobOutput) else None
        return sink if isinstance(sink, MatrixSink) else None

    def begin(self, fingerprint: dict[str, Any]) -> None:
        """Starts the output of the job `fingerprint`, or goes on with what is there after checking that input and job are the same."""
        output = self.output
        self._identity = identity = Identity.of(
            fingerprint,
            self.options.selection,
            output_format=self.options.output_format,
            compression=output.sink.compression if isinstance(output, JobOutput) else "none",
            errors=self.options.errors is not None,
        )
        self.fingerprint = identity.digest
        if not isinstance(output, JobOutput):
            return
        before = self._recovered
        if before is not None and before.holds_answers:
            self._go_on(output, before)
        elif self._finished is not None and not self._started_over(self._finished):
            self._go_on_from(output, self._finished)
        else:
            output.begin(self._header(keeps=None))

    def _header(self, *, keeps: Mapping[str, Any] | None) -> dict[str, Any]:
        """Of the journal. `keeps`: which rows of the OUT that is there are kept, and of which OUT."""
        assert self._identity is not None
        matrix = {} if self._matrix is None else {"matrix": self._matrix.layout}
        return {**self._identity.to_json(), **matrix, "time": self.now.isoformat(), "keeps": keeps, "inputs": self.inputs.sizes}

    def _started_over(self, finished: Finished) -> bool:
        """True if an earlier attempt, which left no answers, was to start over beside the OUT that is there: it had --overwrite."""
        assert self._identity is not None
        if not self._was_begun or self.options.again.is_asked:
            return False
        if self._recovered is None:  # it ended before it said what it is; it had looked at what is there
            return not finished.is_of(self._identity)
        same = not Identity.from_json(self._recovered.header).differences(self._identity)
        return same and self._recovered.header["keeps"] is None

    def _go_on(self, output: JobOutput, before: Recovered) -> None:
        """With an unfinished output."""
        assert self._identity is not None
        header, force = before.header, self.options.resume_force
        was = Identity.from_json(header)
        _refuse_other_layout(header, self._header(keeps=None))
        if not force:
            was.refuse(self._identity, unfinished=True)
            self.inputs.refuse_shorter(header.get("inputs") or {})
        self._keep_as_before(output, header["keeps"])
        with output.telling():  # it reads the journal too
            self._records = replay(self.reader, before, force=force)
        output.resume(before)
        self.stats.resume(before.tally, attempts=before.commit.attempts, run_s=before.commit.run_s)

    def _keep_as_before(self, output: JobOutput, keeps: Mapping[str, Any] | None) -> None:
        """Goes on taking rows of the finished output if the unfinished one did, as long as that one is there."""
        again, asked = self.options.again, keeps and {name: keeps[name] for name in Again().to_json()}
        if again.is_asked and asked != again.to_json():
            what = Again(**asked) if asked else "every record"
            raise ConfigError(
                f"cannot resume: the unfinished run of {output.name!r} answers {what}, this one {again}; finish it first with --resume "
                "alone, or start again with --overwrite"
            )
        finished = self._finished
        if keeps is not None and finished is not None and finished.stamp.items() <= keeps.items():
            self._previous = finished.previous(Again(**(asked or {})), force=self.options.resume_force)

    def _go_on_from(self, output: JobOutput, finished: Finished) -> None:
        """From a finished output: nothing is left to do, or the rows that stay are its own."""
        assert self._identity is not None
        again, force = self.options.again, self.options.resume_force
        finished.check(self._identity, force=force, changed=again.changed)
        if self.inputs.can_be_read_again or self._matrix is not None:
            left, reader = self._survey(finished, again)
            wants_errors = self.options.errors is not None and not finished.has_errors_file
            if not left and not wants_errors:
                self._take_as_done(output, finished, reader)
                return
            finished.refuse_matrix(grown=left > 0)
        if not self._was_begun:  # by an attempt that ended before its first answer, and had looked
            refuse_files_in_the_way(output, redo=True)
        self._previous = finished.previous(again, force=force)
        output.begin(self._header(keeps={**again.to_json(), **finished.stamp}))

    def _survey(self, finished: Finished, again: Again) -> tuple[int, RecordReader]:
        """The number of records to answer, found out before anything is loaded, and the reader that has read the input for it.

        Raises ConfigError for rows of other records. An input that can be read only once is read by it.
        """
        inputs = Inputs(self.options.inputs) if self.inputs.can_be_read_again else self.inputs
        previous = finished.previous(again, force=self.options.resume_force)
        try:
            reader, left = self._reader(inputs), 0
            while records := reader.take(1024, 1 << 22, wait=True):
                left += sum(previous.row_of(record) is None for record in records)
            previous.check_end(reader.num_selected)
        finally:
            inputs.close()
            previous.close()
        return left, reader

    def _take_as_done(self, output: JobOutput, finished: Finished, reader: RecordReader) -> None:
        """OUT stays as it is; its note becomes this job's: of the input as it is now, which a shard's own records may not show, and,
        where it was forced, of these settings."""
        self.is_done = True
        self.reader = reader
        tally, before = finished.tally, finished.note
        self.stats.resume(tally, attempts=finished.attempts - 1, run_s=finished.run_s)
        self.stats.output_sha256 = finished.sha256
        self.stats.num_blank = self.reader.num_blank
        note = self._note(records=reader.num_selected, sha256=finished.sha256, tally=tally)
        if before is not None:  # what tells of OUT alone
            note = replace(note, identity=replace(note.identity, frames=before.identity.frames), merged=before.merged)
        if note != before:
            with output.telling():
                note.write(output.target)

    def run(
        self,
        start: Callable[[], tuple[AnyEngine, Task]],
        *,
        between_steps: Callable[[], None],
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Answers what is left and publishes. `start` is called only if there is something to answer. After `begin`."""
        limit = self.options.max_errors
        job = Job(
            self._records,
            self.output,
            start,
            stats=self.stats,
            previous=self._previous.row_of if self._previous else None,
            max_errors=None if limit is None else MaxErrors(limit),
            between_steps=between_steps,
            hold=hold,
        )
        job.run()
        if self._previous:
            self._previous.check_end(self.reader.num_selected)
        if self._matrix is not None and isinstance(self.output, JobOutput):
            self.output.make()
        self.inputs.check()
        with hold():
            self._publish()

    def close(self) -> None:
        """Lets go of everything; never raises."""
        if self._previous is not None:
            self._previous.close()
        self.output.close()
        self.inputs.close()

    def _publish(self) -> None:
        output = self.output
        if isinstance(output, JobOutput):

            def put_note(files: Files) -> None:
                note = self._note(records=output.num_rows, sha256=output.sha256.hexdigest(), tally=self.stats)
                note.write(output.target, files)

            output.finish(put_note)
            self.stats.output_sha256 = output.sha256.hexdigest()
        else:
            output.finish()
        self.stats.finished_at = time.monotonic()

    def _note(self, *, records: int, sha256: str, tally: Tally) -> JobNote:
        """The note beside OUT, which is in place before OUT is."""
        assert self._identity is not None
        attempts, run_s = self._clock()
        return JobNote(
            self._identity,
            records=records,
            total_seen=self.reader.num_records,
            input_chain=self.reader.input_chain.hex(),
            sha256=sha256,
            tally=tally.to_entry(),
            time=self.now.isoformat(),
            attempts=attempts,
            run_s=round(run_s, 3),
            limit=self.options.limit,
            digests=bytes(self.reader.digests),
        )

    def _clock(self) -> tuple[int, float]:
        """(attempts, seconds of all attempts) up to now, for the journal."""
        return self.stats.earlier_attempts + 1, self.stats.earlier_run_s + (self.stats.run_s or 0.0)


def _refuse_other_layout(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """One file cannot hold both, whatever the user wants."""
    if was.get("matrix") != now.get("matrix"):
        before, here = (_layout(one.get("matrix")) for one in (was, now))
        raise ConfigError(f"cannot resume: the unfinished output holds {before}, this run writes {here}; start again with --overwrite")
    before, here = (one["file"]["compression"] for one in (was, now))
    if before != here:
        raise ConfigError(
            f"cannot resume: the unfinished output has compression {before}, this run writes {here}; start again with --overwrite"
        )


def _layout(matrix: Mapping[str, Any] | None) -> str:
    return "lines" if matrix is None else f"vectors of {matrix['size']:,} {matrix['dtype']} values"
