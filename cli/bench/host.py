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
@click.option("--model", metavar="NAME", help="The model whose launches are counted (SmolLM2-135M).")
@quiet_option
def host(*, sequences: tuple[int, ...], steps: int, model: str | None, quiet: bool) -> None:
    """Measure what the engine itself takes of a step, as on a GPU, over a model that computes nothing.

    Scheduling, inputs, draws and books: CPU time of one thread, so that what else runs here has little part in it. Steps are of decodes
    alone, or of a sixteenth of new sequences in place of as many that ended. A GPU waits for the host where its own part of a step is
    shorter.

    Launches are what such a step gives the GPU to do, kernels and copies, as it is and where it is replayed from a recording. They are
    counted, on any machine; no weights are loaded.

    \b
    infer bench host
    infer bench host --sequences 512 --model smollm2-135m
    """
    set_up_logging(quiet=quiet, verbose=0)

    from infer.core.bench.host import measure_hosts

    told = {"bench": "host", **measure_hosts(sequences, steps, model)}
    if not quiet:
        messages.say(host_table(told))
    streams.write(streams.to_json(told) + "\n")
