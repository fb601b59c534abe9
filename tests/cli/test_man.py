"""Manual pages: every command's, with its options, in roff that groff takes without a word."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from infer.cli.commands import COMMANDS, infer


def page(*name: str) -> str:
    result = CliRunner().invoke(infer, ["help", "--man", *name])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_of_each_command(name: str) -> None:
    text = page(name)
    assert text.startswith(f'.TH "INFER\\-{name.upper()}" "1"')
    sections = re.findall(r'^\.SH "?([^"\n]*)', text, re.MULTILINE)
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert all(line[:3] in (".TH", ".SH", ".TP", ".PP", ".nf", ".fi", ".B ") for line in text.splitlines() if line.startswith((".", "'")))


def test_what_is_in_them() -> None:
    chat = page("chat")
    assert "\\fB\\-\\-thinking\\-token\\-budget" in chat
    assert ".nf\ninfer chat \\-\\-model smollm2\\-135m" in chat
    assert "quantize_lm_head" not in chat
    whole = page()
    assert all(name in whole for name in COMMANDS)
    assert "sampling" in whole
    assert "models get" in page("models").replace("\\-", "-")
    result = CliRunner().invoke(infer, ["help", "--man", "chatt"])
    assert result.exit_code == 2
    assert "did you mean 'chat'" in result.stderr


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("name", [(), ("generate",), ("models",)])
def test_groff_takes_them(name: tuple[str, ...]) -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=page(*name).encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert b"NAME" in done.stdout
