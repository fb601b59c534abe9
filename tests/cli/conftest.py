"""The `infer` program run as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infer.cli.commands import infer
from infer.cli.terminal import messages

from ..core.conftest import labels_folder
from ..forked import Forker

__all__ = ["labels_folder"]  # a fixture


@pytest.fixture(autouse=True)
def text_messages() -> None:
    """Messages are text at the start of each test, whatever `--log-format` a command of an earlier test had."""
    messages.use_json(False)


@pytest.fixture
def call() -> Callable[..., Result]:
    """call("generate", ...): the command in this process, where torch is loaded already."""

    def invoke(*argv: str) -> Result:
        return CliRunner().invoke(infer, [str(a) for a in argv])

    return invoke


@pytest.fixture
def program(infer_program: list[str], forker: Forker) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """program("generate", ..., input=b""): the command in a process of its own."""

    def run(*argv: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"capture_output": True, "timeout": 300, "env": _clean_environment(), **options}
        if "stdout" in options:
            del options["capture_output"]
            options["stderr"] = subprocess.PIPE
        return forker.run([*infer_program, *map(str, argv)], **options)

    return run


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment that `program` and `launch` run in; one thread each, so that several can run side by side."""
    return {**_clean_environment(), "OMP_NUM_THREADS": "1"}


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("INFER_")}


@pytest.fixture
def tiny(tiny_llama: Path) -> list[str]:
    """The options of a run of the tiny model that starts quickly and goes on for a while if it is asked for much."""
    small = ["--max-num-seqs", "8", "--kv-cache-memory-bytes", "16MiB"]
    return ["--model", str(tiny_llama), "--dtype", "float32", "--device", "cpu", *small]


@pytest.fixture
def launch(infer_program: list[str], environment: dict[str, str], forker: Forker) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """launch("generate", ..., env={...}): the command started and left running, stderr a pipe; killed with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: Any, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
        child = forker.start([*infer_program, *map(str, argv)], env={**environment, **(env or {})}, **options)
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """wait_for(condition, child): returns when condition() holds; fails if the child ends first."""

    def wait(condition: Callable[[], bool], child: subprocess.Popen[bytes], *, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if child.poll() is not None and not condition():
                pytest.fail(f"it ended with {child.returncode}: {child.communicate()[1]!r}")
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.005)

    return wait


class Gate:
    """An input that a test keeps open, so that a job that reads it cannot end, however fast it is.

    Args:
        path: a file of lines. It is a FIFO from now on, in which the first `count` of them are.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._whole = path.read_bytes()
        lines = self._whole.splitlines(keepends=True)
        self._rest = b"".join(lines[count:])
        path.unlink()
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)  # waits for no reader
        self._write(b"".join(lines[:count]))

    def open(self) -> None:
        """The other lines come, and the end."""
        self._write(self._rest)
        self.close()

    def lift(self) -> None:
        """All lines are there, in a plain file."""
        self.close()
        self.path.unlink()
        self.path.write_bytes(self._whole)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _write(self, data: bytes) -> None:
        assert len(data) < 1 << 16, "a FIFO holds no more, and nobody may be reading"
        assert os.write(self._fd, data) == len(data)


@pytest.fixture
def hold() -> Iterator[Callable[[Path, int], Gate]]:
    """hold(path, count): a Gate before the lines of a file."""
    gates: list[Gate] = []

    def make(path: Path, count: int) -> Gate:
        gates.append(Gate(path, count))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


def num_committed(out: Path) -> int:
    """The number of rows of an unfinished run that a kill would not cost."""
    journal = out.with_name(out.name + ".partial.journal")
    rows, early = 0, set()
    for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else []:
        if line.endswith(b"}\n"):
            entry = json.loads(line[9:])
            rows = entry.get("rows", rows)
            early.add(entry.get("n", -1))
    return rows + sum(n >= rows for n in early)


@pytest.fixture
def committed() -> Callable[[Path], int]:
    return num_committed


@pytest.fixture
def on_terminal(infer_program: list[str], forker: Forker) -> Callable[..., tuple[int, bytes]]:
    """on_terminal("generate", ..., TERM="xterm"): exit code, and all that stdout and stderr wrote to the one terminal."""

    def run(*argv: Any, **env: str) -> tuple[int, bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INFER_") and name not in ("CI", "NO_COLOR")}
        master, slave = pty.openpty()
        shown = bytearray()

        def watch() -> None:
            while True:
                try:
                    data = os.read(master, 65536)
                except OSError:  # the last writer is gone
                    return
                if not data:
                    return
                shown.extend(data)

        watcher = threading.Thread(target=watch)
        watcher.start()
        command = [*infer_program, *map(str, argv)]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": {**clean, "TERM": "xterm", "COLUMNS": "200", **env}}
        code = forker.run(command, stdout=slave, stderr=slave, timeout=300, **options).returncode
        os.close(slave)
        watcher.join()
        os.close(master)
        return code, bytes(shown)

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
