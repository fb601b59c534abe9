"""`infer run`: the job that a file describes."""

from __future__ import annotations

from typing import Any

import click

from infer.core.errors import ConfigError

from ..command import Command
from .defaults import config_of
from .file import JobFile
from .sections import command_named


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("file", metavar="FILE", type=click.Path())
@click.argument("options", metavar="[OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, *, file: str, options: tuple[str, ...]) -> Any:
    """Run the job that a YAML file describes: its command, input, output and options.

    What comes after FILE are options of that command, as on its own line, and win over the file: IN and OUT too. The file is what
    --config would name; `infer config show --config FILE` says what it comes to, `infer help job-files` how it is written.

    \b
    infer run sample_data/job.yaml
    infer run sample_data/job.yaml --limit 10 --temperature 0
    infer run sample_data/job.yaml --resume
    """
    if config_of(("--config", "", *options)):
        raise ConfigError(f"infer run reads {file!r} as its --config; to build on another one, say `config: NAME` in the file")
    name = JobFile.read(file).command
    if name is None:
        raise ConfigError(f"{file!r} does not say which command it is of; begin it with a line such as `command: generate`")
    command = command_named(name)
    assert command is not None
    with command.make_context(name, ["--config", file, *options], parent=ctx.parent) as inner:
        return command.invoke(inner)
