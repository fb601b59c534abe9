"""The file of --stats: locked while its run goes on, no other file written over, there as a whole at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from ...errors import ConfigError, OutputError
from ..jsonl import spelled
from .beside import place_beside
from .files import followed, is_special, is_there, write_whole
from .lock import LOCK_SUFFIX, FileLock

#: What is read of a file to tell whether it is one of ours.
_MOST = 1 << 24
#: What all that are ours have.
_KEYS = frozenset({"command", "exit_code", "records", "versions"})


class StatsFile:
    """A context within which nobody else writes the file.

    Args:
        name: as the user gave it.
        output: the run's output; `taken`: other files of the run.
        overwrite: whatever is there may be replaced.
        goes_on: the statistics of an earlier run with this output may be.

    Raises ConfigError, LockedError, OutputError.
    """

    def __init__(self, name: str, *, output: str, taken: list[str], overwrite: bool, goes_on: bool) -> None:
        self._name = name
        self._output = place_of(output)
        self._path = followed(name, f"--stats {name!r}")
        self._lock: FileLock | None = None
        self._straight = is_special(Path(name))  # a pipe, /dev/null
        if self._straight:
            return
        place_beside("--stats", name, taken=(output, *taken))
        self._lock = FileLock(self._path.with_name(self._path.name + LOCK_SUFFIX), f"--stats {name!r}")
        try:
            if is_there(self._path) and not overwrite and not (goes_on and self._is_of_this_output()):
                raise ConfigError(f"--stats {name!r} exists; use --overwrite to replace it, or choose another file")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> StatsFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def write(self, value: Mapping[str, Any]) -> None:
        """As indented JSON. Raises OutputError."""
        named = {**value, "output": self._output}
        data = orjson.dumps(spelled(named), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS, default=str)
        try:
            if self._straight:
                Path(self._name).write_bytes(data)
            else:
                write_whole(self._path, data)
        except OSError as error:
            raise OutputError(f"--stats {self._name!r} cannot be written: {error.strerror}") from None

    def _is_of_this_output(self) -> bool:
        try:
            with self._path.open("rb") as file:
                found = orjson.loads(file.read(_MOST))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and found.keys() >= _KEYS and found.get("output", self._output) == self._output


def place_of(output: str) -> str:
    """An output's path, as text."""
    return output if output == "-" else spelled(os.path.realpath(output))
