"""`infer bench suite`: one table of works of several shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import Command, engine_args, engine_options
from ..options.io import quiet_option
from ..report import set_up_logging
from ..terminal import messages, streams
from .tables import pass_line, suite_table

if TYPE_CHECKING:
    from infer.core.jobs.stats import JobStats

#: Names of works, in the order of the table.
NAMES = ("mixed", "small", "prefix", "long", "few1", "few4", "few8", "embed")


@click.command(cls=Command, short_help="Answer works of several shapes (also as --suite).")
@click.option(
    "--work", "works", metavar="NAME", type=click.Choice(NAMES), multiple=True, help=f"Only this work, may be repeated: {', '.join(NAMES)}."
)
@click.option("--embed-model", metavar="MODEL", default="", help="Model for the work embed, which is left out without one.")
@click.option("--quick", is_flag=True, help="Works of a fraction of the size: seconds instead of minutes, and figures as rough.")
@click.option("--repeat", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Passes that count.")
@click.option("--breakdown/--no-breakdown", default=True, show_default=True, help="One more pass of each with a stopwatch at every part.")
@quiet_option
@engine_options
def suite(*, works: tuple[str, ...], embed_model: str, quick: bool, repeat: int, breakdown: bool, quiet: bool) -> int:
    """Measure works of several shapes, made of the text of Python's own library, and print one table.

    mixed: 256 prompts and outputs of many lengths. small: 48 of these. prefix: 256 prompts that begin with one of four texts. long:
    10 prompts of 3,500 to 7,000 tokens. few1, few4, few8: so many records with long outputs. embed: 2,000 texts. Shares are
    those of the time of a pass, and of what large multiplications (peak) and reading memory (read) reach on this machine. A work
    that the model cannot do is left out, which is said. The exit status is 3 if some records failed.

    \b
    infer bench suite --model smollm2-135m --embed-model all-minilm-l6-v2
    infer bench --suite --quick --model smollm2-135m
    infer bench suite --model smollm2-135m --work mixed --work long --repeat 3
    """
    set_up_logging(quiet=quiet, verbose=0)
    args, origin = engine_args()

    from infer.core.bench.suite import measure_suite
    from infer.core.build.plan import make_plan

    def on_work(name: str, one: JobStats) -> None:
        if not quiet:
            messages.say(pass_line(name, one))

    plan = make_plan(args, given=origin)
    if not quiet:
        for note in plan.config.notes:
            messages.say(note, label="note: ")
    told = {
        "bench": "suite",
        **measure_suite(plan, args, works, embed_model=embed_model, quick=quick, repeat=repeat, breakdown=breakdown, on_work=on_work),
    }
    if not quiet:
        messages.say(suite_table(told))
    streams.write(streams.to_json(told) + "\n")
    return 3 if told["failed"] else 0
