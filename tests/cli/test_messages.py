"""--log-format json: every line on stderr is an object, whatever it is about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from infer.cli.report import Report, set_up_logging
from infer.cli.terminal import messages
from infer.core.errors import RecordError
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tally import Tally

HOSTILE = "\x1b]0;owned\x07\x9b31m\x7f\u202e\ud800\nline"


@pytest.fixture
def as_json() -> Iterator[None]:
    messages.use_json(True)
    yield
    messages.use_json(False)


def objects(text: str) -> list[dict[str, Any]]:
    """Each line of `text`, checked to be what every message is."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:4] == ["time", "level", "event", "message"]
        assert datetime.fromisoformat(one["time"].replace("Z", "+00:00")).utcoffset() is not None
        assert one["event"] in ("note", "progress", "summary", "error", "log")
    return found


@pytest.mark.usefixtures("as_json")
def test_an_object_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    messages.say(HOSTILE, event="error", level="error", label="Error: ", exit_code=2, path=Path("x"))
    text = capsys.readouterr().err
    assert all(" " <= c <= "~" for c in text.removesuffix("\n"))
    (told,) = objects(text)
    assert told.items() >= {"level": "error", "event": "error", "message": HOSTILE, "exit_code": 2, "path": "x"}.items()


def test_a_line_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    messages.say("x\x1b", label="note: ", number=1)
    assert capsys.readouterr().err == "note: x\\x1b\n"


@pytest.mark.usefixtures("as_json")
def test_a_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    stats = JobStats(started_at=0.0)
    stats.add(Tally.of_error(10, 3, RecordError("invalid_json", HOSTILE)))
    with Report(stats, input_size=40, interval=1e-9) as report:
        report.loading("m")
        report.once(HOSTILE)
        report.once(HOSTILE)
        report.begin()  # no bar
        report.update()
        report.status()
        report.stopped(KeyboardInterrupt("SIGINT"), "infer --resume")
        report.summary(max_tokens=16)
    told = objects(capsys.readouterr().err)
    assert [one["event"] for one in told] == ["note", "note", "progress", "progress", "summary", "summary"]
    assert told[1]["message"] == HOSTILE
    assert told[2].items() >= {"records": 1, "errors": 1, "share": 0.25, "kv_usage": None}.items()
    assert told[4]["resume"] == "infer --resume"
    assert told[5]["errors"] == {"invalid_json": 1}
    assert told[5]["records"]["failed"] == 1
    assert "settings" not in told[5]


@pytest.mark.usefixtures("as_json")
def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Report(JobStats(), quiet=True, interval=1e-9) as report:
        report.loading("m")
        report.once("x")
        report.begin()
        report.update()
        report.summary(max_tokens=16)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("as_json")
def test_log_messages(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(quiet=False, verbose=1)
    try:
        logging.getLogger("infer.somewhere").warning("%s", HOSTILE)
        logging.getLogger("infer").info("x")
    finally:
        logging.getLogger("infer").handlers = []
        logging.getLogger("infer").propagate = True
    warning, info = objects(capsys.readouterr().err)
    assert warning.items() >= {"level": "warning", "event": "log", "message": HOSTILE, "logger": "infer.somewhere"}.items()
    assert info["level"] == "info"


class TestProgram:
    def test_a_run(self, program: Any, environment: dict[str, str], tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
        path = write_lines(*({"prompt": "a", "max_tokens": 3, "max_token": 1} for _ in range(50)), b"bad")
        argv = ["-v", "--progress-interval", "0.001", "--log-format", "json", "-m", tiny_llama, path, tmp_path / "out"]
        done = program("generate", *argv, env={**environment, "INFER_BLOCKSIZE": "1"})
        assert done.returncode == 3
        told = objects(done.stderr.decode())
        assert {one["event"] for one in told} == {"note", "progress", "summary", "log"}
        assert any("INFER_BLOCKSIZE" in one["message"] for one in told)
        assert told[-1]["event"] == "summary"
        assert told[-1]["errors"] == {"invalid_json": 1}

    @pytest.mark.parametrize(
        ("argv", "code"),
        [
            (["-m", "/no/such", "in.jsonl"], 2),  # there is no input
            (["--no-such-option"], 2),
            (["--max-num-seqs", "0"], 2),
            (["-m", "/no/such", "--dry-run"], 1),
        ],
    )
    def test_errors(self, program: Any, tmp_path: Path, argv: list[str], code: int) -> None:
        done = program("generate", *argv, "--log-format", "json", input=b'{"prompt":"a"}', cwd=tmp_path)
        assert done.returncode == code
        told = objects(done.stderr.decode())[-1]
        assert (told["event"], told["level"], told["exit_code"]) == ("error", "error", code)
        assert told["message"]

    def test_the_next_command_starts_over(self, call: Any, write_lines: Any) -> None:
        assert call("generate", "--log-format", "json", "-m", "/no/such", "/no/such").stderr.startswith("{")
        assert call("generate", "-m", "/no/such", "/no/such").stderr.startswith("Error: ")
        assert call("generate", "--log-format", "json", "-m", "/no/such", "/no/such").stderr.startswith("{")
        assert "{" not in call("models", "get", "no-such").stderr
