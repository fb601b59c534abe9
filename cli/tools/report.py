"""`infer report`: a finished output in pictures."""

from __future__ import annotations

from pathlib import Path

import click

from infer.core.errors import ConfigError, OutputError

from ..options import Command
from ..options.io import quiet_option
from ..terminal import messages


@click.command(cls=Command)
@click.argument("output", metavar="OUT", type=click.Path())
@click.argument("stats", metavar="[STATS...]", nargs=-1, type=click.Path())
@click.option(
    "-o", "--output", "page", metavar="FILE", required=True, type=click.Path(dir_okay=False), help="The page to write, such as report.html."
)
@click.option("--trace", "traces", metavar="FILE", multiple=True, type=click.Path(), help="What a run's --trace wrote; may be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@quiet_option
def report(*, output: str, stats: tuple[str, ...], page: str, traces: tuple[str, ...], overwrite: bool, quiet: bool) -> None:
    """Draw the finished output OUT as one HTML page that needs nothing beside it and loads nothing.

    It has lengths of prompts and outputs, finish reasons, errors by code with examples; from STATS, the files of --stats (of each
    shard, if there are several), times, settings and versions; from --trace throughput, KV use and queues over time. Prompts and
    answers are not in it; messages of errors are, and may quote them. It needs matplotlib (extra `report`).

    \b
    infer report out.jsonl stats.json --trace trace.jsonl -o report.html
    infer report merged.jsonl stats-*.json -o report.html
    """
    from infer.core.jobs.output.beside import place_beside
    from infer.core.jobs.output.files import is_there, write_whole
    from infer.core.review import charts
    from infer.core.review.page import page as page_of
    from infer.core.review.summary import Summary, read_stats, read_trace

    charts.require()
    path = place_beside("--output", page, taken=[output, *stats, *traces])
    if is_there(path) and not overwrite:
        raise ConfigError(f"--output {page!r} exists; use --overwrite to replace it, or choose another file")
    told = read_stats(stats)
    courses = [read_trace(name) for name in traces]
    data = page_of(Path(output).name, Summary.of(output), told, courses).encode("utf-8", "replace")
    try:
        write_whole(path, data)
    except OSError as error:
        raise OutputError(f"--output {page!r} cannot be written: {error.strerror}") from None
    if not quiet:
        messages.say(f"{page}: {len(data) / 1024:,.0f} KiB")
