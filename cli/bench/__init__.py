"""`infer bench`: how fast records are answered here, and where the time goes."""

from __future__ import annotations

import click

from .host import host
from .kernels import kernels
from .suite import suite
from .throughput import throughput

#: The command that is meant where none is named.
DEFAULT = throughput.name
#: The suite, said as an option.
SUITE = "--suite"


class BenchGroup(click.Group):
    """`infer bench IN` is `infer bench throughput IN`, and `infer bench --suite` is `infer bench suite`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if not named and SUITE in args:
            args = ["suite", *(word for word in args if word != SUITE)]
        elif not named:
            args = [str(DEFAULT), *args]
        return super().parse_args(ctx, args)


@click.group(cls=BenchGroup)
def bench() -> None:
    """Measure throughput on a JSONL file, on random records or on a suite of works, the operations
    alone, or the host's part of a step.

    Without a command's name it is throughput, with --suite it is suite. A table goes to stderr; the last line of stdout is one JSON object.

    \b
    infer bench --model smollm2-135m sample_data/generate.jsonl
    infer bench --model smollm2-135m --num-prompts 64 --input-len 256 --output-len 64
    infer bench --suite --model smollm2-135m
    infer bench kernels --model smollm2-135m
    """


for command in (throughput, suite, kernels, host):
    bench.add_command(command)
