"""One attempt at a job: what an earlier one left, what there is to do, and the way to a published output.

Session(options)          inputs opened, output locked; refuses what must not be written
is_done                   there is a finished output already, and --resume asks for no more
set_matrix(size, meta)    how long the vectors are, for outputs that are matrices
begin(fingerprint)        new, or the same job as before; raises ConfigError naming what differs
run(start, …)             the loop (run.py)
publish()                 OUT appears
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ConfigError
from .fingerprint import digest, refuse_differences
from .inputs import Inputs
from .journal import Recovered
from .opening import open_output
from .options import JobOptions
from .output import JobOutput
from .previous import FinishedOutput, Previous, count_errors, wants_again
from .reader import RecordReader
from .replay import Records, replay
from .run import Job, JobEngine, MaxErrors
from .shard_note import ShardNote, note_path
from .sinks.matrix_sink import MatrixSink
from .stats import JobStats
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
        self._recovered: Recovered | None = None
        self._previous: Previous | None = None
        self._old: FinishedOutput | None = None
        self.inputs = Inputs(options.inputs)
        try:
            self.output = open_output(
                options.output,
                inputs=self.inputs.statuses,
                overwrite=options.overwrite,
                resume=options.resume,
                redo=self._redo,
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
        self.reader = RecordReader(
            self.inputs.sources, options.max_line_bytes, selection=options.selection, keep_raw=options.errors is not None
        )
        self._records: Records = self.reader
        try:
            self._look_back()
        except BaseException:
            self.close()
            raise

    @property
    def _redo(self) -> bool:
        return self.options.retry_errors or self.options.redo is not None

    @property
    def resumable(self) -> bool:
        """Whether --resume would go on from here."""
        return isinstance(self.output, JobOutput) and not self.output.published

    @property
    def holds_answers(self) -> bool:
        """Whether stopping now leaves something that need not be done again."""
        return self.has_work_before or (isinstance(self.output, JobOutput) and self.output.holds_answers)

    @property
    def is_done(self) -> bool:
        """--resume finds a finished output and nothing else."""
        return isinstance(self.output, JobOutput) and self.options.resume and not self._redo and self.output.is_finished

    def count_finished(self) -> tuple[int, int]:
        """(rows, failed rows) of the finished output."""
        assert isinstance(self.output, JobOutput)
        output = self.output
        if not output.sink.is_matrix:
            return count_errors(str(output.target))
        if not output.ids_path.exists():
            raise ConfigError(f"output {output.name!r} is there, but {str(output.ids_path)!r} is not; start again with --overwrite")
        return count_errors(str(output.ids_path))

    def _look_back(self) -> None:
        output = self.output
        if not isinstance(output, JobOutput) or self.is_done:
            return
        if self.options.resume:
            self._recovered = output.recover()
        if self._redo:
            if not output.target.exists():
                raise ConfigError(f"output {output.name!r} is not there: only a finished output can be answered anew in part")
            self._old = FinishedOutput(str(output.target))
            self._previous = Previous(self._old, wants_again(errors=self.options.retry_errors, finish_reason=self.options.redo))

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
        """Starts the output of the job `fingerprint`, or goes on with it after checking that input and job are the same."""
        self.fingerprint = digest(fingerprint)
        output = self.output
        if not isinstance(output, JobOutput):
            return
        selection = self.options.selection
        selected = {"offset": selection.offset, "limit": selection.limit, "shard": str(selection.shard)}
        matrix = self._matrix
        header: dict[str, Any] = {"fingerprint": fingerprint, "selection": selected, "inputs": self.inputs.sizes}
        if matrix is not None:
            selected["output format"] = matrix.name
            header["matrix"] = matrix.layout
        before = self._recovered
        if before is None or not before.holds_answers:
            output.begin(header)
            return
        if before.header.get("matrix") != header.get("matrix"):  # one file cannot hold both, whatever the user wants
            was, now = (_layout(one.get("matrix")) for one in (before.header, header))
            raise ConfigError(f"cannot resume: the unfinished output holds {was}, this run writes {now}; start again with --overwrite")
        if not self.options.resume_force:
            refuse_differences(before.header["selection"] | before.header["fingerprint"], selected | fingerprint)
            self.inputs.refuse_shorter(before.header.get("inputs") or {})
        self._records = replay(self.reader, before, force=self.options.resume_force)
        output.resume(before)
        self.stats.resume(before.tally, attempts=before.commit.attempts, run_s=before.commit.run_s)

    @property
    def has_work_before(self) -> bool:
        """Whether an unfinished run left answers; `begin` must then be called before `run`."""
        return self._recovered is not None and self._recovered.holds_answers

    def run(
        self,
        start: Callable[[], tuple[JobEngine, Task]],
        *,
        between_steps: Callable[[], None],
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Answers what is left and publishes. `start` is called only if there is something to answer, and calls `begin`."""
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
        if self._old is not None:
            self._old.close()
        self.output.close()
        self.inputs.close()

    def _publish(self) -> None:
        if isinstance(self.output, JobOutput):
            self.output.finish(self._write_shard_note)
            self.stats.output_sha256 = self.output.sha256.hexdigest()
        else:
            self.output.finish()
        self.stats.finished_at = time.monotonic()

    def _write_shard_note(self) -> None:
        """OUT.shard.json, in place before OUT is."""
        shard, output = self.options.shard, self.output
        if shard is None or not isinstance(output, JobOutput):
            return
        note = ShardNote(
            shard=shard.index,
            of=shard.count,
            records=output.num_rows,
            total_seen=self.reader.num_records,
            fingerprint=self.fingerprint,
            input_chain=self.reader.chain.hex(),
            sha256=output.sha256.hexdigest(),
            errors=self.stats.num_failed,
            output_format=output.sink.name,
        )
        path = note_path(output.target)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(note.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _clock(self) -> tuple[int, float]:
        """(attempts, seconds of all attempts) up to now, for the journal."""
        return self.stats.earlier_attempts + 1, self.stats.earlier_run_s + (self.stats.run_s or 0.0)


def _layout(matrix: Mapping[str, Any] | None) -> str:
    return "lines" if matrix is None else f"vectors of {matrix['size']:,} {matrix['dtype']} values"
