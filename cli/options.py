"""Options shared by sibling commands, so that they cannot drift apart.

    @click.command(cls=Command)
    @io_options           passes `io: IoOptions`
    @sampling_options     read with `sampling_params()`
    @engine_options       read with `engine_args()`
    def generate(io): ...

Engine options are the fields of EngineArgs, sampling options those of SamplingParams; neither is repeated here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from infer.core.args import GROUPS, EngineArgs
from infer.core.errors import ConfigError, InferError, RecordError
from infer.core.params import SamplingParams
from infer.core.settings import Setting, presets

from . import messages, streams
from .io_options import IoOptions, SizeType, input_options, io_options

F = TypeVar("F", bound=Callable[..., Any])

_ENGINE, _CONFIG, _SAMPLING = "infer.engine", "infer.config", "infer.sampling"

#: Short flags, where a setting has one.
SHORT = {"model": "-m"}

#: Fields of SamplingParams that are no option, and why not.
NOT_OPTIONS = {
    "seed": "--seed is the run seed; a record's own seed is a field of the record",
    "detokenize": "output lines hold text",
}

SAMPLING_HELP = {
    "n": "Outputs per record.",
    "presence_penalty": "Subtracted from the logit of tokens already in the output.",
    "frequency_penalty": "Subtracted from a token's logit once per occurrence in the output.",
    "repetition_penalty": "Above 1: tokens in prompt or output become less likely.",
    "temperature": "0 is greedy.",
    "top_p": "Keep the most likely tokens whose probabilities reach this sum.",
    "top_k": "Keep the K most likely tokens; -1 keeps all.",
    "min_p": "Drop tokens less likely than this fraction of the most likely one.",
    "stop": "End the output before this text; may be repeated.",
    "stop_token_ids": "End the output after this token id; may be repeated.",
    "include_stop_str_in_output": "Keep the stop text.",
    "ignore_eos": "Do not end at the end-of-sequence token.",
    "max_tokens": "Most output tokens; none: as many as --max-model-len leaves.",
    "min_tokens": "No end before this many output tokens.",
    "logprobs": "Report the log-probabilities of the K most likely tokens.",
    "skip_special_tokens": "Leave special tokens out of the text.",
    "return_token_ids": "Write the token ids of prompt and output beside the text.",
}


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


class SettingType(click.ParamType):
    """The text of one setting; what is wrong with it is said by the setting itself."""

    def __init__(self, one: Setting) -> None:
        self.one = one
        self.name = {"dict": "json", "list": "json", "str": "text"}.get(one.kind, "size" if one.size else one.kind)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # click 8.1 gives no ctx
        return f"[{'|'.join(self.one.choices)}]" if self.one.choices else self.name.upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.one.parse(value) if isinstance(value, str) else self.one.check(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class NumberType(click.ParamType):
    """A number of SamplingParams; `none` where the field may be None. The range is SamplingParams' business."""

    def __init__(self, kind: type, *, none: bool) -> None:
        self.kind, self.none = kind, none
        self.name = "int" if kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.none and str(value).lower() == "none":
            return None
        try:
            return self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is not {'an integer' if self.kind is int else 'a number'}", param, ctx)


# --- engine


def engine_options(command: F, *, without: Collection[str] = ()) -> F:
    """Adds every engine setting as an option but those named in `without`, and --config."""
    for name, one in reversed(EngineArgs.settings().items()):
        if name not in without:
            command = _engine_option(one)(command)
    return click.option(
        "--config",
        cls=Option,
        group="Options",
        store=_CONFIG,
        metavar="FILE|PRESET",
        env="INFER_CONFIG",
        help=f"YAML file of engine settings, or a preset: {', '.join(presets())}.",
    )(command)


def _engine_option(one: Setting) -> Callable[[F], F]:
    declared = [one.flag, one.name]
    if one.kind == "bool":
        declared[0] = f"{one.flag}/--no-{one.flag[2:]}"
    elif one.name in SHORT:
        declared.insert(0, SHORT[one.name])
    return click.option(
        *declared,
        cls=Option,
        group=GROUPS[one.group],
        store=_ENGINE,
        type=click.BOOL if one.kind == "bool" else SettingType(one),
        default=None,
        shown=one.default,
        env=one.env,
        help=one.help,
    )


def engine_args(*, require_model: bool = True) -> tuple[EngineArgs, dict[str, str]]:
    """The engine settings of the running command: flags over environment over --config over defaults.

    Returns what `EngineArgs.load` returns. Raises click.UsageError without a model unless it is not required, ConfigError for bad
    values.
    """
    ctx = click.get_current_context()
    config = ctx.meta.get(_CONFIG, {}).get("config") or os.environ.get("INFER_CONFIG") or None
    args, origin = EngineArgs.load(config=config, env=os.environ, flags=ctx.meta.get(_ENGINE, {}))
    if require_model and not args.model:
        raise click.UsageError("Missing option '--model' / '-m': an alias ('infer models list'), a folder, a .gguf file or a hub id.", ctx)
    if not ctx.params.get("quiet"):
        for note in EngineArgs.unknown_env(os.environ):
            messages.say(note, label="note: ")
    return args, origin


# --- sampling


def sampling_options(command: F) -> F:
    """Adds an option for each field of SamplingParams a command line can set."""
    for f in reversed(dataclasses.fields(SamplingParams)):
        if f.name not in NOT_OPTIONS:
            command = _sampling_option(f)(command)
    return command


def _sampling_option(f: dataclasses.Field[Any]) -> Callable[[F], F]:
    flag = "--" + f.name.replace("_", "-")
    kind = str(f.type)
    many = kind.startswith("tuple")
    type_: Any
    if kind == "bool":
        flag, type_ = f"{flag}/--no-{flag[2:]}", click.BOOL
    elif many:
        type_ = click.INT if "int" in kind else click.STRING
    else:
        type_ = NumberType(float if f.metadata["kind"] == "float" else int, none=f.metadata["none"])
    return click.option(
        flag,
        f.name,
        cls=Option,
        group="Sampling (a record's own fields win)",
        store=_SAMPLING,
        type=type_,
        multiple=many,
        default=None,
        shown=f.default,
        help=SAMPLING_HELP[f.name],
    )


def given_sampling() -> dict[str, Any]:
    """The sampling fields given on the running command's line."""
    return dict(click.get_current_context().meta.get(_SAMPLING, {}))


def sampling_params(**unless_given: Any) -> SamplingParams:
    """The command's default SamplingParams. Raises click.UsageError for values out of range.

    Args:
        unless_given: fields of which this command has a default of its own.
    """
    try:
        return SamplingParams(**{**unless_given, **given_sampling()})
    except RecordError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None


__all__ = [
    "Command",
    "IoOptions",
    "SizeType",
    "engine_args",
    "engine_options",
    "given_sampling",
    "input_options",
    "io_options",
    "sampling_options",
    "sampling_params",
]
