"""`infer bench host`: the host's part of a step."""

from __future__ import annotations

import click

from ..options import Command
from ..options.io import quiet_option
from ..report import set_up_logging
from ..terminal import messages, streams
from .tables import host_table


@click.command(cls=Command, short_help="Time the host's part of a step.")
@click.option("--sequences", metavar="N", type=click.IntRange(1, 4096), multiple=True, help="Sequences, may be repeated (256, 1024).")
@click.option("--steps", metavar="N", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Steps that are measured.")
@quiet_option
def host(*, sequences: tuple[int, ...], steps: int, quiet: bool) -> None:
    """Measure what the engine itself takes of a step, as on a GPU, over a model that computes nothing.

    Scheduling, inputs, draws and books, of decodes alone: CPU time of one thread, so that what else runs here has little part in it. No
    model is loaded. A GPU waits for the host where its own part of a step is shorter.

    \b
    infer bench host
    infer bench host --sequences 512
    """
    set_up_logging(quiet=quiet, verbose=0)

    from infer.core.bench.host import measure_hosts

    told = {"bench": "host", **measure_hosts(sequences, steps)}
    if not quiet:
        messages.say(host_table(told))
    streams.write(streams.to_json(told) + "\n")
