"""The base of every command: a command whose help is in sections, and its options."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from infer.core.errors import InferError
from infer.core.settings.args import GROUPS
from infer.core.settings.values import instead_of as instead_of_value

from .hints import instead_of
from .jobfile.defaults import config_of, take_defaults
from .terminal import messages, streams

#: A command with more options than this has a short help too.
MANY = 12
#: Most options in it.
MOST = 11
#: The options that people use, in the order of the short help.
COMMON = (
    "--model", "--label", "--prompt-field", "--template", "--chat", "--system", "--width", "--num-return", "--max-tokens", "--temperature",
    "--json-schema", "--choice", "--query-prefix", "--dimensions", "--output-format", "--resume", "--overwrite", "--errors",
    "--limit", "--config", "--stats", "--json", "--invariance",
)  # fmt: skip


class Command(click.Command):
    """A command whose help is in sections and whose body cannot print to stdout by accident.

    The body returns the exit code (None: 0); an InferError becomes one message on stderr and its own exit code. -h shows the options that
    people use (COMMON), --help all of them, where there are more than fit on a screen.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings = {"help_option_names": ["--help"], **self.context_settings}
        self.params.append(click.Option(["-h"], is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=_show_short_help))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        if len(options) > MANY:
            formatter.write_paragraph()
            formatter.write_text("-h shows the options that people use.")

    def format_short_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, the first paragraph, the examples, the options of COMMON, and where the rest is told."""
        self.format_usage(ctx, formatter)
        first, *others = inspect.cleandoc(self.help or "").split("\n\n")
        for paragraph in (first, *(one for one in others if one.startswith("\b"))):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)
        options = {name: param for param in self.get_params(ctx) if isinstance(param, click.Option) for name in param.opts}
        common = dict.fromkeys(options[name] for name in COMMON if name in options)
        records = [record for param in list(common)[:MOST] if (record := click.Option.get_help_record(param, ctx)) is not None]
        with formatter.section("Options that people use"):
            formatter.write_dl(records)
        formatter.write_paragraph()
        formatter.write_text(f"All {len(options)} options: {ctx.command_path} --help. Subjects: infer help.")

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """The options of each section of the help, with what is told of them."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            group = getattr(param, "group", "Options")
            if group == GROUPS["later"]:
                continue  # what is refused is no help
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(group, []).append(record)
        return sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, records in self.sections(ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        messages.look_for_format(args)
        known = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts) if name.startswith("-")}
        args = _with_hyphens(args, known)
        files = {
            name
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and isinstance(param.type, click.Path)
            for name in param.opts
        }
        for name, value in pairwise(args[: args.index("--")] if "--" in args else args):
            if name in files and value in known:
                raise click.UsageError(f"Option {name!r} requires a file's name, and {value!r} is an option (./{value} is a file)", ctx)
        if not ctx.resilient_parsing and any(param.name == "config" for param in self.params) and (config := config_of(args)):
            with telling(ctx):
                take_defaults(ctx, config)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = instead_of(error.option_name, known, ctx)
            raise click.UsageError(f"No such option {error.option_name!r}{hint}", ctx) from None
        except click.BadParameter as error:
            kind = error.param.type if error.param is not None else None
            if not isinstance(kind, click.Choice):
                raise
            raise click.BadParameter(_with_hint(error.message, kind.choices), ctx, error.param) from None

    def invoke(self, ctx: click.Context) -> Any:
        with streams.guarded(), telling(ctx):
            ctx.exit(super().invoke(ctx) or 0)


@contextmanager
def telling(ctx: click.Context) -> Iterator[None]:
    """Within it an InferError becomes one message on stderr and its exit code."""
    try:
        yield
    except InferError as error:
        messages.say(str(error), event="error", level="error", label="Error: ", exit_code=error.exit_code)
        ctx.exit(error.exit_code)


def _with_hint(message: str, known: Iterable[Any]) -> str:
    """click's message about an unknown value, with a suggestion; the message quotes the value."""
    given = re.match(r"'(.*?)' is not one of", message)
    hint = instead_of_value(given[1], [str(one) for one in known]) if given else ""
    return message.rstrip(".") + hint if hint else message


def _show_short_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    command, formatter = ctx.command, ctx.make_formatter()
    if isinstance(command, Command) and len(command.params) > MANY:
        command.format_short_help(ctx, formatter)
    else:
        command.format_help(ctx, formatter)
    click.echo(formatter.getvalue().rstrip("\n"), color=ctx.color)
    ctx.exit()


def _with_hyphens(args: list[str], known: Collection[str]) -> list[str]:
    """Options that are written with underscores as they are called: --max_tokens is --max-tokens."""
    found: list[str] = []
    for place, word in enumerate(args):
        if word == "--":
            return [*found, *args[place:]]
        name, equals, value = word.partition("=")
        hyphens = name.replace("_", "-")
        found.append(hyphens + equals + value if name.startswith("--") and name not in known and hyphens in known else word)
    return found


def names_or_file(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Completions of what is a name or a file. In bash what comes after the word for files counts, and files where nothing does."""
    return [CompletionItem(incomplete, type="file"), *(CompletionItem(name) for name in names if name.startswith(incomplete))]


def usage(message: str) -> click.UsageError:
    """The error for options of the running command that cannot be had."""
    return click.UsageError(message, click.get_current_context())


def with_options(command: Any, options: Iterable[Callable[[Any], Any]]) -> Any:
    """`command` with some options, which its help shows in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


_GIVEN = frozenset({ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP})


class Option(click.Option):
    """An option in a section of the help. If it was given it lands in `ctx.meta[store]`, else nowhere: given on the command line, by
    its variable, or in a job's file.

    `shown` is the default to show (click must not know one, so that only given values count as given); `env` the variable
    to show where somebody else reads it (EngineArgs.load). Any other option is read from INFER_ and its name.
    """

    def __init__(self, *args: Any, group: str, store: str, shown: Any = None, env: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, expose_value=False, **kwargs)
        self.group, self.store, self.shown = group, store, shown
        if env is None:
            self.envvar = env = "INFER_" + max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        self.env = env

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Of an option that may be repeated: one value, or a JSON list of them. Texts may have blanks."""
        if not self.multiple:
            return super().value_from_envvar(ctx)
        text = self.resolve_envvar_value(ctx)
        if text is None or not text.lstrip().startswith("["):
            return None if text is None else [text]
        try:
            found = json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"{self.envvar} is not a JSON list: {error}", ctx, self) from None
        return [one if isinstance(one, str) else json.dumps(one) for one in found]

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> Any:
        value, rest = super().handle_parse_result(ctx, opts, args)
        name = str(self.name)
        if ctx.get_parameter_source(name) in _GIVEN:
            ctx.meta.setdefault(self.store, {})[name] = value
        return value, rest

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        return names_or_file((), incomplete) if not found and "FILE" in (self.metavar or "") else found

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        shown = str(self.shown).lower() if isinstance(self.shown, bool) else self.shown
        extra = [f"default: {shown}"] if shown not in (None, "", ()) else []
        extra += [f"env: {self.env}"] if self.env else []
        if record is None or not extra:
            return record
        return record[0], f"{record[1]}  [{'; '.join(extra)}]"
