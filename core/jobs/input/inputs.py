"""All inputs of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError
from ...remote.url import is_remote, place
from ..jsonl import spelled
from .converted import Converted
from .decompress import Decompressed, is_compressed
from .forms import form_of
from .remote_file import RemoteFile
from .source import InputFile, Source, same_file


class Inputs:
    """The inputs of a run, in order; compressed ones are decompressed. All are looked at when it is made.

    Args:
        names: files, pipes, URLs, `-` for stdin.
        form: one of FORMATS; "auto": each file by its name.
        state_dir: where a file is copied that lies elsewhere and cannot be read in part.

    Raises ConfigError for what cannot be read, and for what is seen to be of another form.
    """

    def __init__(self, names: Sequence[str], form: str = "auto", *, state_dir: str | None = None) -> None:
        self._names = names
        self._files = [open_input(name, state_dir) for name in names]
        self.statuses = [file.status for file in self._files if file.status is not None]
        self._forms = [form_of(file.name, b"" if is_compressed(file.head) else file.head, asked=form) for file in self._files]
        self.sources = [self._source(*one) for one in zip(names, self._files, self._forms, strict=True)]

    def _source(self, name: str, file: InputFile | RemoteFile, form: str) -> Source:
        plain = Decompressed(file, file.name)
        if form == "jsonl":
            return plain
        if form == "parquet" and (file.size is None or name == "-"):
            raise ConfigError(f"input {file.name!r}: Parquet is read from files, not from pipes")
        return Converted(plain, file.name, form, file.seekable() if isinstance(file, RemoteFile) else name)

    @property
    def size(self) -> int | None:
        """Bytes that will be read from all of them; None where nobody knows (pipes, compressed files)."""
        total = 0
        for file, form in zip(self._files, self._forms, strict=True):
            if file.size is None or is_compressed(file.head) or form != "jsonl":
                return None
            total += file.size
        return total

    @property
    def can_be_read_again(self) -> bool:
        """True if the inputs can be read a second time: no pipes, not stdin."""
        return all(file.size is not None and file.name != "stdin" for file in self._files)

    def has(self, other: os.stat_result | Path) -> bool:
        """True if `other` is one of the files that are read (under whatever name)."""
        return any(same_file(status, other) for status in self.statuses)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each input that is a file, by its path."""
        return {_place(name): file.size for name, file in zip(self._names, self._files, strict=True) if file.size is not None}

    def refuse_shorter(self, before: Mapping[str, int]) -> None:
        """Raises ConfigError for a file that had more bytes `before`: it was cut off, though not in what was answered."""
        for name, size in self.sizes.items():
            if size < before.get(name, 0):
                how = f"{name!r} has {size:,} bytes, and had {before[name]:,} when the run that is resumed began"
                raise ConfigError(f"the input changed: {how}; start again with --overwrite, or go on all the same with --resume-force")

    def check(self) -> None:
        """Raises InferError naming a file of which what was read is there no more."""
        for file in self._files:
            file.check()

    def close(self) -> None:
        for file in self._files:
            file.close()


def open_input(name: str, state_dir: str | None = None) -> InputFile | RemoteFile:
    """One input by its name or URL. Raises ConfigError."""
    return RemoteFile(name, state_dir) if is_remote(name) else InputFile(name)


def _place(name: str) -> str:
    if is_remote(name):
        return place(name)
    return name if name == "-" else spelled(os.path.realpath(name))
