"""The file of --stats: locked while its run goes on, no other file written over, there as a whole at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from ...errors import ConfigError, OutputError
from ...remote.store import Store
from ...remote.upload import put_bytes, refuse_unwritable
from ...remote.url import is_remote, place, shown_name
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
        self._name = shown_name(name)
        self._output = place_of(output)
        self._lock: FileLock | None = None
        self._store: Store | None = None
        if is_remote(name):
            self._straight = False
            self._store = self._looked_at(Store(name, "--stats"), [output, *taken], overwrite=overwrite, goes_on=goes_on)
            return
        self._path = followed(name, f"--stats {name!r}")
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
            if self._store is not None:
                put_bytes(data, self._store)
            elif self._straight:
                Path(self._name).write_bytes(data)
            else:
                write_whole(self._path, data)
        except OSError as error:
            raise OutputError(f"--stats {self._name!r} cannot be written: {error.strerror}") from None

    def _looked_at(self, store: Store, taken: list[str], *, overwrite: bool, goes_on: bool) -> Store:
        """Where the file is to lie elsewhere. Raises ConfigError, InferError."""
        refuse_unwritable(store)
        if any(is_remote(one) and place(one) == place(store.url) for one in taken):
            raise ConfigError(f"{store.name} is the input or the output; choose another file")
        found = store.find()
        if found is not None and not overwrite:
            size = found.get("size") or 0
            if not (goes_on and size <= _MOST and self._tells_of_this_output(store.read(0, size))):
                raise ConfigError(f"{store.name} exists; use --overwrite to replace it, or choose another file")
        return store

    def _is_of_this_output(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return self._tells_of_this_output(file.read(_MOST))
        except OSError:
            return False

    def _tells_of_this_output(self, data: bytes) -> bool:
        try:
            found = orjson.loads(data)
        except ValueError:
            return False
        return isinstance(found, dict) and found.keys() >= _KEYS and found.get("output", self._output) == self._output


def place_of(output: str) -> str:
    """An output's path, as text."""
    if is_remote(output):
        return place(output)
    return output if output == "-" else spelled(os.path.realpath(output))
