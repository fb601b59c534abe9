"""Options shared by sibling commands, so that they cannot drift apart.

    @click.command(cls=Command)
    @io_options           passes `io: JobOptions`
    @sampling_options     read with `sampling_params()`
    @engine_options       read with `engine_args()`
    def generate(io): ...

Engine options are the fields of EngineArgs, sampling options those of SamplingParams; neither is repeated here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from infer.core.settings.args import GROUPS, EngineArgs
from infer.core.settings.setting import Setting, presets
from infer.core.weights.aliases import aliases

from ..command import Command, Option, names_or_file
from ..jobfile.defaults import NOTES
from ..terminal import messages
from .io import JobOptions, input_options, io_options
from .sampling import given_sampling, sampling_options, sampling_params
from .value_types import Typed

F = TypeVar("F", bound=Callable[..., Any])

_ENGINE, _CONFIG = "infer.engine", "infer.config"

#: Short flags, where a setting has one.
SHORT = {"model": "-m"}


class SettingType(Typed):
    """The text of one setting; what is wrong with it is said by the setting itself."""

    def __init__(self, one: Setting) -> None:
        super().__init__({"dict": "json", "list": "json", "str": "text"}.get(one.kind, "size" if one.size else one.kind), one.parse)
        self.one = one

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # click 8.1 gives no ctx
        return f"[{'|'.join(self.one.choices)}]" if self.one.choices else self.name.upper()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self.one.name in ("model", "tokenizer"):
            return names_or_file(aliases(), incomplete)
        if self.one.name == "download_dir":
            return [CompletionItem(incomplete, type="dir")]
        return [CompletionItem(choice) for choice in self.one.choices or () if choice.startswith(incomplete)]


def _complete_config(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return names_or_file(presets(), incomplete)


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
        shell_complete=_complete_config,
        help=f"YAML file of settings (infer help job-files), or a preset: {', '.join(presets())}.",
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
        type=click.BOOL if one.kind == "bool" else click.STRING if one.repeats else SettingType(one),
        multiple=one.repeats,
        metavar=(one.metavar or "[NAME=]PATH") if one.repeats else None,
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
    args, origin = EngineArgs.load(config=config, env=os.environ, flags=ctx.meta.get(_ENGINE, {}), others=True)
    if require_model and not args.model:
        raise click.UsageError("Missing option '--model' / '-m': an alias ('infer models list'), a folder, a .gguf file or a hub id.", ctx)
    if not ctx.params.get("quiet"):
        for note in [*ctx.meta.pop(NOTES, []), *_unknown_env(ctx.command)]:
            messages.say(note, label="note: ")
    return args, origin


def _unknown_env(command: click.Command) -> list[str]:
    """A note for each INFER_* variable that no command reads."""
    found = EngineArgs.unknown_env(os.environ, _variables(command))
    if not found:
        return []
    from ..jobfile.sections import commands  # all of them are imported for it

    return EngineArgs.unknown_env(os.environ, [name for one in commands().values() for name in _variables(one)])


def _variables(command: click.Command) -> list[str]:
    return [str(param.envvar) for param in command.params if param.envvar]


__all__ = [
    "Command",
    "JobOptions",
    "engine_args",
    "engine_options",
    "given_sampling",
    "input_options",
    "io_options",
    "sampling_options",
    "sampling_params",
]
