"""Tables for the terminal."""

from __future__ import annotations

from infer.cli.terminal.table import clock, counted, table


def test_columns() -> None:
    rows = [("a", "1", "x"), ("bbb", "1,000", "")]
    assert table(rows, right=frozenset({1}), indent="  ") == "  a        1  x\n  bbb  1,000\n"
    assert table(rows) == "a    1      x\nbbb  1,000\n"


def test_numbers() -> None:
    assert [counted(n, "record") for n in (0, 1, 2000)] == ["0 records", "1 record", "2,000 records"]
    assert [clock(s) for s in (5, 65, 7265.9)] == ["0:05", "1:05", "2:01:05"]
