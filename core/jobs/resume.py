"""The rest of a job, still to be answered: all of it, what an unfinished output or a finished one lacks, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError
from .attempt import Attempt
from .identity import Identity
from .input.inputs import Inputs
from .input.reader import RecordReader
from .input.replay import replay
from .output.finished import Finished
from .output.journal import Recovered
from .output.matrix_output import MatrixOutput
from .output.opening import refuse_files_in_the_way
from .output.output import JobOutput
from .output.previous import Again


def resume(attempt: Attempt, fingerprint: Mapping[str, Any]) -> bool:
    """Starts the output of the job `fingerprint`, or goes on with what is there after checking that input and job are the same.

    The attempt's reader then has the records to look at, and `previous` the rows that are kept in the place of some.

    Returns False where all that is asked for is in OUT already. Raises ConfigError naming what differs.
    """
    attempt.identify(fingerprint)
    output, before, finished = attempt.output, attempt.recovered, attempt.finished
    if not isinstance(output, JobOutput):
        return True
    if before is not None and before.holds_answers:
        _unfinished(attempt, output, before)
        return True
    if finished is not None and not _started_over(attempt, finished):
        return _finished(attempt, output, finished)
    output.begin(attempt.header(keeps=None))
    return True


def _started_over(attempt: Attempt, finished: Finished) -> bool:
    """True if an earlier attempt, which left no answers, was to start over beside the OUT that is there: it had --overwrite."""
    before = attempt.recovered
    if not attempt.was_begun or attempt.options.again.is_asked:
        return False
    if before is None:  # it ended before it said what it is; it had looked at what is there
        return not finished.is_of(attempt.identity)
    same = not Identity.from_json(before.header).differences(attempt.identity)
    return same and before.header["keeps"] is None


# -- an unfinished output ------------------------------------------------------------------------------------------
def _unfinished(attempt: Attempt, output: JobOutput, before: Recovered) -> None:
    header, force = before.header, attempt.options.resume_force
    _refuse_other_layout(header, attempt.header(keeps=None))
    if not force:
        Identity.from_json(header).refuse(attempt.identity, unfinished=True)
        attempt.inputs.refuse_shorter(header.get("inputs") or {})
    _keep_as_before(attempt, output, header["keeps"])
    with output.telling():  # it reads the journal too
        replay(attempt.reader, before, force=force)
    output.resume(before)
    attempt.stats.resume(before.tally, attempts=before.commit.attempts, run_s=before.commit.run_s)


def _keep_as_before(attempt: Attempt, output: JobOutput, keeps: Mapping[str, Any] | None) -> None:
    """Goes on taking rows of the finished output if the unfinished one did, as long as that one is there."""
    again, asked = attempt.options.again, keeps and {name: keeps[name] for name in Again().to_json()}
    if again.is_asked and asked != again.to_json():
        what = Again(**asked) if asked else "every record"
        raise ConfigError(
            f"cannot resume: the unfinished run of {output.name!r} answers {what}, this one {again}; finish it first with --resume "
            "alone, or start again with --overwrite"
        )
    finished = attempt.finished
    if keeps is not None and finished is not None and finished.stamp.items() <= keeps.items():
        attempt.previous = finished.previous(Again(**(asked or {})), force=attempt.options.resume_force)


def _refuse_other_layout(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """One file cannot hold both, whatever the user wants."""
    before, here = (_layout(one) for one in (was, now))
    if before != here:
        raise ConfigError(f"cannot resume: the unfinished output holds {before}, this run writes {here}; start again with --overwrite")
    before, here = (one["file"]["compression"] for one in (was, now))
    if before != here:
        raise ConfigError(
            f"cannot resume: the unfinished output has compression {before}, this run writes {here}; start again with --overwrite"
        )


def _layout(header: Mapping[str, Any]) -> str:
    if (matrix := header.get("matrix")) is not None:
        return f"vectors of {matrix['size']:,} {matrix['dtype']} values"
    return "lines" if (rows := header["frames"].get("rows")) is None else f"rows of a table, compressed with {rows}"


# -- a finished output ---------------------------------------------------------------------------------------------
def _finished(attempt: Attempt, output: JobOutput, finished: Finished) -> bool:
    """Nothing is left to do (False), or the rows that stay are its own."""
    again, force = attempt.options.again, attempt.options.resume_force
    finished.check(attempt.identity, force=force, changed=again.changed)
    if attempt.inputs.can_be_read_again or isinstance(output, MatrixOutput):
        num_left, reader = _survey(attempt, finished, again)
        wants_errors = attempt.options.errors is not None and not finished.has_errors_file
        if not num_left and not wants_errors:
            _take_as_done(attempt, output, finished, reader)
            return False
        finished.refuse_matrix(grown=num_left > 0)
    if not attempt.was_begun:  # by an attempt that ended before its first answer, and had looked
        refuse_files_in_the_way(output, redo=True)
    attempt.previous = finished.previous(again, force=force)
    output.begin(attempt.header(keeps={**again.to_json(), **finished.stamp}))
    return True


def _survey(attempt: Attempt, finished: Finished, again: Again) -> tuple[int, RecordReader]:
    """The number of records to answer, found out before anything is loaded, and the reader that has read the input for it.

    Raises ConfigError for rows of other records. An input that can be read only once is read by it.
    """
    inputs = _inputs(attempt) if attempt.inputs.can_be_read_again else attempt.inputs
    previous = finished.previous(again, force=attempt.options.resume_force)
    try:
        reader, left = attempt.read(inputs), 0
        while records := reader.take(1024, 1 << 22, wait=True):
            left += sum(previous.row_of(record) is None for record in records)
        previous.check_end(reader.num_selected)
    finally:
        inputs.close()
        previous.close()
    return left, reader


def _inputs(attempt: Attempt) -> Inputs:
    """The inputs once more."""
    options = attempt.options
    return Inputs(options.inputs, options.input_format, state_dir=options.state_dir)


def _take_as_done(attempt: Attempt, output: JobOutput, finished: Finished, reader: RecordReader) -> None:
    """OUT stays as it is; its note becomes this job's: of the input as it is now, which a shard's own records may not show, and,
    where it was forced, of these settings."""
    attempt.was_done = True
    attempt.reader = reader
    stats, tally, before = attempt.stats, finished.tally, finished.note
    stats.resume(tally, attempts=finished.attempts - 1, run_s=finished.run_s)
    stats.output_sha256 = finished.sha256
    stats.num_blank = reader.num_blank
    note = attempt.note(records=reader.num_selected, sha256=finished.sha256, tally=tally)
    note = replace(note, rows_sha256=finished.rows_sha256)
    if before is not None:  # what tells of OUT alone
        note = replace(note, identity=replace(note.identity, frames=before.identity.frames), merged=before.merged)
    if note != before:
        with output.telling():
            note.write(output.target)
        if output.staged is not None:
            output.staged.put_notes()
