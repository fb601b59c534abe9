"""`infer config`: what the settings are, and who said so."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from infer.core.settings.args import EngineArgs

from .options import Command, engine_args, engine_options
from .terminal import streams
from .terminal.table import table


@click.group()
def config() -> None:
    """Show the engine's settings and where each came from.

    \b
    infer config show --config throughput --max-num-seqs 64
    """


@config.command(cls=Command)
@click.option("--given", is_flag=True, help="Only what a flag, the environment or --config has set.")
@click.option("--all", "all_", is_flag=True, help="Also what is not supported yet.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of {name, value, source}.")
@engine_options
def show(*, given: bool, all_: bool, as_json: bool) -> None:
    """Show each engine setting, its value and where it came from: a flag, the environment, a file or the default.

    It reads what `infer generate` would read: flags, then INFER_* variables, then --config, then the defaults. Values
    are as given, so "auto" stays "auto"; what it becomes depends on model and machine (`infer generate --stats`).

    \b
    infer config show --config throughput --max-num-seqs 64
    infer config show --given --json
    """
    args, origin = engine_args(require_model=False)
    pending = {name for name, one in EngineArgs.settings().items() if one.pending}
    rows = [row for row in _rows(args, origin) if (row["source"] != "default" if given else all_ or row["name"] not in pending)]
    streams.write(
        streams.to_json(rows, indent=1) + "\n"
        if as_json
        else table([("SETTING", "VALUE", "FROM"), *((r["name"], _shown(r["value"]), r["source"]) for r in rows)])
    )


def _rows(args: EngineArgs, origin: dict[str, str]) -> list[dict[str, Any]]:
    secret = {f.name for f in dataclasses.fields(EngineArgs) if not f.repr}
    rows = []
    for name in EngineArgs.settings():
        value = getattr(args, name)
        rows.append({"name": name, "value": "***" if value and name in secret else value, "source": origin[name]})
    return rows


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
