"""The columns of a table: found in all rows, before the first one is written.

The order is: index and id, the fields of `extra` as they first appear, the answer, its usage, errors. Some are there in any case, so
that a run in which all records failed has the columns of others. `extra` has MAX_EXTRA columns at most; what further fields hold is
together in one, as JSON. A field whose name is taken gets another: `extra_` before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...jsonl import exact
from .cells import Cells, cells_of
from .kinds import Type, kind_of, type_of

#: Columns that fields of `extra` have at most. With more, a table is mostly empty cells.
MAX_EXTRA = 1000
#: The column of the fields beyond that.
OTHERS = "extra"

_WRITING: dict[str, Type] = {"prompt_tokens": "int", "completion_tokens": "int", "total_tokens": "int"}
_POOLING: dict[str, Type] = {"prompt_tokens": "int", "total_tokens": "int"}
#: Command -> the columns of an answer and of its usage that are there in any case.
_ANSWER: dict[str, tuple[dict[str, Type], dict[str, Type]]] = {
    "generate": ({"text": "text", "finish_reason": "text"}, _WRITING),
    "chat": ({"content": "text", "finish_reason": "text"}, _WRITING),
    "beam": ({"text": "text", "score": "float", "finish_reason": "text"}, _WRITING),
    "embed": ({"embedding": "numbers"}, _POOLING),
    "score": ({}, _POOLING),
    "classify": ({"label": "text", "prob": "float"}, _POOLING),
}
_ERROR: dict[str, Type] = {"error_code": "text", "error_message": "text"}


@dataclass(frozen=True)
class Column:
    """
    Args:
        name: in the table.
        part: of `Cells` that has its cells.
        key: their name there; None: all fields of `extra` that have no column.
        type: see `kinds.py`.
    """

    name: str
    part: int
    key: str | None
    type: Type


@dataclass(frozen=True)
class Columns:
    """All columns, in order."""

    columns: tuple[Column, ...]

    @cached_property
    def _own(self) -> frozenset[str | None]:
        """The fields of `extra` that have a column."""
        return frozenset(one.key for one in self.columns if one.part == _EXTRA)

    def values(self, cells: Cells) -> list[Any]:
        """The value of each column in one row; None where it has none."""
        return [self._rest(cells.extra) if one.key is None else cells[one.part].get(one.key) for one in self.columns]

    def _rest(self, extra: Any) -> dict[str, Any] | None:
        return {name: value for name, value in extra.items() if name not in self._own} or None


_EXTRA = Cells._fields.index("extra")
#: Parts of which a column that no row has a value for is left out.
_IF_ANY = frozenset({Cells._fields.index("answer"), Cells._fields.index("usage")})


def columns_of(rows: Iterable[Cells], command: str) -> Columns:
    """The columns of rows. `command`: whose answers they are."""
    answer, usage = _ANSWER.get(command, ({}, {}))
    always: list[dict[str, Type]] = [{"index": "int"}, {}, answer, usage, _ERROR]
    found: list[dict[str, int]] = [dict.fromkeys(part, 0) for part in always]
    more = False
    for cells in rows:
        for part, (known, values) in enumerate(zip(found, cells, strict=True)):
            for name, value in values.items():
                if name in known:
                    known[name] |= kind_of(value)
                elif part != _EXTRA or len(known) < MAX_EXTRA:
                    known[name] = kind_of(value)
                else:
                    more = True
    taken = {name for part, known in enumerate(found) if part != _EXTRA for name in known} | ({OTHERS} if more else set())
    columns: list[Column] = []
    for part, known in enumerate(found):
        for key, kinds in known.items():
            if not kinds and key not in always[part] and part in _IF_ANY:
                continue
            name = _free(key, taken) if part == _EXTRA else key
            columns.append(Column(name, part, key, type_of(kinds, always[part].get(key, "text"))))
        if part == _EXTRA and more:
            columns.append(Column(OTHERS, part, None, "text"))
    return Columns(tuple(columns))


def rows_of(lines: Iterable[bytes]) -> Iterator[Cells]:
    """The cells of each line."""
    return (cells_of(exact(line)) for line in lines)


def _free(name: str, taken: set[str]) -> str:
    """A name for a field of `extra` that no other column has; it is taken from now on."""
    tried = free = name if name and name not in taken else f"extra_{name}"
    number = 2
    while free in taken:
        free, number = f"{tried}_{number}", number + 1
    taken.add(free)
    return free
