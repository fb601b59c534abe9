"""The summary at the end of a run."""

from __future__ import annotations

import io
import logging
import sys
import time
from typing import Any

import pytest

from infer.cli import report
from infer.cli.report import Report, progress_line, set_up_logging, share_done, summary_lines
from infer.cli.terminal import streams
from infer.core.engine.stats import EngineStats
from infer.core.errors import RecordError
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tally import Tally
from infer.core.types.outputs import CompletionOutput, RequestOutput


def make_stats(*, answered: int = 0, cut: int = 0, engine: bool = True) -> JobStats:
    stats = JobStats(started_at=0.0, ready_at=2.0, admitted_at=2.0, finished_at=12.0)
    for i in range(answered):
        choice = CompletionOutput(0, "a", [1] * 20, "length" if i < cut else "stop")
        stats.add(Tally.of_answer(100, RequestOutput("0", None, [1] * 5, [choice]), default_max_tokens=True))
    if engine:
        stats.engine = EngineStats(kv_usage=0.43, num_kv_blocks=50, peak_kv_blocks=9, first_token_at=3.5)
    return stats


def test_progress_line() -> None:
    stats = make_stats(answered=50)
    stats.add(Tally.of_error(0, 3, RecordError("invalid_json", "x")))
    assert share_done(stats, 20_000) == 0.25
    assert share_done(stats, None) is None
    line = progress_line(stats, 0.25, (1234.0, 567.8), 30.9)
    assert line == "51 records (25%) | ETA 0:30 | 1 error | prompt 1,234, output 568 tok/s | KV 43%"
    assert progress_line(make_stats(engine=False), None, (0, 0)) == "0 records | 0 errors | prompt 0, output 0 tok/s"
    stats = make_stats(answered=1)
    assert stats.engine
    for usage, shown in ((0.0, "KV 0%"), (0.0004, "KV <1%"), (0.01, "KV 1%")):
        stats.engine.kv_usage = usage
        assert progress_line(stats, None, (0, 0)) == f"1 record | 0 errors | prompt 0, output 0 tok/s | {shown}"


def test_time_left() -> None:
    """By tokens, and not before as many records are done as run at a time."""
    stats = make_stats(answered=50)  # in 10 s: 50 x 25 tokens of 50 x 100 bytes
    assert stats.engine
    stats.at_a_time = 64
    stats.engine.num_prompt_tokens, stats.engine.num_output_tokens = 250 + 70, 1000 + 180
    assert stats.seconds_left(20_000) is None
    stats.at_a_time = 50
    assert stats.seconds_left(None) is None
    assert stats.seconds_left(20_000) == pytest.approx((3 * 1250 - 250) / 1500 * 10)
    assert stats.seconds_left(5_000) == 0
    later = make_stats(answered=50)
    later.resume(stats, attempts=1, run_s=10.0)  # what an earlier attempt did takes no time now
    assert later.engine
    later.engine.num_prompt_tokens, later.engine.num_output_tokens = 250, 1000
    assert later.seconds_left(20_000) == pytest.approx(20.0)
    failed = JobStats(admitted_at=0.0, finished_at=10.0, engine=EngineStats())
    failed.add(Tally.of_error(100, 3, RecordError("invalid_json", "x")))
    assert failed.seconds_left(300) == pytest.approx(20.0)
    assert make_stats(engine=False).seconds_left(300) is None


def test_quiet_says_that_records_failed(capsys: pytest.CaptureFixture[str]) -> None:
    stats = make_stats(answered=2)
    with Report(stats, quiet=True) as told:
        told.summary(max_tokens=16)
        assert not capsys.readouterr().err
        for code in ("invalid_json", "missing_field", "invalid_json"):
            stats.add(Tally.of_error(1, 17, RecordError(code, "x")))
        told.summary(max_tokens=16)
    assert capsys.readouterr().err == "3 of 5 records failed (invalid_json 2, missing_field 1); exit status 3\n"


def test_summary() -> None:
    stats = make_stats(answered=1000, cut=900)
    stats.num_blank = 1
    stats.add(Tally.of_error(1, 17, RecordError("invalid_json", "not JSON")))
    lines = summary_lines(stats, max_tokens=16)
    assert lines[:5] == [
        "1,000 of 1,001 records answered in 10.0 s, 1 failed, 1 blank line skipped",
        "  invalid_json: 1 (first on line 17: not JSON)",
        "finish reasons: length 900, stop 100",
        "note: 900 outputs ended at the default of 16 tokens; --max-tokens N gives longer ones",
        "tokens: 5,000 prompt (500/s), 20,000 output (2,000/s)",
    ]
    assert lines[5].startswith("first token 3.5 s after start, peak memory ")


def test_few_cut_outputs_are_not_worth_a_note() -> None:
    assert not any(line.startswith("note") for line in summary_lines(make_stats(answered=1000, cut=5), max_tokens=16))


def test_summary_of_nothing() -> None:
    stats = JobStats()
    assert summary_lines(stats, max_tokens=16) == ["no records"]
    stats.num_blank = 2
    assert summary_lines(stats, max_tokens=16) == ["no records, 2 blank lines skipped"]


def test_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stats = make_stats()
    assert stats.engine
    with Report(stats, interval=30) as told:
        told.begin()
        for second in range(95):
            now = 100.0 + second
            stats.engine.num_output_tokens = 10 * second
            told.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("output 10 tok/s" in line for line in lines)


def test_quiet_is_silent_and_notes_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Report(JobStats(), quiet=True, interval=0.001) as told:
        told.begin()
        told.once("a")
        told.say("b")
        time.sleep(0.002)
        told.update()
        told.summary(max_tokens=16)
    assert capsys.readouterr().err == ""
    with Report(JobStats()) as told:
        told.once("a")
        told.once("a")
    assert capsys.readouterr().err == "note: a\n"


def test_nothing_from_data_reaches_a_terminal_unescaped(capsys: pytest.CaptureFixture[str]) -> None:
    stats = make_stats(answered=1)
    stats.add(Tally.of_error(1, 1, RecordError("template_error", "\x1b]0;owned\x07 \x9b31m")))
    with Report(stats) as told:
        told.summary(max_tokens=16)
    text = capsys.readouterr().err
    assert "owned" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_a_closed_stderr_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    report.say("x")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    report.say("x")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("color", [True, False])
def test_a_terminal_gets_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch, color: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("CI", raising=False)
    if color:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    assert streams.interactive()
    stats = make_stats(answered=10)
    with Report(stats, input_size=2000) as told:
        told.begin()
        told._progress._next = 0.0
        told.update()
        told.once("a note while the bar is there")
        told.summary(max_tokens=16)
    text = terminal.getvalue()
    assert "10 records (50%)" in text
    assert "a note while the bar is there" in text
    assert text.rstrip().splitlines()[-1].startswith("first token")
    assert ("\x1b[3" in text) == color
    assert "\x1b[?25h" in text  # the cursor is back


@pytest.mark.parametrize(
    ("quiet", "verbose", "shown"),
    [(True, 0, "error"), (False, 0, "error warning"), (False, 1, "error warning info"), (False, 2, "error warning info debug")],
)
def test_log_messages(capsys: pytest.CaptureFixture[str], quiet: bool, verbose: int, shown: str) -> None:
    set_up_logging(quiet=quiet, verbose=verbose)
    log = logging.getLogger("infer.somewhere")
    try:
        for level in ("error", "warning", "info", "debug"):
            getattr(log, level)("%s %s", level, "\x1b")
    finally:
        logging.getLogger("infer").handlers = []
        logging.getLogger("infer").propagate = True
    lines = capsys.readouterr().err.splitlines()
    prefix: dict[str, Any] = {"error": "error: ", "warning": "warning: "}
    assert lines == [f"{prefix.get(level, '')}{level} \\x1b" for level in shown.split()]


def test_a_run_that_only_reads() -> None:
    stats = JobStats(started_at=0.0, ready_at=2.0, admitted_at=2.0, finished_at=12.0, pools=True)
    for cut in (0, 1):
        stats.add(Tally.of_texts(100, tokens=500, texts=5, truncated=cut))
    assert progress_line(stats, 0.5, (1234.0, 56.0), 10.0) == "2 records (50%) | ETA 0:10 | 0 errors | 56 texts/s, 1,234 tok/s"
    stats.engine = EngineStats(num_prompt_tokens=1000)
    assert stats.seconds_left(400) == pytest.approx(10.0)
    lines = summary_lines(stats, max_tokens=None)
    assert lines[:3] == [
        "2 of 2 records answered in 10.0 s",
        "10 texts, 1,000 tokens (1 texts/s, 100 tokens/s)",
        "note: 1 text had too many tokens and was cut off",
    ]
    assert lines[3].startswith("peak memory")
