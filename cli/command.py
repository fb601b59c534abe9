"""The base of every command: a command whose help is in sections, and its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.core import ParameterSource

from infer.core.errors import InferError
from infer.core.settings.args import GROUPS

from .terminal import messages, streams


class Command(click.Command):
    """A command whose help is in sections and whose body cannot print to stdout by accident.

    The body returns the exit code (None: 0); an InferError becomes one message on stderr and its own exit code.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        later = []
        for param in self.get_params(ctx):
            group = getattr(param, "group", "Options")
            if group == GROUPS["later"]:
                later.append(param.opts[0])
            elif isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(group, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if later:
            with formatter.section(f"{GROUPS['later']} (refused unless left at their defaults)"):
                formatter.write_text(", ".join(later))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        messages.look_for_format(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with streams.guarded():
            try:
                code = super().invoke(ctx)
            except InferError as error:
                code = error.exit_code
                messages.say(str(error), event="error", level="error", label="Error: ", exit_code=code)
            ctx.exit(code or 0)


def usage(message: str) -> click.UsageError:
    """The error for options of the running command that cannot be had."""
    return click.UsageError(message, click.get_current_context())


def with_options(command: Any, options: Iterable[Callable[[Any], Any]]) -> Any:
    """`command` with some options, which its help shows in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


class Option(click.Option):
    """An option in a section of the help. If it was given it lands in `ctx.meta[store]`, else nowhere.

    `shown` is the default to show (click must not know one, so that only given values count as given); `env` the variable
    to show (EngineArgs.load reads it).
    """

    def __init__(self, *args: Any, group: str, store: str, shown: Any = None, env: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, expose_value=False, **kwargs)
        self.group, self.store, self.shown, self.env = group, store, shown, env

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> Any:
        value, rest = super().handle_parse_result(ctx, opts, args)
        name = str(self.name)
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            ctx.meta.setdefault(self.store, {})[name] = value
        return value, rest

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        shown = str(self.shown).lower() if isinstance(self.shown, bool) else self.shown
        extra = [f"default: {shown}"] if shown not in (None, "", ()) else []
        extra += [f"env: {self.env}"] if self.env else []
        if record is None or not extra:
            return record
        return record[0], f"{record[1]}  [{'; '.join(extra)}]"
