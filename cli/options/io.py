"""The options about input and output that the commands answering a JSONL file share. Use them through `options.py`."""

from __future__ import annotations

import dataclasses
import functools
import glob
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from infer.core.jobs.input.forms import FORMATS
from infer.core.jobs.options import JobOptions
from infer.core.jobs.output.output_format import FORMATS as OUTPUT_FORMATS
from infer.core.jobs.output.output_format import TABLES, format_of, is_table
from infer.core.remote.url import is_remote

from ..command import usage, with_options
from ..jobfile.defaults import given_paths
from ..terminal import messages, streams
from .value_types import MAX_ERRORS, REDO, SHARD, SIZE

F = TypeVar("F", bound=Callable[..., Any])


def _note_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """Tells run(), which must know even when the command fails."""
    ctx.find_root().ensure_object(dict)["verbose"] = value
    return value


def _choice(*values: str) -> dict[str, Any]:
    return {"type": click.Choice(values), "default": values[0], "show_default": True}


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors, and in one line whether records failed.")
#: Followed before the command line is parsed, see `messages.look_for_format`.
log_format_option = click.option("--log-format", expose_value=False, help="Format of messages on stderr.", **_choice("text", "json"))
compression_option = click.option(
    "--compression", help="Compression of OUT; auto: by its name (.gz, .zst).", **_choice("auto", "none", "gzip", "zstd")
)
state_dir_option = click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Make an OUT that is a URL here, before it is put in its place (default: $XDG_STATE_HOME/infer or ~/.local/state/infer).",
)
_file = click.Path(dir_okay=False)
#: Names of tables that are not written, and that other programs refuse when they hold JSON lines.
_OTHER_TABLES = frozenset({".xlsx", ".xls", ".ods", ".arrow", ".feather", ".avro", ".orc", ".sqlite", ".db"})


def output_format_option(*, vectors: bool = False) -> Callable[[Any], Any]:
    """Adds --output-format. `vectors`: answers may be vectors."""
    of_vectors = "; npy, safetensors and parquet: one matrix with a row a record, ids and errors in OUT.ids.jsonl" if vectors else ""
    tables = "csv, tsv: a table with a row a record" if vectors else "csv, tsv, parquet: a table with a row a record"
    return click.option(
        "--output-format",
        type=click.Choice(["auto", *(form for form in OUTPUT_FORMATS if vectors or form in ("jsonl", *TABLES))]),
        default="auto",
        show_default=True,
        help=f"Format of OUT. {tables}, and a column a field{of_vectors}; auto: by the name of OUT, else JSON lines.",
    )


_INPUT: list[Callable[[Any], Any]] = [
    click.option(
        "--input",
        "inputs",
        metavar="FILE",
        multiple=True,
        type=click.Path(allow_dash=True),
        help="Read this file in place of IN; may be repeated. A quoted glob pattern stands for all its files, sorted. IN, OUT and FILE "
        "may be URLs: s3://, gs://, az://, and to be read https://, hf:// (infer help remote).",
    ),
    click.option(
        "--input-format",
        help="Form of the input. Rows of csv, tsv and parquet are records by their columns' names (CSV has only texts), values of "
        "json are records; auto: by the name of the file, else JSON lines.",
        **_choice(*FORMATS),
    ),
    click.option(
        "--limit", metavar="N", type=click.IntRange(min=0), help="Read N records of the whole input, all shards together, and no more."
    ),
    click.option("--offset", metavar="N", type=click.IntRange(min=0), default=0, help="Leave out the first N records of the whole input."),
    click.option(
        "--shard",
        metavar="I/N|auto[/N]",
        type=SHARD,
        help="Answer part I (from 0) of N: each record whose place in the whole input is I modulo N, within --offset and --limit. "
        "auto: the part that Slurm, Kubernetes or MPI gave this process (infer help clusters).",
    ),
]
_READING: list[Callable[[Any], Any]] = [
    state_dir_option,
    click.option("--strict", is_flag=True, help="A field that looks like a misspelled parameter fails its record."),
    click.option(
        "--max-line-bytes", type=SIZE, default="64MiB", show_default=True, help="Longest input line; a longer one fails its record."
    ),
]
_OUTPUT: list[Callable[[Any], Any]] = [
    compression_option,
    click.option("--overwrite", is_flag=True, help="Replace OUT, and the files of --errors, --stats and --trace, if they exist."),
    click.option("--resume", is_flag=True, help="Go on where an earlier run stopped; start if there was none."),
    click.option("--resume-force", is_flag=True, help="Resume even if input, model or settings have changed."),
    click.option("--verify", is_flag=True, help="Hash the whole model, so that --resume notices any change to it."),
    click.option(
        "--fsync",
        help="Make finished answers safe from a power cut every few seconds, at each commit, or never.",
        **_choice("interval", "always", "never"),
    ),
    click.option("--retry-errors", is_flag=True, help="Answer the failed records of a finished OUT anew."),
    click.option(
        "--redo",
        metavar="finish_reason=VALUE|changed",
        type=REDO,
        help="Answer these records of a finished OUT anew; changed: those whose input line has changed.",
    ),
    click.option("--errors", metavar="FILE", type=_file, help="Copy the input lines that failed here, each with its error."),
    click.option("--max-errors", metavar="N|P%", type=MAX_ERRORS, help="Stop when more records than this have failed."),
    click.option(
        "--keep-going",
        is_flag=True,
        help="Go on though the first 100 records have all failed with one error code, where no --max-errors says how many may.",
    ),
    click.option(
        "--error-format",
        help="Form of errors: `error` is an object or null; or flat, error_code and more in rows of one shape, for readers of tables.",
        **_choice("object", "flat"),
    ),
    click.option("--dry-run", is_flag=True, help="Check the input as `infer check` does; answer nothing."),
    click.option("--stats", metavar="FILE", type=_file, help="Write the closing summary as JSON."),
    click.option(
        "--metrics", metavar="FILE", type=_file, help="Keep counts and queues here, as the node exporter of Prometheus reads them."
    ),
    click.option("--metrics-port", metavar="[HOST:]PORT", help="Answer Prometheus here, on this machine alone unless HOST says more."),
    click.option("--trace", metavar="FILE", type=_file, help="Write speeds, KV use and queues, one JSON line a second."),
    click.option("--report-cache", is_flag=True, help="Write cached_tokens; depends on the schedule."),
]
_SAYING: list[Callable[[Any], Any]] = [
    click.option(
        "--progress-interval",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="Time between progress lines when stderr is not a terminal.",
    ),
    log_format_option,
    quiet_option,
    click.option("-v", "--verbose", count=True, callback=_note_verbosity, help="Say more; tracebacks of internal errors."),
]


def io_options(command: F, *, asks: Callable[..., int] | None = None, vectors: bool = False) -> F:
    """Adds IN, OUT and the options about them; the command gets them as one `io: JobOptions`.

    Args:
        asks: what is called in place of the command where IN is a question: with it, and `quiet` and `verbose`.
        vectors: answers are vectors.
    """

    @functools.wraps(command)
    def with_io(**kwargs: Any) -> Any:
        paths, named = kwargs.pop("paths"), kwargs.pop("inputs")
        if asks is not None and not named and len(paths) == 1 and _is_question(paths[0]):
            return asks(paths[0], quiet=kwargs["quiet"], verbose=kwargs["verbose"])
        inputs, output = _paths(paths, named)
        values = {f.name: kwargs.pop(f.name) for f in dataclasses.fields(JobOptions) if f.name in kwargs}
        values["resume"] = values["resume"] or values["resume_force"]
        values["output_format"] = _format(output, values["output_format"], vectors=vectors, quiet=values["quiet"])
        if is_table(values["output_format"], vectors=vectors):
            values["error_format"] = "object"  # a table is flat in any case
        io = JobOptions(inputs=inputs, output=output, vectors=vectors, **values)
        _refuse_contradictions(io)
        return command(io=io, **kwargs)

    paths = click.argument("paths", metavar="[IN] [OUT]", nargs=-1, type=click.Path(allow_dash=True))
    return with_options(with_io, [paths, *_INPUT, output_format_option(vectors=vectors), *_OUTPUT, *_READING, *_SAYING])


def _format(output: str, asked: str, *, vectors: bool, quiet: bool) -> str:
    """The format of OUT; says it where the name alone chose it. Raises ConfigError."""
    form = format_of(output, asked, vectors=vectors)
    if asked == "auto" and form != "jsonl" and not quiet:
        messages.say(f"{output} is written as {form}, as its name says (--output-format jsonl writes JSON lines)", label="note: ")
    if asked == "auto" and Path(output).suffix.lower() in _OTHER_TABLES and not quiet:
        messages.say(f"{output} holds JSON lines, whatever its name says; tables are csv, tsv and parquet", label="note: ")
    return form


def _is_question(text: str) -> bool:
    """True for words that cannot be meant as the name of a file: there is none of that name, and it has blanks and no ending."""
    try:
        there = Path(text).exists()
    except (OSError, ValueError):
        there = False
    return not there and len(text.split()) > 1 and not Path(text).suffix[1:].isalnum()


def input_options(command: F) -> F:
    """Adds IN and the options about it, for a command that answers nothing; of `io: JobOptions` the rest is at its default."""

    @functools.wraps(command)
    def with_io(**kwargs: Any) -> Any:
        inputs, _ = _paths(kwargs.pop("paths"), kwargs.pop("inputs"), outputs=0)
        values = {f.name: kwargs.pop(f.name) for f in dataclasses.fields(JobOptions) if f.name in kwargs}
        if values.get("output_format") == "auto":
            values["output_format"] = "jsonl"
        return command(io=JobOptions(inputs, "-", overwrite=False, stats=None, report_cache=False, **values), **kwargs)

    paths = click.argument("paths", metavar="[IN]", nargs=-1, type=click.Path(allow_dash=True))
    return with_options(with_io, [paths, *_INPUT, *_READING, *_SAYING])


def _paths(paths: tuple[str, ...], inputs: tuple[str, ...], *, outputs: int = 1) -> tuple[tuple[str, ...], str]:
    """The inputs and the output, if the command has one. Raises click.UsageError."""
    its_inputs, its_output = given_paths(click.get_current_context())
    most = outputs + (not inputs)
    if len(paths) > most:
        extra = f"Got unexpected extra argument{'s' * (len(paths) > most + 1)} ({' '.join(paths[most:])})"
        only = "the only argument is OUT" if outputs else "there is no argument"
        quote = f"; with --input {only} (quote a glob pattern: --input 'part-*.jsonl')" if inputs else ""
        raise usage(extra + (quote or _what_they_may_be(paths, outputs)))
    if inputs or (its_inputs and not paths):
        names = tuple(name for pattern in inputs or its_inputs for name in _matches(pattern))
        output = paths[0] if paths else its_output or "-"
    else:
        source = paths[0] if paths else "-"
        output = paths[1] if len(paths) > 1 else its_output or "-"
        names = (source,)
    if names.count("-") > 1:
        raise usage("--input - (stdin) can be read only once.")
    for name in names:
        streams.require_input(name)
    if outputs:
        streams.require_output(output)
    if "-" in names and sys.stdin is not None and sys.stdin.isatty():
        raise usage("No input: give a file as IN, or pipe JSONL lines into the command.")
    return names, output


def _what_they_may_be(paths: tuple[str, ...], outputs: int) -> str:
    """ "; …" for arguments of which there is one too many."""
    if not Path(paths[0]).exists() and Path(paths[1]).exists():
        return f"; the model is an option: --model {paths[0]}"
    if not outputs:
        return "; this command writes to stdout"
    return "; several inputs: --input FILE for each, then OUT" if all(Path(path).exists() for path in paths[:2]) else ""


def _matches(pattern: str) -> list[str]:
    """The files of a glob pattern, sorted; a name that is there, or is no pattern, means itself."""
    if is_remote(pattern):
        from infer.core.remote.pattern import matches

        return matches(pattern)
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    names = sorted(name for name in glob.glob(pattern, recursive=True) if not Path(name).is_dir())  # noqa: PTH207 (any pattern)
    if not names:
        raise usage(f"--input {pattern!r}: no file matches.")
    return names


#: Options of which the first makes no sense with the second.
_EXCLUDE_EACH_OTHER = (("resume", "overwrite"), ("retry_errors", "overwrite"), ("redo", "overwrite"))
#: Options that go on with what is in OUT.
_CONTINUE = ("resume", "retry_errors", "redo")


def _refuse_contradictions(io: JobOptions) -> None:
    for a, b in _EXCLUDE_EACH_OTHER:
        if getattr(io, a) and getattr(io, b):
            raise usage(f"{_flag(io, a)} and {_flag(io, b)} contradict each other; give one.")
    for name in ("errors", "stats", "metrics", "trace"):
        if getattr(io, name) == "-":
            raise usage(f"--{name} - (stdout): it needs a file, since stdout holds answers; ./- is a file of that name.")
    for name in _CONTINUE:
        if getattr(io, name) and io.output == "-":
            raise usage(f"{_flag(io, name)} with OUT - (stdout): cannot resume what is not a file.")


def _flag(io: JobOptions, name: str) -> str:
    """The option as it was written."""
    return "--resume-force" if name == "resume" and io.resume_force else "--" + name.replace("_", "-")
