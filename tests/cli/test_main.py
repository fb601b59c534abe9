"""The program as a process: help, version, streams, exit codes. The broken ones are toys run through the same run()."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infer.cli.commands import COMMANDS, infer
from infer.cli.terminal import streams
from infer.core.settings.threads import SPIN_COUNT

#: A program whose command `toy` does what the test says, in the group of the real one.
TOY = """
import sys
import click
from infer.cli import commands, main
from infer.cli.terminal import streams
from infer.cli.options import Command
from infer.core.errors import ConfigError, OutputError

@click.command(cls=Command)
@click.option("-v", "--verbose", count=True, callback=lambda ctx, param, n: ctx.find_root().ensure_object(dict).update(verbose=n))
def toy(verbose):
    {body}

commands.COMMANDS["toy"] = ("__main__", "A toy.")
main.run(["toy", *sys.argv[1:]])
"""


def run(*argv: str, env: dict[str, str] | None = None, **kwargs: object) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INFER_")}
    options = {"capture_output": True, "text": True, "timeout": 120, **kwargs}
    return subprocess.run([sys.executable, *argv], env={**clean, **(env or {})}, check=False, **options)  # type: ignore[call-overload, no-any-return]


def program(*argv: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return run("-c", "from infer.cli.main import run; run()", *argv, **kwargs)  # type: ignore[arg-type]


def toy(body: str, *argv: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return run("-c", TOY.replace("{body}", body.replace("\n", "\n    ")), *argv, **kwargs)  # type: ignore[arg-type]


class TestHelp:
    def test_lists_every_command_on_stdout(self) -> None:
        result = program("--help")
        assert (result.returncode, result.stderr) == (0, "")
        for name, (_, text) in COMMANDS.items():
            assert f"  {name} " in result.stdout
            assert text in " ".join(result.stdout.split())

    def test_loads_nothing_heavy(self) -> None:
        heavy = ["torch", "transformers", "numpy", "yaml", "tokenizers", "rich", *(f"infer.cli.{name}" for name in COMMANDS)]
        code = f"""
import sys
from infer.cli.main import run
try:
    run(sys.argv[1:])
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
        assert run("-c", code, "--help").stderr.strip() == "[]"
        assert run("-c", code, "--version").stderr.strip() == "[]"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_each_command_loads_no_torch_and_has_an_example(self, name: str) -> None:
        code = f"""
import sys
from infer.cli.main import run
try:
    run(["{name}", "--help"])
finally:
    print([m for m in ("torch", "transformers") if m in sys.modules], file=sys.stderr)
"""
        result = run("-c", code)
        assert result.stderr.strip() == "[]"
        assert f"  infer {name} " in result.stdout

    def test_the_table_names_commands(self) -> None:
        from click import Command, Context

        for name in COMMANDS:
            assert isinstance(infer.get_command(Context(infer), name), Command)

    def test_version(self) -> None:
        lines = program("--version").stdout.splitlines()
        assert lines[0].startswith("infer ")
        assert [line.split()[0] for line in lines[1:4]] == ["python", "torch", "transformers"]

    def test_wrong_usage(self) -> None:
        result = program("genrate")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.endswith("Error: No such command 'genrate'; did you mean 'generate'?\n")
        assert program().returncode == 2

    def test_completion(self) -> None:
        result = program(env={"_INFER_COMPLETE": "bash_complete", "COMP_WORDS": "infer gen", "COMP_CWORD": "1"})
        assert result.stdout.strip() == "plain,generate"


class TestCurrentFolder:
    """Files in the folder that a command is called in are not imported."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        for name in ("click", "difflib", "torch", "numpy"):
            (tmp_path / f"{name}.py").write_text("print('imported'); raise SystemExit(66)")
        return tmp_path

    @pytest.mark.parametrize("path", [None, ":", "."])
    def test_by_the_program(self, infer_program: list[str], here: Path, path: str | None) -> None:
        env = {**os.environ, **({} if path is None else {"PYTHONPATH": path})}
        result = subprocess.run([*infer_program, "doctor", "--json"], cwd=here, env=env, capture_output=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        assert b"imported" not in result.stdout

    def test_by_the_module(self, here: Path) -> None:
        result = run("-m", "infer.cli", "doctor", "--json", cwd=here)
        assert result.returncode == 0, result.stderr
        assert "imported" not in result.stdout


class TestExit:
    @pytest.mark.parametrize(
        ("body", "code", "message"),
        [
            ("pass", 0, ""),
            ("return 3", 3, ""),
            ("raise ConfigError('a=1 is wrong')", 2, "Error: a=1 is wrong\n"),
            ("raise OutputError('disk full')", 74, "Error: disk full\n"),
            ("raise click.UsageError('no')", 2, "Usage: infer toy [OPTIONS]\nTry 'infer toy --help' for help.\n\nError: no\n"),
            ("raise KeyboardInterrupt", 130, "interrupted\n"),
            ("1 / 0", 1, "Error: internal error: ZeroDivisionError: division by zero (INFER_DEBUG=1 shows where)\n"),
        ],
    )
    def test_code_and_message(self, body: str, code: int, message: str) -> None:
        result = toy(body)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", message)

    def test_lack_of_memory(self) -> None:
        result = toy("raise MemoryError")
        assert result.returncode == 1
        assert result.stderr.startswith("Error: out of memory; ask for less")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(("argv", "env"), [(["-v"], {}), ([], {"INFER_DEBUG": "1"})])
    def test_a_traceback_when_asked_for(self, argv: list[str], env: dict[str, str]) -> None:
        result = toy("1 / 0", *argv, env=env)
        assert result.returncode == 1
        assert result.stderr.startswith("Traceback (most recent call last):")
        assert "Error: internal error: ZeroDivisionError" in result.stderr.splitlines()[-1]


class TestStreams:
    def test_only_data_reaches_stdout(self) -> None:
        body = "print('python')\nimport os\nos.write(1, b'native\\n')\nos.system('echo child')\nstreams.stdout().write(b'data\\n')"
        result = toy(body)
        assert result.returncode == 0
        assert result.stdout == "data\n"
        assert sorted(result.stderr.split()) == ["child", "native", "python"]

    @pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs SIGPIPE")
    def test_a_reader_that_leaves_is_no_error(self) -> None:
        body = "while True:\n    streams.stdout().write(b'x' * 99 + b'\\n')"
        script = TOY.replace("{body}", body.replace("\n", "\n    "))
        command = f"{sys.executable} -c '$0' | head -1; echo ${{PIPESTATUS[0]}}"
        result = subprocess.run(
            ["bash", "-c", command.replace("'$0'", '"$0"'), script], capture_output=True, text=True, timeout=120, check=False
        )
        assert result.stdout == "x" * 99 + "\n141\n"
        assert result.stderr == ""

    def test_another_broken_pipe_is_an_error(self) -> None:
        body = "import os\nread, write = os.pipe()\nos.close(read)\nos.write(write, b'x')"
        result = toy(body)
        assert result.returncode == 1
        assert result.stderr == f"Error: {os.strerror(errno.EPIPE)}\n"

    @pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
    def test_no_file_gets_the_number_of_a_closed_stream(self, closed: str) -> None:
        """So nothing that libraries and children write to it lands in the data, and children can be given it."""
        native = "import os, subprocess\nos.write(1, b'native1')\nos.write(2, b'native2')\nprint('print', file=sys.stderr)\n"
        child = "subprocess.run(['sh', '-c', 'echo child; echo child >&2'], stdout=2, check=True)\n"
        script = TOY.replace("{body}", (native + child + "streams.stdout().write(b'data')").replace("\n", "\n    "))
        command = ["bash", "-c", f'{sys.executable} -c "$0" {closed}', script]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        without_stdout, without_stderr = "1>" in closed, "2>" in closed
        assert (result.returncode, result.stdout) == ((74, "") if without_stdout else (0, "data"))
        assert ("native2" in result.stderr) == (not without_stderr)

    @pytest.mark.parametrize(
        ("closed", "argv", "code", "said"),
        [
            ("0<&-", ["-", "{out}"], 2, "standard input is closed; give the name of a file to read"),
            ("0<&-", ["/dev/stdin", "{out}"], 2, "/dev/stdin is closed; give the name of a file to read"),
            ("1>&-", ["{in}", "-"], 74, "standard output is closed; give a file name for OUT"),
            ("1>&-", ["{in}", "/dev/fd/1"], 74, "/dev/fd/1 is closed; give a file name for OUT"),
            ("2>&-", ["{in}", "/dev/stderr"], 74, ""),
        ],
    )
    def test_a_closed_stream_is_no_empty_file(self, tmp_path: Path, closed: str, argv: list[str], code: int, said: str) -> None:
        (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
        argv = [a.format(**{"in": tmp_path / "in.jsonl", "out": tmp_path / "out.jsonl"}) for a in argv]
        start = [sys.executable, "-c", "from infer.cli.main import run; run()", "generate", "--model", "nowhere", *argv]
        command = ["bash", "-c", f'"$0" "$@" {closed}', *start]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, result.stdout) == (code, "")
        assert said in result.stderr
        assert not (tmp_path / "out.jsonl").exists()

    @pytest.mark.parametrize("argv", ["--version", "--help", "generate --help"])
    def test_what_cannot_be_shown_is_no_success(self, argv: str) -> None:
        command = f"{sys.executable} -c 'from infer.cli.main import run; run()' {argv} >&-"
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
        assert (result.returncode, result.stderr) == (74, "Error: standard output is closed\n")

    def test_started_without_stdout(self) -> None:
        script = TOY.replace("{body}", "print('noise')\n    streams.stdout().write(b'data')")
        result = subprocess.run(
            ["bash", "-c", f'{sys.executable} -c "$0" >&-', script], capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 74
        assert result.stderr == "noise\nError: standard output is closed; give a file name for OUT\n"

    @pytest.mark.parametrize(
        ("tty", "env", "interactive", "colored"),
        [
            (True, {}, True, True),
            (True, {"NO_COLOR": "1"}, True, False),
            (True, {"TERM": "dumb"}, False, False),
            (True, {"CI": "true"}, False, False),
            (False, {}, False, False),
        ],
    )
    def test_what_stderr_can_show(
        self, monkeypatch: pytest.MonkeyPatch, tty: bool, env: dict[str, str], interactive: bool, colored: bool
    ) -> None:
        for name in ("NO_COLOR", "TERM", "CI"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)
        assert (streams.interactive(), streams.colored()) == (interactive, colored)


def test_openmp_is_told_how_long_to_spin_before_torch_is_loaded() -> None:
    code = """
import os, sys
from infer.cli.main import run
try:
    run(["--version"])
finally:
    print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules, file=sys.stderr)
"""
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert result.stderr.split() == [str(SPIN_COUNT), "False"]
