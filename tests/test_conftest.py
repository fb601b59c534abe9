"""The suite's own choice between a GPU and Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import conftest


def test_a_gpu_that_torch_cannot_use_is_noticed(tmp_path: Path) -> None:
    file = str(tmp_path)
    assert conftest.unused_gpu([], lambda: True) == ""
    assert conftest.unused_gpu([f"{file}/none"], lambda: True) == ""
    assert conftest.unused_gpu([f"{file}/none", file], lambda: False) == file
    assert conftest.unused_gpu([file], lambda: True) is None


@pytest.mark.parametrize(
    ("unused", "interpreted", "told"), [("/dev/x", "1", True), (None, "1", True), (None, "0", False), ("", "1", False)]
)
def test_that_it_was_not_tried_is_said(monkeypatch: pytest.MonkeyPatch, unused: str | None, interpreted: str, told: bool) -> None:
    lines: list[str] = []

    class Terminal:
        def section(self, title: str, **look: bool) -> None:
            lines.append(title)

        def line(self, text: str) -> None:
            lines.append(text)

    monkeypatch.setattr(conftest, "UNUSED", unused)
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    conftest.pytest_terminal_summary(Terminal())  # type: ignore[arg-type]
    assert bool(lines) == told
    assert not unused or unused in lines[1]
