"""All inputs of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .decompress import Decompressed, is_compressed
from .source import InputFile, Source, same_file


class Inputs:
    """The inputs of a run, in order; compressed ones are decompressed. All are looked at when it is made.

    Args:
        names: files, pipes, `-` for stdin. Raises ConfigError for what cannot be read.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._files = [InputFile(name) for name in names]
        self.statuses = [file.status for file in self._files]
        self.sources: list[Source] = [Decompressed(file, file.name) for file in self._files]

    @property
    def size(self) -> int | None:
        """Bytes that will be read from all of them; None where nobody knows (pipes, compressed files)."""
        total = 0
        for file in self._files:
            if file.size is None or is_compressed(file.head):
                return None
            total += file.size
        return total

    def has(self, other: os.stat_result | Path) -> bool:
        """Whether `other` is one of the files that are read (under whatever name)."""
        return any(same_file(status, other) for status in self.statuses)

    def close(self) -> None:
        for file in self._files:
            file.close()
