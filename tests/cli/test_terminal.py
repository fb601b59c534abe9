"""Nothing that comes from data is obeyed by a terminal: ids, prompts, columns, error messages, template errors, file names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

#: Window title, colours, clipboard (OSC 52), C1 forms of CSI and OSC, DEL, backspace, carriage return, bell.
HOSTILE = "\x1b]0;owned\x07\x1b[31m\x1b]52;c;ZXZpbA==\x1b\\\x9b31m\x9d0;owned\x9c\x7f\b\r\x07 end"

#: What rich draws the bar with: colours, cursor, erasing.
_BAR = re.compile(rb"\x1b\[[0-9;?]*[mhlAKGJ]")


def obeyed(shown: bytes) -> list[str]:
    """Control characters that reached the terminal, those of line ends and tabs left out."""
    text = shown.replace(b"\r\n", b"\n").decode("utf-8", "surrogateescape")
    return sorted({c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"})


def _without_bar(shown: bytes) -> bytes:
    return _BAR.sub(b"", shown).replace(b"\r", b"")


def hostile_lines() -> list[Any]:
    return [
        {"prompt": "a", "id": HOSTILE, "max_tokens": 2, HOSTILE: HOSTILE, "big": 2**70},
        {"prompt": HOSTILE, "max_tokens": 3},
        {"prompt": "a", "temperature": HOSTILE},
        {"prompt": "a", "max_token": 1, "temprature\x9b31m": 2},
        {"prompt": "a", "stop": [HOSTILE]},
        b'{"\x1b]0;owned\x07": \x9b}',
        "\x9b31m not json \x7f".encode(),
        b"\x9b\x1b[31m",
        {"messages": HOSTILE},
    ]


@pytest.mark.parametrize("form", [[], ["--log-format", "json"]])
def test_generate(on_terminal: Any, tiny_llama: Path, write_lines: Any, form: list[str]) -> None:
    code, shown = on_terminal("generate", "-v", "-m", tiny_llama, *form, write_lines(*hostile_lines()), "-")
    assert code == 3
    assert obeyed(shown) == []
    rows = [json.loads(line) for line in shown.splitlines() if line.startswith(b'{"index"')]
    assert [row["index"] for row in rows] == list(range(9))
    assert rows[0]["id"] == HOSTILE
    assert rows[0]["extra"] == {HOSTILE: HOSTILE, "big": 2**70}
    assert b"first on line" in shown


def test_generate_with_a_bar(on_terminal: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    out = tmp_path / "o\x9b31m\x1bt"
    code, shown = on_terminal("generate", "-m", tiny_llama, write_lines(*hostile_lines() * 50), out)
    assert code == 3
    assert obeyed(_without_bar(shown)) == []
    assert out.exists()


def test_chat(on_terminal: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ raise_exception(messages[0].content) }}")
    lines = [
        {"messages": [{"role": "user", "content": HOSTILE}]},
        {"messages": [{"role": HOSTILE, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": HOSTILE}]}]},
    ]
    code, shown = on_terminal("chat", "-m", tiny_llama, "--chat-template", template, write_lines(*lines), "-")
    assert code == 3
    assert obeyed(shown) == []
    assert b"owned" in shown
    code, shown = on_terminal("chat", "-m", tiny_llama, "--max-tokens", "2", write_lines(*lines), "-")
    assert obeyed(shown) == []


def test_templates_of_records(on_terminal: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ q.upper().x.y }}")
    path = write_lines({"q": HOSTILE})
    code, shown = on_terminal("generate", "-m", tiny_llama, "--template", template, path, "-")
    assert (code, obeyed(shown)) == (3, [])
    for more, expected in (([], 2), (["--keep-going"], 3)):
        code, shown = on_terminal("generate", "-m", tiny_llama, *more, "--prompt-field", HOSTILE.replace("\r", ""), path, "-")
        assert (code, obeyed(shown)) == (expected, [])


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_check(on_terminal: Any, tiny_llama: Path, write_lines: Any, form: list[str]) -> None:
    code, shown = on_terminal("check", "-m", tiny_llama, *form, write_lines(*hostile_lines()))
    assert code == 3
    assert obeyed(_without_bar(shown)) == []
    assert b"invalid_json" in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "-m", HOSTILE, "/dev/null", "/dev/null"],
        ["generate", "-m", "x", HOSTILE, "-"],
        ["generate", "-m", "x", "--dtype", HOSTILE, "/dev/null"],
        ["generate", "--" + HOSTILE],
        [HOSTILE],
        ["merge", "/dev/null", HOSTILE],
        ["models", "get", HOSTILE],
        ["config", "show", "--config", HOSTILE],
        ["config", "show", "--given", "-m", HOSTILE],
    ],
)
def test_command_lines(on_terminal: Any, argv: list[str]) -> None:
    _, shown = on_terminal(*argv)
    assert obeyed(shown) == []
    assert b"owned" in shown


def test_merged_rows(on_terminal: Any, call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    path = write_lines(*hostile_lines())
    assert call("generate", "-m", tiny_llama, "--shard", "0/1", path, tmp_path / "part").exit_code == 3
    code, shown = on_terminal("merge", "-", tmp_path / "part")
    assert code == 3
    assert obeyed(shown) == []
    assert sum(line.startswith(b'{"index"') for line in shown.splitlines()) == 9
