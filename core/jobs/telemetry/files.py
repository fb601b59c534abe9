"""The files of --metrics and --trace, each locked while its run goes on and never written over another's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import ConfigError, OutputError
from ..jsonl import dumps
from ..output.beside import place_beside
from ..output.files import is_there, write_whole
from ..output.lock import LOCK_SUFFIX, FileLock
from .metrics import BEGINNING


class MetricsFile:
    """A file that always holds the newest metrics, whole: the one before is there until the next is complete.

    Raises ConfigError, LockedError, OutputError.
    """

    def __init__(self, name: str, *, taken: list[str]) -> None:
        self._name = name
        self._path, self._lock = _claimed("--metrics", name, taken)
        if is_there(self._path) and not _begins(self._path, BEGINNING):
            self._lock.release()
            raise ConfigError(f"--metrics {name!r} exists and is no file of metrics of infer; choose another file")

    def write(self, data: bytes) -> None:
        """Raises OutputError."""
        try:
            write_whole(self._path, data)
        except OSError as error:
            raise OutputError(f"--metrics {self._name!r} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        self._lock.release()


class TraceFile:
    """A file of JSON lines, each whole when it is there.

    Args:
        overwrite: what is there is replaced.
        goes_on: lines are added to what is there.

    Raises ConfigError, LockedError, OutputError.
    """

    def __init__(self, name: str, *, taken: list[str], overwrite: bool, goes_on: bool) -> None:
        self._name = name
        path, self._lock = _claimed("--trace", name, taken)
        try:
            if is_there(path) and not (overwrite or (goes_on and (_begins(path, b'{"t":') or not path.stat().st_size))):
                raise ConfigError(f"--trace {name!r} exists; use --overwrite to replace it, or choose another file")
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if goes_on else os.O_TRUNC)
            self._fd = os.open(path, flags, 0o600)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":  # a process was killed in the middle of a line
                os.write(self._fd, b"\n")
        except OSError as error:
            self._lock.release()
            raise OutputError(f"--trace {name!r} cannot be written: {error.strerror}") from None
        except BaseException:
            self._lock.release()
            raise

    def add(self, values: dict[str, Any]) -> None:
        """Raises OutputError."""
        data = dumps(values) + b"\n"
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise OutputError(f"--trace {self._name!r} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._fd)
        self._lock.release()


def _claimed(option: str, name: str, taken: list[str]) -> tuple[Path, FileLock]:
    path = place_beside(option, name, taken=taken)
    return path, FileLock(path.with_name(path.name + LOCK_SUFFIX), f"{option} {name!r}")


def _begins(path: Path, beginning: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(beginning)) == beginning
    except OSError:
        return False
