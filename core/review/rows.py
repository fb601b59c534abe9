"""The rows of an output, read in order and one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..jobs.input.lines import LineReader
from ..jobs.input.source import Source
from .answer import Answer


@dataclass(frozen=True, slots=True)
class Row:
    """A line, with what it says."""

    index: int
    line: bytes
    answer: Answer


class Rows:
    """The rows of an output, in order."""

    def __init__(self, name: str, source: Source) -> None:
        self._name, self._lines = "stdin" if name == "-" else name, LineReader(source)
        self._number, self._place, self._last = 0, -1, -1

    def next(self, like: Row | None = None) -> Row | None:
        """The next one; None at the end. A line that is `like` another is not read twice. Raises ConfigError."""
        while (line := self._lines.next()) is not None:
            self._number += 1
            if line.blank:
                continue
            self._place += 1
            answer = like.answer if like is not None and line.data == like.line else self._read(line.data)
            index = self._place if answer.index is None else answer.index
            if index <= self._last:
                raise ConfigError(
                    f"line {self._number} of {self._name!r} has index {index:,} after {self._last:,}: the rows of an output are in order; "
                    "put shards together with infer merge, and sort what was shuffled"
                )
            self._last = index
            return Row(index, line.data or b"", answer)
        return None

    def _read(self, line: bytes | None) -> Answer:
        try:
            if line is None:
                raise ValueError("it is too long")
            return Answer.of(line)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = error if isinstance(error, ValueError) else "its fields are not those of a row"
            raise ConfigError(f"line {self._number} of {self._name!r} is no row of an output of infer: {why}") from None
