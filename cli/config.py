"""`infer config`: what the settings are, and who said so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from infer.core.errors import nearest
from infer.core.settings.args import EngineArgs

from .command import telling
from .jobfile.defaults import ORIGIN, config_of, given_paths
from .jobfile.file import JobFile
from .jobfile.sections import ENGINE, JOB, commands, is_job, keys_of
from .options import Command, engine_args, engine_options
from .terminal import streams
from .terminal.table import table

#: Options of `show` itself.
_OWN = ("--given", "--all", "--json", "-h", "--help")
_COMMAND, _REST = "infer.show.command", "infer.show.rest"


@click.group()
def config() -> None:
    """Show the settings and where each came from.

    \b
    infer config show --config throughput --max-num-seqs 64
    """


class ShowCommand(Command):
    """`infer config show`: the options of another command are its own too, where it is of one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = [word for word in args if word not in _OWN]
        name = rest.pop(0) if rest and not rest[0].startswith("-") else None
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if name is None and (found := config_of(rest)):
            with telling(ctx):
                name = JobFile.read(found).command
        if name is not None:
            known = {one: command for one, command in commands().items() if any(param.name == "config" for param in command.params)}
            if name not in known:
                raise click.UsageError(f"{name!r} is not a command with settings{nearest(name, known)} ({', '.join(known)})", ctx)
            ctx.meta[_COMMAND], ctx.meta[_REST] = (name, known[name]), rest
            args = [word for word in args if word in _OWN]
        return super().parse_args(ctx, args)


@config.command(cls=ShowCommand)
@click.option("--given", is_flag=True, help="Only what a flag, the environment or --config has set.")
@click.option("--all", "all_", is_flag=True, help="Also what is not supported yet.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of {section, name, value, source}.")
@engine_options
def show(*, given: bool, all_: bool, as_json: bool) -> None:
    """Show each setting, its value and where it came from: a flag, the environment, a file or the default.

    It reads what `infer generate` would read: flags, then INFER_* variables, then --config, then the defaults. Values
    are as given, so "auto" stays "auto"; what it becomes depends on model and machine (`infer generate --stats`).

    Engine settings alone; after a command's name, or with a file that says its command, all options of that command.

    \b
    infer config show --config throughput --max-num-seqs 64
    infer config show --given --json
    infer config show --config sample_data/job.yaml --given
    infer config show chat --temperature 0
    """
    ctx = click.get_current_context()
    if _COMMAND in ctx.meta:
        name, command = ctx.meta[_COMMAND]
        with command.make_context(name, ctx.meta[_REST], parent=ctx.find_root()) as inner:
            rows = [*_engine(), *_options(inner)]
    else:
        rows = [*_engine()]
    pending = {one for one, setting in EngineArgs.settings().items() if setting.pending}
    rows = [
        row for row in rows if (row["source"] != "default" if given else all_ or row["section"] != ENGINE or row["name"] not in pending)
    ]
    if as_json:
        streams.write(streams.to_json(rows, indent=1) + "\n")
        return
    told = [(_name(row), _shown(row["value"]), str(row["source"])) for row in rows]
    streams.write(table([("SETTING", "VALUE", "FROM"), *told]))


def _engine() -> Iterator[dict[str, Any]]:
    args, origin = engine_args(require_model=False)
    secret = {f.name for f in dataclasses.fields(EngineArgs) if not f.repr}
    for name in EngineArgs.settings():
        value = getattr(args, name)
        yield {"section": ENGINE, "name": name, "value": "***" if value and name in secret else value, "source": origin[name]}


def _options(ctx: click.Context) -> Iterator[dict[str, Any]]:
    """The options of the command of `ctx` but for the engine's."""
    files = ctx.meta.get(ORIGIN, {})
    if is_job(ctx.command):
        yield from _paths(ctx, files)
    for (section, key), option in keys_of(ctx.command).items():
        if section == ENGINE or (section, key) == (JOB, "input"):
            continue
        name = str(option.name)
        source = ctx.get_parameter_source(name)
        told = {
            ParameterSource.COMMANDLINE: f"flag {max(option.opts, key=len)}",
            ParameterSource.ENVIRONMENT: f"env {option.envvar}",
            ParameterSource.DEFAULT_MAP: files.get(name, "file"),
        }.get(source or ParameterSource.DEFAULT, "default")
        if told == "default":
            value = getattr(option, "shown", option.to_info_dict()["default"])
        else:
            value = ctx.meta.get(getattr(option, "store", ""), {}).get(name, ctx.params.get(name))
        yield {"section": section, "name": key, "value": value, "source": told}


def _paths(ctx: click.Context, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """IN and OUT."""
    paths, named = ctx.params.get("paths") or (), ctx.params.get("inputs") or ()
    its_inputs, its_output = given_paths(ctx)
    first, rest = (named, paths) if named else (paths[:1], paths[1:])
    source = "flag --input" if named else "argument IN" if first else files.get("input", "default")
    yield {"section": JOB, "name": "input", "value": list(first or its_inputs) or ["-"], "source": source}
    source = "argument OUT" if rest else files.get("output", "default")
    yield {"section": JOB, "name": "output", "value": (*rest, its_output or "-")[0], "source": source}


def _name(row: dict[str, Any]) -> str:
    return row["name"] if row["section"] == ENGINE else f"{row['section']}.{row['name']}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, default=str)
