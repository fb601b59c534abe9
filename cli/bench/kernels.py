"""`infer bench kernels`: the operations alone."""

from __future__ import annotations

import click

from ..options import Command, engine_args, engine_options
from ..options.io import quiet_option
from ..report import set_up_logging
from ..terminal import messages, streams
from .tables import kernels_table


@click.command(cls=Command, short_help="Time each operation of the kernel backend.")
@click.option("--rows", metavar="N", type=click.IntRange(min=1), multiple=True, help="Token rows, may be repeated (16, 64, 256, 2048).")
@quiet_option
@engine_options
def kernels(*, rows: tuple[int, ...], quiet: bool) -> None:
    """Measure each operation of the kernel backend at a model's shapes, beside the reference backend.

    Without --model the shapes are those of SmolLM2-135M. Weights are random; nothing is loaded. GB/s are those of the
    weights (linear), of keys and values (attention) or of rows in and out (the rest).

    \b
    infer bench kernels
    infer bench kernels --model smollm2-135m --dtype float32 --rows 256
    """
    set_up_logging(quiet=quiet, verbose=0)
    args, origin = engine_args(require_model=False)

    from infer.core.bench.run import measure_kernels

    told = {"bench": "kernels", **measure_kernels(args, rows, given=origin)}
    if not quiet:
        messages.say(kernels_table(told))
    streams.write(streams.to_json(told) + "\n")
