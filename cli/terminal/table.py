"""Numbers and columns of text, for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Characters of the longest bar of a histogram.
BAR = 40


def counted(number: int, what: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def clock(seconds: float) -> str:
    """`1:05` or `2:01:05`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: str = "") -> str:
    """Lines with the columns aligned, to the right for those numbered in `right`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(cells))

    return "".join(f"{indent}{line(row)}".rstrip() + "\n" for row in rows)


def bars(buckets: Sequence[tuple[int, int, int]]) -> str:
    """A histogram: (smallest, largest, count) of each class, a line each."""
    most = max(count for *_, count in buckets)
    lines = [
        (f"{low:,}" if low == high else f"{low:,}-{high:,}", f"{count:,}", "#" * math.ceil(BAR * count / most))
        for low, high, count in buckets
    ]
    return table(lines, right=frozenset({0, 1}), indent="    ")
