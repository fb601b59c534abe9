"""`infer merge`: the shards of one job back into one output."""

from __future__ import annotations

import click

from ..options import Command
from ..options.io import compression_option, log_format_option, output_format_option, quiet_option, state_dir_option
from ..signals import Signals
from ..terminal import messages, streams
from ..terminal.table import counted


@click.command(cls=Command)
@click.argument("output", metavar="OUT", type=click.Path(allow_dash=True))
@click.argument("shards", metavar="SHARD...", nargs=-1, required=True, type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@output_format_option()
@compression_option
@state_dir_option
@log_format_option
@quiet_option
def merge(
    *, output: str, shards: tuple[str, ...], overwrite: bool, output_format: str, compression: str, state_dir: str | None, quiet: bool
) -> int:
    """Put the shards of one output together: OUT is then what a single run would have written, byte for byte.

    The shards are the finished outputs of one command run with --shard 0/N to --shard N-1/N, in any order; each has a
    SHARD.shard.json beside it. One that is missing, given twice, of another job or input, unfinished or changed since is
    refused. Shards may be lines or tables, and OUT either (a table by its name: .csv, .tsv, .parquet), or - for stdout. A merge that
    was stopped is simply run again. OUT and shards may be URLs (infer help remote). The exit status is 3 if any row is an error.

    \b
    for i in 0 1 2; do infer generate --model smollm2-135m --shard $i/3 in.jsonl part-$i.jsonl; done
    infer merge out.jsonl part-*.jsonl
    """
    from infer.core.jobs.merge import merge as merge_shards
    from infer.core.jobs.output.job_note import SUFFIXES
    from infer.core.jobs.output.opening import STDOUT, open_output
    from infer.core.jobs.output.output_format import format_of
    from infer.core.jobs.shards import open_shards

    names = [name for name in shards if not name.endswith(SUFFIXES)]  # a glob finds the notes too
    streams.require_output(output)
    stdout = streams.stdout() if output in STDOUT else None
    with Signals():
        parts = open_shards(names)
        inputs = [part.status for part in parts if part.status is not None]
        form = format_of(output, output_format, vectors=False)
        target = open_output(
            output,
            inputs=inputs,
            input_names=names,
            state_dir=state_dir,
            overwrite=overwrite,
            merge=True,
            output_format=form,
            compression=compression,
            stdout=stdout,
        )
        try:
            done = merge_shards(names, target, parts, overwrite=overwrite)
        finally:
            target.close()
    if not quiet:
        failed = f", {done.errors:,} failed" if done.errors else ""
        text = f"{counted(done.records, 'record')} of {counted(len(parts), 'shard')}{failed}"
        messages.say(text, event="summary", records=done.records, shards=len(parts), errors=done.errors)
    return 3 if done.errors else 0
