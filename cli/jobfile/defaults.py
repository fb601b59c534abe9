"""Values from a job file, as defaults of a command's options: flags and environment variables win over them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from infer.core.errors import ConfigError
from infer.core.remote.url import is_remote

from ..terminal import messages
from .file import JobFile
from .sections import JOB, all_keys, is_job, keys_of

#: Where a context keeps `input` and `output` of the file, the file that says each option, and notes for `engine_args` to say.
PATHS, ORIGIN, NOTES = "infer.file.paths", "infer.file.origin", "infer.file.notes"


def config_of(args: Sequence[str]) -> str | None:
    """The --config of a command line that is not parsed yet, or of the environment."""
    words = args[: args.index("--")] if "--" in args else args
    given = [value for flag, value in pairwise([*words, ""]) if flag == "--config"]
    given += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return (given[-1] if given else os.environ.get("INFER_CONFIG")) or None


def take_defaults(ctx: click.Context, config: str) -> None:
    """Makes the values of the file `config` the defaults of the command of `ctx`. Raises ConfigError."""
    file = JobFile.read(config)
    command = ctx.command
    if file.command is not None and is_job(command) and file.command != command.name:
        raise ConfigError(f"{config!r} is a job of infer {file.command}, not of infer {command.name}; run it with: infer run {config}")
    options, defaults = keys_of(command), {}
    paths: dict[str, list[str]] = {}
    origin: dict[str, str] = {}
    for (section, key), (value, path) in file.values.items():
        if value is None:
            continue
        if section == JOB and key in ("input", "output"):
            paths[key] = _paths(key, value, path)
            origin[key] = path.name
        elif (option := options.get((section, key))) is not None:
            defaults[str(option.name)] = _checked(ctx, option, value, f"{path.name}: {section}.{key}", path.parent)
            origin[str(option.name)] = path.name
        elif file.command is None:  # its own command has it
            ctx.meta.setdefault(NOTES, []).append(
                f"{path.name}: {section}.{key} has no effect with infer {command.name} (only with {', '.join(all_keys()[section, key])})"
            )
    if file.command is not None and not is_job(command):
        defaults |= _task(command, file.command)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta[PATHS], ctx.meta[ORIGIN] = paths, origin
    if defaults.get("log_format") == "json":
        messages.use_json(True)


def _task(command: click.Command, name: str) -> dict[str, Any]:
    """`infer check` of a job is for the job's command."""
    kind = next((param for param in command.params if param.name == "kind"), None)
    return {"kind": name} if kind is not None and isinstance(kind.type, click.Choice) and name in kind.type.choices else {}


def _paths(key: str, value: Any, path: Path) -> list[str]:
    names = value if isinstance(value, list) and key == "input" else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        many = ", or a list of them" if key == "input" else ""
        raise ConfigError(f"{path.name}: job.{key} must be the name of a file{many}, not {value!r}")
    return [_beside(name, path.parent) for name in names]


def _checked(ctx: click.Context, option: click.Option, value: Any, place: str, folder: Path) -> Any:
    """A value as the command line would have it: text, or true and false. Raises ConfigError where the option refuses it."""
    if option.is_flag or isinstance(option.type, click.types.BoolParamType):
        if not isinstance(value, bool):
            raise ConfigError(f"{place} must be true or false, not {value!r}")
        return value
    if option.multiple:
        given: Any = [_text(one) for one in (value if isinstance(value, list) else [value])]
    else:
        given = _text(value)
    if takes_file(option):
        given = [_located(option, one, folder) for one in given] if option.multiple else _located(option, given, folder)
    try:
        option.type_cast_value(ctx, given)
    except click.BadParameter as error:
        raise ConfigError(f"{place}: {error.message}") from None
    return given


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date, which YAML knows and JSON does not
        return str(value)


def takes_file(option: click.Option) -> bool:
    """True if what an option says may be the name of a file."""
    return isinstance(option.type, click.Path) or "FILE" in (option.metavar or "").split("|")


def _located(option: click.Option, name: str, folder: Path) -> str:
    """The file of a name beside the job's file. Where something else may be meant, only if it is there."""
    there = _beside(name, folder)
    if isinstance(option.type, click.Path) or option.metavar == "FILE":
        return there
    try:
        return there if Path(there).is_file() else name
    except (OSError, ValueError):  # too long for a name
        return name


def _beside(name: str, folder: Path) -> str:
    return name if name == "-" or folder == Path() or is_remote(name) else os.path.join(folder, name)  # noqa: PTH118 (as it was written)


def given_paths(ctx: click.Context) -> tuple[Iterable[str], str | None]:
    """(`job.input`, `job.output`) of the command's file."""
    paths = ctx.meta.get(PATHS, {})
    return paths.get("input", ()), next(iter(paths.get("output", ())), None)
