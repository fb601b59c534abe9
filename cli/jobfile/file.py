"""A job's file as it was written: which command it is of, and its sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infer.core.errors import ConfigError, nearest
from infer.core.settings.args import EngineArgs
from infer.core.settings.yamlfile import COMMAND, layers

from .sections import ENGINE, JOB, all_keys, command_named, commands, is_job, keys_of


@dataclass(frozen=True)
class JobFile:
    """
    Args:
        command: that it is of, if it says so.
        values: (section, key) -> the value, but for the engine's, and the file that says it. Later files of `config:` win.
    """

    command: str | None = None
    values: Mapping[tuple[str, str], tuple[Any, Path]] = field(default_factory=dict)

    @classmethod
    def read(cls, config: str) -> JobFile:
        """The file or preset that --config names, over those that it is built on. Of a file whose keys are all its command's, no other
        command is imported.

        Raises ConfigError for a key that no command has, naming its section if it is in the wrong one.
        """
        command: str | None = None
        values: dict[tuple[str, str], tuple[Any, Path]] = {}
        files = layers(config)
        for path, content in files:
            if COMMAND in content:
                command = _command(path, content[COMMAND])
        own = _own(command)
        for path, content in files:
            for key, value in content.items():
                if key == COMMAND:
                    continue
                if key not in EngineArgs.settings() or isinstance(value, dict):
                    values |= {(key, name): (one, path) for name, one in _section(path, key, value, own).items() if key != ENGINE}
        return cls(command, values)


def _own(name: str | None) -> frozenset[tuple[str, str]]:
    """The places of the options of a command."""
    command = None if name is None else command_named(name)
    return frozenset() if command is None else frozenset([*keys_of(command), (JOB, "input"), (JOB, "output")])


def _command(path: Path, value: Any) -> str:
    command = command_named(value) if isinstance(value, str) else None
    if command is not None and (is_job(command) or value == "check"):
        return str(value)
    known = [name for name, command in commands().items() if is_job(command) or name == "check"]
    raise ConfigError(f"{path.name}: {COMMAND}: {value!r} is not a command{nearest(str(value), known)} ({', '.join(known)})")


def _section(path: Path, key: str, value: Any, own: frozenset[tuple[str, str]]) -> dict[str, Any]:
    """The keys of a section that it has. `own`: places that are known to be right. Raises ConfigError."""
    if isinstance(value, dict) and all((key, str(name)) in own for name in value):
        return {str(name): one for name, one in value.items()}
    sections = dict.fromkeys([ENGINE, *(section for section, _ in all_keys())])
    if key in EngineArgs.settings() and key not in sections:
        return {}  # a setting whose value is a mapping
    if key not in sections:
        if home := _homes(key):
            raise ConfigError(f"{path.name}: {key} belongs under {_or(home)}")
        raise ConfigError(
            f"{path.name}: unknown key {key!r}{nearest(key, [*sections, *EngineArgs.settings(), COMMAND]) or _elsewhere(key)}"
        )
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name}: {key} must hold `name: value` lines, not {value!r}")
    names = {name for section, name in all_keys() if section == key} | (set(EngineArgs.settings()) if key == ENGINE else set())
    for name in map(str, value):
        if name not in names:
            if home := _homes(name):
                raise ConfigError(f"{path.name}: {name} belongs under {_or(home)}, not {key}:")
            raise ConfigError(f"{path.name}: unknown key {name!r} under {key}:{nearest(name, names) or _elsewhere(name)}")
    return {str(name): one for name, one in value.items()}


def _homes(name: str) -> list[str]:
    """The sections that have a key."""
    own = [ENGINE] if name in EngineArgs.settings() else []
    return list(dict.fromkeys([*own, *(section for section, key in all_keys() if key == name)]))


def _elsewhere(name: str) -> str:
    """ "; …" for a key that another section has and `name` misspells, or an empty string."""
    keys = [*EngineArgs.settings(), *(key for _, key in all_keys())]
    hint = nearest(name, dict.fromkeys(keys))
    meant = hint.split("'")[1] if hint.count("'") == 2 else ""
    return f"{hint} (under {_or(_homes(meant))})" if meant else hint


def _or(sections: list[str]) -> str:
    return " or ".join(f"{section}:" for section in sections)
