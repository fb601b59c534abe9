"""The `infer` program run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infer.cli.main import infer


@pytest.fixture
def call() -> Callable[..., Result]:
    """call("generate", ...): the command in this process, where torch is loaded already."""

    def invoke(*argv: str) -> Result:
        return CliRunner().invoke(infer, [str(a) for a in argv])

    return invoke


@pytest.fixture
def program(infer_program: list[str]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """program("generate", ..., input=b""): the command in a process of its own."""

    def run(*argv: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INFER_")}
        options = {"capture_output": True, "timeout": 300, "env": clean, **options}
        if "stdout" in options:
            del options["capture_output"]
            options["stderr"] = subprocess.PIPE
        return subprocess.run([*infer_program, *map(str, argv)], check=False, **options)

    return run


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """write_lines({...}, b"raw", ..., name="in.jsonl"): an input file."""

    def write(*lines: dict[str, Any] | bytes, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
        return path

    return write


@pytest.fixture
def read_rows() -> Callable[[Path | bytes], list[dict[str, Any]]]:
    def read(data: Path | bytes) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data if isinstance(data, bytes) else data.read_bytes()).splitlines()]

    return read
