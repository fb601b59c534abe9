"""The file that an output's name means, and the right of this run to write there."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ...errors import ConfigError, UnfinishedOutput
from ...remote.url import is_remote, place, shown_name
from ..input.source import same_file
from ..stats import JobStats
from .compression import compression_of
from .errors_file import is_errors_file
from .files import is_file, is_folder, is_special
from .job_note import SUFFIXES as NOTE_SUFFIXES
from .journal import JOURNAL_SUFFIX, Recovered
from .lock import LOCK_SUFFIX
from .made_output import MADE_SUFFIX
from .matrix_output import IDS_SUFFIX, MatrixOutput
from .output import JobOutput
from .output_format import is_matrix, is_table
from .pipe import StraightOutput
from .remote.staged import Staged
from .side_file import PARTIAL_SUFFIX
from .sinks.matrix_sink import MatrixSink
from .sinks.sink import LineSink
from .sinks.table_sink import TableSink
from .table_output import ROWS_SUFFIX, TableOutput

#: Names of standard output. Descriptor 1 itself points elsewhere in the program, so these cannot be opened as files.
STDOUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})

#: Endings of what lies beside outputs. A file of such a name may be in the way of another run one day, and is not locked by it.
RESERVED = (PARTIAL_SUFFIX, JOURNAL_SUFFIX, LOCK_SUFFIX, MADE_SUFFIX, ROWS_SUFFIX, *NOTE_SUFFIXES)


def open_output(
    name: str,
    *,
    inputs: list[os.stat_result],
    input_names: Sequence[str] = (),
    state_dir: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    redo: bool = False,
    merge: bool = False,
    output_format: str = "jsonl",
    vectors: bool = False,
    embedding_dtype: str = "float32",
    compression: str = "auto",
    errors: str | None = None,
    fsync: str = "interval",
    stdout: BinaryIO | None = None,
    stats: JobStats | None = None,
) -> StraightOutput | JobOutput:
    """The output, locked if it is a file.

    Args:
        inputs: `os.fstat` of the inputs, which are never written to; `input_names`: their names, for those that lie elsewhere.
        state_dir: where an OUT that lies elsewhere is made, see `state_folder`.
        overwrite, resume: what may be done with what is there.
        redo: OUT is to be read and replaced.
        merge: shards are put together: that is done from the start, whatever was left of it. The caller looks at an OUT that is there.
        output_format, vectors, embedding_dtype: see `JobOptions`.
        stdout: the stream behind `-`.
        stats: attempts and seconds, for whoever goes on.

    Raises ConfigError (refused; UnfinishedOutput is one), LockedError (another run writes it), OutputError.
    """
    matrix, table = (what(output_format, vectors=vectors) for what in (is_matrix, is_table))
    if matrix and redo:
        raise ConfigError(f"a {output_format} output cannot be answered anew in part; start again with --overwrite")
    if name in STDOUT or is_special(Path(name)):
        if matrix or table:
            raise ConfigError(f"{output_format} is made when all rows are there, so it needs an output file, which {name!r} is not")
        if resume or redo:
            raise ConfigError(f"output {name!r} is not a regular file: nothing of it is kept, so it cannot be resumed or redone")
        if compression not in ("auto", "none"):
            raise ConfigError(f"output {name!r} is written straight through; pipe it through {compression} instead")
        if errors is not None:
            raise ConfigError("--errors needs an output file, not a pipe: a failed record is marked in its own line there too")
        return _straight(name, inputs, stdout)
    output: JobOutput | None = None
    try:
        _refuse_reserved(name, f"output {shown_name(name)!r}")
        if not is_remote(name):
            if is_folder(Path(name)):
                raise ConfigError(f"output {name!r} is a folder; name a file")
            _refuse_nowhere(name, f"output {name!r}")
        if errors is not None:
            _refuse_reserved(errors, f"--errors {shown_name(errors)!r}")
            if not is_remote(errors):
                _refuse_errors_file(errors)
            elif not is_remote(name):
                raise ConfigError(f"--errors {shown_name(errors)!r} lies elsewhere and OUT does not; give a local file, or a URL as OUT")
        staged = None
        if is_remote(name):
            _refuse_same_url(name, errors, input_names)
            beside = [IDS_SUFFIX] if matrix else [ROWS_SUFFIX] if table else []
            staged = Staged(name, errors=errors, beside=beside, state_dir=state_dir)
        if matrix:
            sink = _matrix_sink(name, output_format, embedding_dtype, compression)
            output = MatrixOutput(name, sink=sink, errors=errors, fsync=fsync, stats=stats, staged=staged)
        elif table:
            made_of = TableSink(output_format, compression_of(name, compression))
            output = TableOutput(name, sink=made_of, errors=errors, fsync=fsync, stats=stats, staged=staged)
        else:
            lines = LineSink(compression_of(name, compression))
            output = JobOutput(name, sink=lines, errors=errors, fsync=fsync, stats=stats, staged=staged)
        _refuse_inputs(output, inputs)
        output.tidy()
        if staged is not None:
            staged.look(fetch=resume or redo or merge, overwrite=overwrite, has_partial=output.has_partial)
        if overwrite:
            output.refuse_files_in_the_way(overwrite=True)
            output.discard()
        elif not resume:
            _refuse_leftovers(output, redo=redo, merge=merge)
        elif not output.has_partial and (redo or not output.has_target):
            refuse_files_in_the_way(output, redo=redo)
    except BaseException:
        if output is not None:
            output.close()
        raise
    return output


def _refuse_same_url(name: str, errors: str | None, inputs: Sequence[str]) -> None:
    for one in inputs:
        for what, other in (("output", name), ("--errors", errors)):
            if is_remote(one) and other is not None and is_remote(other) and place(one) == place(other):
                raise ConfigError(f"{what} {shown_name(other)!r} and the input are the same file; choose another one")


def _matrix_sink(name: str, output_format: str, embedding_dtype: str, compression: str) -> MatrixSink:
    if (kind := compression_of(name, compression)) != "none":
        why = f"{name!r} ends as {kind} files do" if compression == "auto" else f"--compression {compression}"
        raise ConfigError(f"{why}, but {output_format} is not compressed: readers look things up in it; choose another name or format")
    return MatrixSink(output_format, embedding_dtype)


def _refuse_errors_file(name: str) -> None:
    """It is replaced when the output appears; a device must never be."""
    if is_folder(Path(name)) or is_special(Path(name)):
        raise ConfigError(f"--errors {name!r} is not a regular file; name a file")
    _refuse_nowhere(name, f"--errors {name!r}")


def _refuse_nowhere(name: str, what: str) -> None:
    """Raises ConfigError for a file in a folder that is not there, links followed."""
    folder = Path(os.path.realpath(name)).parent
    if not is_folder(folder):
        where = Path(name).parent if not is_folder(Path(name).parent) else folder
        raise ConfigError(f"{what} cannot be created: there is no folder {str(where)!r}")


def _refuse_reserved(name: str, what: str) -> None:
    """Raises ConfigError for a name that a file of another run may have one day."""
    if ending := reserved_ending(name):
        raise ConfigError(f"{what} ends in {ending}, as files that belong to outputs do; choose another name")


def reserved_ending(name: str) -> str | None:
    """The ending that makes it a name for files beside outputs, if it is one."""
    return next((ending for ending in RESERVED if os.path.realpath(name).endswith(ending)), None)


def _straight(name: str, inputs: list[os.stat_result], stdout: BinaryIO | None) -> StraightOutput:
    if name not in STDOUT:
        try:
            return StraightOutput(name, os.open(name, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)), owned=True)
        except OSError as error:
            raise ConfigError(f"output {name!r} cannot be opened: {error.strerror}") from None
    stdout = stdout or sys.stdout.buffer
    stdout.flush()
    try:
        fd = stdout.fileno()
    except OSError:
        return StraightOutput("stdout", -1, stdout, owned=False)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and any(same_file(one, status) for one in inputs):
        raise ConfigError("output and input are the same file; the output would be read as input")
    return StraightOutput("stdout", fd, owned=False)


def _refuse_inputs(output: JobOutput, inputs: list[os.stat_result]) -> None:
    for path in output.own_paths:
        if any(same_file(one, path) for one in inputs):
            what = f"output {output.name!r}" if path == output.target else f"{str(path)!r}, which belongs to output {output.name!r},"
            raise ConfigError(f"{what} and the input are the same file; choose another output")


def _refuse_leftovers(output: JobOutput, *, redo: bool, merge: bool) -> None:
    if output.has_partial:
        _refuse_unfinished(output, output.recover(), merge=merge)
        output.discard()
    if output.has_target and not (redo or merge):
        raise ConfigError(is_there(output))
    if not merge or not output.has_target:
        refuse_files_in_the_way(output, redo=redo)


def _refuse_unfinished(output: JobOutput, left: Recovered | None, *, merge: bool) -> None:
    """Answers are not thrown away unasked; what a merge left is, by a merge: the shards have all of it."""
    if left is None or not left.holds_answers:
        return
    if left.header.get("merge") is not None:
        if not merge:
            raise ConfigError(merge_left(output))
        return
    count = left.tally.num_records
    held = f"{str(output.partial)!r} holds {count:,} record{'s' * (count != 1)} of a run that did not finish"
    if merge:
        raise ConfigError(f"{held}; finish it with its own command and --resume, choose another output, or throw it away with --overwrite")
    raise UnfinishedOutput(f"{held}; go on with --resume, or start again with --overwrite")


def is_there(output: JobOutput) -> str:
    """The message for an output that is there and may not be replaced."""
    return f"output {output.name!r} exists; use --overwrite to replace it, or choose another output"


def merge_left(output: JobOutput) -> str:
    """The message for an output that a merge did not finish."""
    return f"{str(output.partial)!r} is what an infer merge left that did not finish; run it again, or start here with --overwrite"


def refuse_files_in_the_way(output: JobOutput, *, redo: bool) -> None:
    """Raises ConfigError for files of others that have names of ours. `redo`: the file of failed lines that belongs to OUT is ours."""
    errors = output.errors_path
    rows = output.rows_path if isinstance(output, TableOutput) else output.target
    belongs = redo and errors is not None and is_file(errors) and is_file(rows) and is_errors_file(errors, rows)
    output.refuse_files_in_the_way(replace_errors=belongs)
