"""Runs of several processes: a rank that dies or hangs ends the run in good order, an engine is replaced, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from infer.cli.commands import infer

ARGS = ["--device", "cpu", "--dtype", "float32", "--temperature", "0", "--max-tokens", "60", "--max-num-seqs", "3", "--ignore-eos"]


@pytest.fixture
def lines(write_lines: Callable[..., Path]) -> Path:
    return write_lines(*({"prompt": "abcdefg"[i % 5 :], "id": i} for i in range(60)))


@pytest.fixture(scope="module")
def alone(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str], Path], bytes]:
    """alone(options, lines): what one process answers, asked once."""
    made: list[bytes] = []

    def ask(options: list[str], lines: Path) -> bytes:
        if not made:
            out = tmp_path_factory.mktemp("alone") / "out.jsonl"
            assert CliRunner().invoke(infer, ["generate", "-q", *options, *ARGS, str(lines), str(out)]).exit_code == 0
            made.append(out.read_bytes())
        return made[0]

    return ask


@pytest.fixture
def gate(hold: Any, lines: Path) -> Any:
    """Before half of the lines: a job runs until it is opened."""
    return hold(lines, 30)


@pytest.fixture
def job(tiny: list[str], launch: Any, lines: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """job(out, *flags): a running job of 60 records."""

    def start(out: Path, *flags: str) -> subprocess.Popen[bytes]:
        child: subprocess.Popen[bytes] = launch("generate", *tiny, *ARGS, *flags, "--resume", lines, out)
        return child

    return start


def helpers_of(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [p for p in psutil.Process(child.pid).children(recursive=True) if "infer.core.parallel.worker" in " ".join(p.cmdline())]


def begun(out: Path, rows: int = 3) -> bool:
    partial = out.with_name(out.name + ".partial")
    return partial.exists() and partial.read_bytes().count(b"\n") >= rows


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=120)[1]


def ended(child: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The promise is 10 s; more is given to a machine that is busy with other things."""
    _, said = child.communicate(timeout=120)
    return child.returncode, said.decode()


KINDS = {"ranks": ["--tensor-parallel-size", "2"], "engines": ["--data-parallel-size", "2"]}
#: The same where the first loss ends the run.
ENDING = {**KINDS, "engines": [*KINDS["engines"], "--max-restarts", "0"], "stages": ["--pipeline-parallel-size", "2"]}


@pytest.mark.parametrize("kind", list(ENDING))
def test_a_killed_one_ends_the_run_and_resume_gives_the_same_bytes(
    job: Callable[..., subprocess.Popen[bytes]], wait_for: Any, hold: Any, tiny: Any, alone: Any, lines: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out.jsonl"
    if kind == "ranks":
        assert job(tmp_path / "unbroken", *ENDING[kind]).wait(120) == 0
        unbroken = (tmp_path / "unbroken").read_bytes()
    else:  # which answer to the bit as one process does
        unbroken = alone(tiny, lines)
    gate = hold(lines, 30)
    child = job(out, *ENDING[kind])
    wait_for(lambda: begun(out, 30), child)
    helpers = helpers_of(child)
    assert len(helpers) == (2 if kind == "engines" else 1)
    helpers[-1].send_signal(signal.SIGKILL)
    code, said = ended(child)  # though the input is silent
    assert code == 1
    assert "was killed by SIGKILL" in said
    assert "--resume" in said
    assert gone(helpers)
    gate.lift()
    assert job(out, *ENDING[kind]).wait(120) == 0
    assert out.read_bytes() == unbroken


@pytest.mark.parametrize("way", ["killed", "stopped"])
def test_an_engine_that_is_lost_is_replaced_and_the_bytes_are_the_same(
    job: Callable[..., subprocess.Popen[bytes]], wait_for: Any, hold: Any, tiny: Any, alone: Any, lines: Path, tmp_path: Path, way: str
) -> None:
    out, expected = tmp_path / "out.jsonl", alone(tiny, lines)
    gate = hold(lines, 30)
    child = job(out, *KINDS["engines"], *(["--stall-timeout", "10"] if way == "stopped" else []))
    wait_for(lambda: begun(out, 30 if way == "killed" else 3), child)
    lost, before = helpers_of(child)[-1], psutil.Process(child.pid).children()
    lost.send_signal(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
    if way == "killed":  # which is seen before there is anything to do for it
        wait_for(lambda: not set(psutil.Process(child.pid).children()) <= set(before), child)
    gate.open()
    code, said = ended(child)
    assert code == 0, said
    assert f"engine 1 (process {lost.pid}) " + ("was killed by SIGKILL" if way == "killed" else "does not answer") in said
    assert "another engine is started in its place" in said
    assert "--resume" not in said
    assert gone([lost])
    assert out.read_bytes() == expected


@pytest.mark.parametrize("kind", list(KINDS))
def test_without_stderr(
    tiny: list[str], infer_program: list[str], environment: dict[str, str], write_lines: Callable[..., Path], kind: str
) -> None:
    lines = write_lines({"prompt": "abc"}, {"prompt": "d"})
    command = [*infer_program, "generate", *tiny, *ARGS, *KINDS[kind], str(lines), "-"]
    run = ["bash", "-c", '"$0" "$@" 2>&-', *command]
    result = subprocess.run(run, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120, check=False)
    assert result.returncode == 0
    assert [line[:11] for line in result.stdout.splitlines()] == [b'{"index":0,', b'{"index":1,']


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_stopped_one_is_noticed(
    job: Callable[..., subprocess.Popen[bytes]], wait_for: Callable[..., None], gate: Any, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out.jsonl"
    child = job(out, *ENDING[kind], "--stall-timeout", "3")
    wait_for(lambda: begun(out), child)
    helpers = helpers_of(child)
    helpers[-1].send_signal(signal.SIGSTOP)
    gate.open()
    code, said = ended(child)
    assert code == 1
    assert f"(process {helpers[-1].pid}) does not answer" in said
    assert gone(helpers)


@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("ranks", signal.SIGKILL, -9),
        pytest.param("engines", signal.SIGKILL, -9, marks=pytest.mark.grid),  # they watch their parent as ranks do
        ("ranks", signal.SIGINT, 130),
        ("engines", signal.SIGTERM, 143),
    ],
)
def test_they_end_with_the_parent(
    job: Callable[..., subprocess.Popen[bytes]], wait_for: Callable[..., None], gate: Any, tmp_path: Path, kind: str, number: int, code: int
) -> None:
    out = tmp_path / "out.jsonl"
    child = job(out, *KINDS[kind])
    wait_for(lambda: begun(out), child)
    helpers = helpers_of(child)
    if number == signal.SIGINT:  # as a terminal does: to the whole group, so helpers must not mind
        for helper in helpers:
            helper.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert all(helper.is_running() for helper in helpers)
    os.kill(child.pid, number)
    assert ended(child)[0] == code
    assert gone(helpers)
