"""A run that is told to stop: it keeps what is finished, says how to go on, and says why it ended."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
#: What a run may take to end. The promise is 10 s; more is given to a machine that is busy with other things.
GRACE = 60

COUNT = 60


@pytest.fixture
def lines(write_lines: Any) -> Path:
    path: Path = write_lines(*({"prompt": f"Record {i}", "max_tokens": 20 + i % 9, "ignore_eos": True} for i in range(COUNT)))
    return path


@pytest.fixture
def gate(hold: Any, lines: Path) -> Any:
    """Before half of the lines: a job that reads them runs until it is opened."""
    return hold(lines, COUNT // 2)


def resume(said: str, program_path: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Does what the run said to do, to the letter, in a shell that finds the program."""
    (command,) = re.findall(r"go on with: (.*)", said)
    env = {**env, "PATH": f"{Path(program_path).parent}{os.pathsep}{env['PATH']}"}
    return subprocess.run(["bash", "-c", command.strip()], env=env, capture_output=True, timeout=300, check=False)


def journal_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial.journal")


def lines_of(out: Path) -> int:
    partial = out.with_name(out.name + ".partial")
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


@pytest.mark.parametrize("number", STOPS)
def test_stopped_and_resumed(
    launch: Any,
    wait_for: Any,
    environment: dict[str, str],
    infer_program: list[str],
    tiny: list[str],
    lines: Path,
    hold: Any,
    tmp_path: Path,
    number: int,
) -> None:
    """While loading first, then while running; then to the end, and as if nothing had been."""
    out, whole = tmp_path / "out put.jsonl", tmp_path / "whole.jsonl"  # a name that must be quoted
    reference = launch("generate", *tiny, shutil.copy(lines, tmp_path / "copy.jsonl"), whole)
    argv = [*tiny, "--overwrite", lines, out]
    nothing = hold(lines, 0)

    child = launch("generate", *argv)
    wait_for(out.with_name(out.name + ".partial.lock").exists, child)
    time.sleep(random.Random(number).uniform(0, 1))
    child.send_signal(number)
    said = child.communicate(timeout=GRACE)[1].decode()
    assert child.returncode == STOPS[signal.Signals(number)], said
    assert said.count("go on with: ") == 1
    assert "Traceback" not in said
    assert not list(tmp_path.glob("out put.jsonl*"))
    nothing.lift()

    half = hold(lines, COUNT // 2)
    child = launch("generate", *argv)
    wait_for(lambda: lines_of(out) > 0, child)
    child.send_signal(number)
    said = child.communicate(timeout=GRACE)[1].decode()
    assert child.returncode == STOPS[signal.Signals(number)], said
    assert f"stopped by {signal.Signals(number).name} after " in said
    assert "Traceback" not in said
    assert 0 < lines_of(out) < COUNT
    kept = out.with_name(out.name + ".partial").read_bytes()
    half.lift()

    done = resume(said, infer_program[0], environment)
    assert done.returncode == 0, done.stderr.decode()
    assert reference.wait() == 0
    assert out.read_bytes().startswith(kept)
    assert out.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.glob("out put.jsonl.*")] == ["out put.jsonl.job.json"]


#: A program whose command imports a module that takes as long as the test wants, in the main thread or in another one.
IMPORTING = """
import importlib, sys, threading, time
import click
from infer.cli import commands, main
from infer.cli.options import Command
from infer.cli.signals import Signals

@click.command(cls=Command)
@click.option("--job", is_flag=True)
@click.option("--thread", is_flag=True)
def toy(job, thread):
    def load():
        if thread:
            thread_ = threading.Thread(target=importlib.import_module, args=("slow_module",))
            thread_.start()
            thread_.join()
        else:
            import slow_module
    if job:
        with Signals() as signals:
            load()
    else:
        load()
    while True:
        time.sleep(0.001)

commands.COMMANDS["toy"] = ("__main__", "A toy.")
main.run(["toy", *sys.argv[1:]])
"""
#: What an extension module does while it is set up: code that no exception may come out of.
SLOW_MODULE = """
import pathlib, time
pathlib.Path("importing").touch()
try:
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
except BaseException:
    pathlib.Path("broken").touch()
    raise
pathlib.Path("imported").touch()
"""


@pytest.fixture
def importing(wait_for: Any, environment: dict[str, str], tmp_path: Path) -> Any:
    """importing(*argv): a program in the middle of an import, which ends once there is a file `go`."""
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        env = {**environment, "PYTHONPATH": str(tmp_path)}
        child = subprocess.Popen([sys.executable, "-c", IMPORTING, *argv], env=env, cwd=tmp_path, stderr=subprocess.PIPE)
        started.append(child)
        wait_for((tmp_path / "importing").exists, child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


#: Each place with one signal, and the other signals once each.
INTERRUPTED: list[tuple[int, list[str]]] = [
    *((signal.SIGINT, argv) for argv in ([], ["--job"], ["--thread"], ["--job", "--thread"])),
    (signal.SIGTERM, ["--job"]),
    (signal.SIGHUP, []),
]


@pytest.mark.parametrize(("number", "argv"), INTERRUPTED)
def test_an_import_is_not_interrupted(importing: Any, tmp_path: Path, number: int, argv: list[str]) -> None:
    child = importing(*argv)
    child.send_signal(number)
    (tmp_path / "go").touch()
    said = child.communicate(timeout=GRACE)[1]
    assert (child.returncode, said) == (STOPS[signal.Signals(number)], b"interrupted\n")
    assert (tmp_path / "imported").exists()
    assert not (tmp_path / "broken").exists()


SWALLOWING = """
import sys, time
import click
from infer.cli import commands, main
from infer.cli.options import Command
from infer.cli.signals import Signals

class Key:
    def __eq__(self, other):
        print("asked", file=sys.stderr, flush=True)
        time.sleep(600)

    def __hash__(self):
        return 0

class Told:
    def __del__(self):
        print("asked", file=sys.stderr, flush=True)
        time.sleep(600)

@click.command(cls=Command)
def toy():
    with Signals():
        try:
            {body}
        except BaseException:
            pass
        while True:
            time.sleep(0.01)

commands.COMMANDS["toy"] = ("__main__", "A toy.")
main.run(["toy"])
"""


@pytest.mark.parametrize("body", ["Key() == 1", "Told()"])
def test_a_signal_that_nobody_hears_is_raised_again(environment: dict[str, str], body: str) -> None:
    """Callbacks and code that takes any exception for one of its own drop it."""
    command = [sys.executable, "-c", SWALLOWING.replace("{body}", body)]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        assert child.stderr is not None
        assert child.stderr.readline() == b"asked\n"
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=GRACE)[1]
    finally:
        child.kill()
    assert child.returncode == 130
    assert said.endswith(b"interrupted\n")


#: A signal comes while orjson asks for the value of an enum, which it then reads whatever came of that.
ENUM = """
import enum, os, signal, time, types
import orjson
from infer.cli.signals import Interrupted, Signals

class Kind(enum.Enum):
    ONE = 1

    @types.DynamicClassAttribute
    def value(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return "seen"

try:
    with Signals():
        found = orjson.dumps([Kind.ONE])
        time.sleep(60)
except Interrupted:
    print(found.decode())
"""


def test_what_orjson_asks_for_is_not_interrupted(environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", ENUM], env=environment, capture_output=True, timeout=GRACE, check=False)
    assert (done.returncode, done.stdout) == (0, b'["seen"]\n'), done.stderr.decode()


def test_the_second_signal_ends_an_import(importing: Any, wait_for: Any, tmp_path: Path) -> None:
    child = importing()
    os.kill(child.pid, signal.SIGSTOP)  # both are there when it looks
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)
    os.kill(child.pid, signal.SIGCONT)
    assert child.wait(GRACE) in (130, 143)
    assert child.stderr.read() == b""
    assert not (tmp_path / "broken").exists()


def test_the_second_signal_ends_it_at_once(launch: Any, wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    child = launch("generate", *tiny, gate.path, out)
    wait_for(lambda: lines_of(out) > 0, child)
    os.kill(child.pid, signal.SIGSTOP)  # both are there when it looks
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGCONT)
    said = child.communicate(timeout=GRACE)[1].decode()
    assert child.returncode in (130, 143), said
    assert "Traceback" not in said
    gate.lift()
    again = launch("generate", *tiny, "--resume", gate.path, out)
    assert again.wait() == 0
    assert out.read_bytes().count(b"\n") == COUNT


def test_a_status_line_on_demand(launch: Any, wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    child = launch("generate", *tiny, "-q", gate.path, out)
    wait_for(lambda: lines_of(out) > 0, child)
    child.send_signal(signal.SIGUSR1)
    gate.open()
    said = child.communicate(timeout=300)[1].decode()
    assert child.returncode == 0, said
    (line,) = said.splitlines()
    assert re.match(r"[\d,]+ records? \| .* tok/s", line)
    assert out.read_bytes().count(b"\n") == COUNT


def test_a_status_line_while_there_is_no_input(launch: Any, wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path) -> None:
    """Whoever asks why nothing happens is answered while nothing happens."""
    out = tmp_path / "out.jsonl"
    child = launch("generate", *tiny, "-q", gate.path, out)
    wait_for(lambda: lines_of(out) == COUNT // 2, child)
    child.send_signal(signal.SIGUSR1)
    assert child.stderr.readline().startswith(b"30 records | ")
    gate.open()
    assert child.wait() == 0
    assert out.read_bytes().count(b"\n") == COUNT


def test_a_bar_that_waits_is_up_to_date(
    infer_program: list[str], environment: dict[str, str], wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path
) -> None:
    """However fast the records there are were answered: the bar is not drawn by the clock alone."""
    env = {name: value for name, value in environment.items() if name not in ("CI", "NO_COLOR")} | {"TERM": "xterm", "COLUMNS": "200"}
    terminal = Terminal([*infer_program, "generate", *tiny, str(gate.path), str(tmp_path / "out")], env)
    wait_for(lambda: b"30 records | " in terminal.shown, terminal.child)
    gate.open()
    assert terminal.wait() == 0


def test_a_status_line_asked_for_while_loading(launch: Any, wait_for: Any, tiny: list[str], write_lines: Any, tmp_path: Path) -> None:
    child = launch("generate", *tiny, "-q", write_lines({"prompt": "a"}), tmp_path / "out.jsonl")
    wait_for((tmp_path / "out.jsonl.partial.lock").exists, child)
    child.send_signal(signal.SIGUSR1)
    said = child.communicate(timeout=300)[1].decode()
    assert child.returncode == 0
    assert said.count(" records ") == said.count("\n") == 1


def test_what_nohup_ignores_stays_ignored(
    infer_program: list[str], environment: dict[str, str], wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ignoring = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash", *infer_program]
    child = subprocess.Popen([*ignoring, "generate", *tiny, str(gate.path), str(out)], env=environment, stderr=subprocess.PIPE)
    wait_for((tmp_path / "out.jsonl.partial.lock").exists, child)
    child.send_signal(signal.SIGHUP)
    wait_for(lambda: lines_of(out) > 0, child)
    child.send_signal(signal.SIGHUP)
    gate.open()
    said = child.communicate(timeout=300)[1].decode()
    assert child.returncode == 0, said
    assert out.read_bytes().count(b"\n") == COUNT


def test_to_a_pipe_nothing_can_be_resumed(launch: Any, tiny: list[str], gate: Any) -> None:
    child = launch("generate", *tiny, gate.path, "-", stdout=subprocess.PIPE)
    assert json.loads(child.stdout.readline())["index"] == 0
    child.terminate()
    rest, said = child.communicate(timeout=GRACE)
    assert child.returncode == 143
    assert b"go on with" not in said
    assert rest == b"" or rest.endswith(b"\n")


def test_a_broken_pipe(launch: Any, tiny: list[str], gate: Any) -> None:
    child = launch("generate", *tiny, gate.path, "-", stdout=subprocess.PIPE)
    assert json.loads(child.stdout.readline())["index"] == 0
    child.stdout.close()
    gate.open()
    said = child.stderr.read().decode()
    assert child.wait() == -signal.SIGPIPE  # a shell's 141
    assert "Error" not in said
    assert "Traceback" not in said


def shown_on_a_terminal(data: bytes, *, width: int = 150) -> list[str]:
    """The content of a screen after these bytes: enough of a terminal for a progress bar."""
    screen: list[list[str]] = [[]]
    row = column = 0
    for code, final, plain in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", data.decode(), flags=re.DOTALL):
        if final == "A":
            row = max(0, row - int(code or 1))
        elif final == "K" and code == "2":
            screen[row] = []
        elif final:
            assert final in "mhlK", (code, final)  # colours, the cursor
        elif plain == "\r":
            column = 0
        elif plain == "\n":
            row += 1
            if row == len(screen):
                screen.append([])
        else:
            assert plain.isprintable(), repr(plain)
            line = screen[row]
            line.extend(" " * (column + 1 - len(line)))
            line[column] = plain
            column += 1
            assert column <= width
    return ["".join(line).rstrip() for line in screen]


#: What typing Ctrl-C does is for the processes whose terminal it is.
TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A terminal of its own session with a program on it."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.shown = bytearray()
        self.child = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def wait(self) -> int:
        code = self.child.wait(GRACE)
        self._reader.join(GRACE)
        os.close(self.master)
        return code

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # nobody is on the other side any more
                return
            if not data:
                return
            self.shown.extend(data)


@pytest.mark.parametrize("when", ["loading", "running"])
def test_ctrl_c_typed_into_a_terminal(
    infer_program: list[str], environment: dict[str, str], wait_for: Any, tiny: list[str], gate: Any, tmp_path: Path, when: str
) -> None:
    out = tmp_path / "out.jsonl"
    env = {**environment, "TERM": "xterm", "COLUMNS": "1000", "LINES": "24"}
    for name in ("CI", "NO_COLOR"):
        env.pop(name, None)
    terminal = Terminal([*infer_program, "generate", *tiny, str(gate.path), str(out)], env)
    try:
        if when == "running":
            wait_for(lambda: b"tok/s" in terminal.shown and lines_of(out) > 0, terminal.child)
        else:
            wait_for(lambda: re.search(rb"loading [^\n]*\n", terminal.shown), terminal.child)  # or the terminal's ^C comes within it
        terminal.type(b"\x03")
        code = terminal.wait()
    finally:
        if terminal.child.poll() is None:
            terminal.child.kill()
    data = bytes(terminal.shown)
    assert code == 130, data
    if when == "running":
        assert b"\x1b[?25l" in data, "there was a bar"
        assert data.rindex(b"\x1b[?25h") > data.rindex(b"\x1b[?25l"), "the cursor is hidden"
        assert data.rindex(b"\x1b[?25h") > data.rindex(b"tok/s")
    screen = [line for line in shown_on_a_terminal(data, width=1000) if line]
    said = [line for line in screen if not line.startswith("loading ") and line != "^C"]
    assert [line.removeprefix("^C").split(" after ")[0] for line in said] == ["stopped by SIGINT", "interrupted"], screen
    assert shlex.split(said[0].partition("go on with: ")[2])[-1] == "--resume"
    gate.lift()
    done = resume(said[0], infer_program[0], environment)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().count(b"\n") == COUNT
