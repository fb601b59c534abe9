"""--metrics, --metrics-port and --trace: what is told adds up, files are nobody else's, and the port is this machine's."""

from __future__ import annotations

import errno
import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from infer.core.errors import ConfigError
from infer.core.jobs.stats import JobStats
from infer.core.jobs.telemetry import telemetry
from infer.core.jobs.telemetry.metrics import Run, samples, text
from infer.core.jobs.telemetry.port import MetricsPort, parse_address

Call = Callable[..., Result]
RECORDS: list[Any] = [{"prompt": "hello"[: i + 1], "max_tokens": 3 + i, "ignore_eos": True} for i in range(5)] + [b"nope"]


@pytest.fixture
def generate(call: Call, tiny: list[str], write_lines: Callable[..., Path], tmp_path: Path) -> Call:
    """generate(*options): six records, of which one fails, into out.jsonl."""
    return lambda *argv: call("generate", "-q", *tiny, *argv, write_lines(*RECORDS), tmp_path / "out.jsonl")


def values(data: str) -> dict[str, float]:
    """Metric and its own labels -> value; every series is checked to say whose it is, every name to have a type."""
    found = {}
    typed = set(re.findall(r"^# TYPE (\w+) (?:gauge|counter)$", data, re.MULTILINE))
    for line in data.splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            assert name in typed
            assert labels.startswith('command="generate",output="')
            own = re.sub(r'^command="[^"]*",output="(?:[^"\\]|\\.)*",?', "", labels).rstrip("}")
            found[f"{name} {own}".strip()] = float(value)
    return found


def test_the_file_tells_the_run(generate: Call, tmp_path: Path) -> None:
    metrics, trace = tmp_path / "run.prom", tmp_path / "trace.jsonl"
    assert generate("--metrics", metrics, "--trace", trace).exit_code == 3
    found = values(metrics.read_text())
    assert found['infer_records_total result="answered"'] == 5
    assert found['infer_records_total result="failed"'] == 1
    assert found['infer_errors_total code="invalid_json"'] == 1
    assert found["infer_prompt_tokens_total"] == 15
    assert found["infer_output_tokens_total"] == 3 + 4 + 5 + 6 + 7
    assert found['infer_finish_reasons_total reason="length"'] == 5
    assert (found["infer_job_running"], found["infer_job_exit_code"]) == (0, 3)
    assert 0 < found["infer_kv_cache_peak_usage_ratio"] <= 1
    assert not list(tmp_path.glob("*.tmp*"))
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert len(lines) >= 2
    assert (lines[0]["records"], lines[-1]["records"], lines[-1]["failed"], lines[-1]["output_tokens"]) == (0, 6, 1, 25)
    assert sorted(line["t"] for line in lines) == [line["t"] for line in lines]


def test_what_is_there_is_kept(generate: Call, tmp_path: Path) -> None:
    for name in ("metrics", "trace"):
        path = tmp_path / f"mine.{name}"
        path.write_text("mine\n")
        result = generate(f"--{name}", path)
        assert (result.exit_code, path.read_text()) == (2, "mine\n")
        assert f"--{name} " in result.stderr
        assert generate(f"--{name}", tmp_path / "out.jsonl").exit_code == 2
        assert generate(f"--{name}", "-").exit_code == 2
    same = tmp_path / "same"
    assert generate("--metrics", same, "--trace", same).exit_code == 2
    assert not (tmp_path / "out.jsonl").exists()
    metrics, trace = tmp_path / "m.prom", tmp_path / "t.jsonl"
    assert generate("--metrics", metrics, "--trace", trace).exit_code == 3
    before = len(trace.read_text().splitlines())
    with trace.open("a") as file:
        file.write('{"t":1,"rec')  # a kill in the middle of a line
    assert generate("--resume", "--metrics", metrics, "--trace", trace).exit_code == 3
    lines = trace.read_text().splitlines()
    assert len(lines) > before + 1
    assert lines[before] == '{"t":1,"rec'
    assert generate("--overwrite", "--trace", trace).exit_code == 3
    assert all(json.loads(line) for line in trace.read_text().splitlines())


def test_a_run_that_fails_says_so(generate: Call, tmp_path: Path) -> None:
    metrics = tmp_path / "run.prom"
    assert generate("--metrics", metrics, "--max-errors", "0").exit_code == 1
    found = values(metrics.read_text())
    assert (found["infer_job_running"], found["infer_job_exit_code"]) == (0, 1)


def test_a_full_disk_costs_the_file_and_not_the_run(
    call: Call, tiny: list[str], write_lines: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("infer.core.jobs.telemetry.files.write_whole", full)
    result = call("generate", *tiny, "--metrics", tmp_path / "m.prom", write_lines(*RECORDS), tmp_path / "out.jsonl")
    assert result.exit_code == 3
    assert result.stderr.count("m.prom' cannot be written: No space left on device; the run goes on without it") == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(RECORDS)


def test_no_secret_is_told_and_names_are_escaped() -> None:
    stats = JobStats()
    data = text(samples(stats, Run("generate", 'a"b\\c\nd', 1.5))).decode()
    assert 'output="a\\"b\\\\c\\nd"' in data
    assert "infer_job_exit_code" not in data
    assert "infer_job_running{" in data


def test_only_what_is_due_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, generate: Call) -> None:
    """A step in which nothing is due costs a look at the clock."""
    now = [0.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
    counted = []
    monkeypatch.setattr(telemetry, "samples", lambda *_: counted.append(now[0]) or [])
    options = type("Options", (), {"metrics": None, "metrics_port": "1", "trace": None, "output": "o"})()
    one = telemetry.Telemetry(options, JobStats(), command="generate", taken=[], say=print)  # type: ignore[arg-type]
    for step in range(41):
        now[0] = step / 10
        one.update()
    assert counted == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("text", "address"), [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:0", ("0.0.0.0", 0)), ("[::1]:9", ("::1", 9))])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "1.2.3.4:99999", ":x"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="is not PORT"):
        parse_address(text)


class TestPort:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("prometheus_client")

    def test_it_answers_on_loopback_alone(self) -> None:
        stats = JobStats(num_answered=7)
        port = MetricsPort("127.0.0.1", 0, lambda: samples(stats, Run("generate", "o", 1.0)))
        try:
            assert port.url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(port.url, timeout=10) as answer:
                data = answer.read().decode()
            assert 'infer_records_total{command="generate",output="o",result="answered"} 7.0' in data
            assert "\n# TYPE infer_records_total counter\n" in data
            assert port._server.socket.getsockname()[0] == "127.0.0.1"
        finally:
            port.close()

    def test_a_port_that_is_taken(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(ConfigError, match="choose another port"):
                MetricsPort("127.0.0.1", other.getsockname()[1], list)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch, generate: Call) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    result = generate("--metrics-port", "0")
    assert result.exit_code == 2
    assert "infer-jsonl[metrics]" in result.stderr
