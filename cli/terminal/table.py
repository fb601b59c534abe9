"""Numbers and columns of text, for a person."""

from __future__ import annotations

from collections.abc import Sequence


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
