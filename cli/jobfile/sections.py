"""The options of commands as keys of a file: every option has a section and a key there, and no list of them is kept anywhere.

section    the engine's, or that of the options' store: sampling, chat, beam, pooling…; job: every other option of a command
key        the option's long name, with underscores
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import click

ENGINE, JOB = "engine", "job"
#: Options that say where settings come from, or that end a command before it begins.
_NO_KEYS = frozenset({"config", "help", "version"})
#: Stores whose options are about the job, see `Option`.
_OF_JOB = frozenset({"prompt", "config"})


def section_of(param: click.Parameter) -> str | None:
    """The section of an option; None for what cannot be in a file."""
    if not isinstance(param, click.Option) or not any(name.startswith("--") for name in param.opts) or key_of(param) in _NO_KEYS:
        return None
    store = str(getattr(param, "store", "")).removeprefix("infer.")
    return JOB if not store or store in _OF_JOB else store


def key_of(param: click.Option) -> str:
    """The key of an option in its section."""
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def keys_of(command: click.Command) -> dict[tuple[str, str], click.Option]:
    """(section, key) -> option of a command. IN and OUT are not among them: their keys are `job.input` and `job.output`."""
    found: dict[tuple[str, str], click.Option] = {}
    for param in command.params:
        if (section := section_of(param)) is not None:
            assert isinstance(param, click.Option)
            found[section, key_of(param)] = param
    return found


def is_job(command: click.Command) -> bool:
    """True if a command answers an input into an output."""
    return any(param.name == "overwrite" for param in command.params) and any(param.name == "inputs" for param in command.params)


@lru_cache(maxsize=1)
def all_keys() -> dict[tuple[str, str], tuple[str, ...]]:
    """(section, key) -> the commands that have it. All commands are imported for it."""
    found: dict[tuple[str, str], list[str]] = {(JOB, "input"): [], (JOB, "output"): []}
    for name, command in commands().items():
        if not any(param.name == "config" for param in command.params):
            continue  # it reads no file
        for place in [*keys_of(command), *([(JOB, "input"), (JOB, "output")] if is_job(command) else [])]:
            found.setdefault(place, []).append(name)
    return {place: tuple(names) for place, names in found.items()}


def command_named(name: str) -> click.Command | None:
    """A command that is in no group, alone: no other is imported."""
    from ..commands import infer

    return infer.get_command(click.Context(infer), name)


@lru_cache(maxsize=1)
def commands() -> dict[str, click.Command]:
    """Every command by its name, those in groups too ("bench kernels")."""
    from ..commands import COMMANDS, infer

    return {name: command for top in COMMANDS for name, command in _below(infer, top)}


def _below(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    command = group.get_command(click.Context(group), name)
    if isinstance(command, click.Group):
        for inner in command.commands:
            yield from ((f"{name} {below}", found) for below, found in _below(command, inner))
    elif command is not None:
        yield name, command
