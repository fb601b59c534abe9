"""The statistics of a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from infer.core.engine.stats import EngineStats
from infer.core.errors import RecordError
from infer.core.jobs.stats import JobStats, peak_memory, process_start, versions
from infer.core.jobs.tally import Tally
from infer.core.types.outputs import CompletionOutput, RequestOutput


def test_process_start_is_before_the_program() -> None:
    code = "import time; time.sleep(0.3); from infer.core.jobs.stats import process_start as p; print(time.monotonic() - p())"
    age = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 0.25 < age < 60
    assert process_start() < time.monotonic()


def test_peak_memory_is_this_process() -> None:
    code = "from infer.core.jobs.stats import peak_memory as p; before = p(); x = bytearray(64 << 20); print(before, p())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, after = map(int, out.split())
    assert 0 < before < 64 << 20 < after
    assert peak_memory() > 0


def test_counts() -> None:
    stats = JobStats(started_at=0.0)
    for reason, default in (("stop", True), ("length", True), ("length", False)):
        output = RequestOutput("0", None, [1, 2], [CompletionOutput(0, "a", [1, 2, 3], reason)])
        stats.add(Tally.of_answer(10, output, default_max_tokens=default))
    stats.add(Tally.of_error(5, 8, RecordError("invalid_json", "second")))  # rows are finished in any order
    stats.add(Tally.of_error(5, 7, RecordError("invalid_json", "first")))
    assert (stats.num_records, stats.num_answered, stats.num_failed, stats.exit_code) == (5, 3, 2, 3)
    assert (stats.prompt_tokens, stats.output_tokens, stats.bytes_done) == (6, 9, 40)
    assert stats.num_cut_by_default == 1
    assert stats.first_errors == {"invalid_json": (7, "first")}


def test_json() -> None:
    stats = JobStats(started_at=10.0, ready_at=12.0, admitted_at=12.5, finished_at=16.5)
    stats.prompt_tokens, stats.output_tokens = 40, 100
    stats.engine = EngineStats(
        num_prompt_tokens=40,
        num_output_tokens=100,
        num_cached_tokens=8,
        num_steps=9,
        num_preemptions=1,
        kv_usage=0.5,
        num_computed_tokens=140,
        num_kv_blocks=50,
        peak_kv_blocks=9,
        first_token_at=13.0,
    )
    row = stats.to_json(command="generate", settings={"seed": 0, "hf_token": "secret"}, defaults={"sampling": {"temperature": 1.0}})
    assert row["timing"] == {
        "startup_s": 2.0,
        "run_s": 4.0,
        "run_all_attempts_s": 4.0,
        "total_s": 6.5,
        "first_token_s": 3.0,
        "first_token_after_admission_s": 0.5,
    }
    assert row["tokens"] == {"prompt": 40, "output": 100, "cached": 8, "prompt_per_s": 10.0, "output_per_s": 25.0}
    assert row["engine"] == {"steps": 9, "computed_tokens": 140, "preemptions": 1, "kv_blocks": 50, "peak_kv_blocks": 9}
    assert row["settings"] == {"seed": 0}
    assert row["exit_code"] == 0
    assert set(row["versions"]) == {"python", "infer", "torch", "tokenizers"} == set(versions())
    assert "secret" not in json.dumps(row)


def test_totals_over_all_attempts() -> None:
    stats = JobStats(started_at=10.0, ready_at=12.0, admitted_at=12.0, finished_at=16.0)
    earlier = Tally(num_answered=3, num_failed=1, prompt_tokens=30, output_tokens=300, first_errors={"internal": (2, "x")})
    earlier.errors["internal"] = 1
    stats.resume(earlier, attempts=2, run_s=7.5)
    stats.add(Tally(num_answered=1, prompt_tokens=10, output_tokens=100))
    row = stats.to_json(command="generate", settings={}, defaults={"sampling": {}})
    assert row["records"] == {"total": 5, "answered": 4, "failed": 1, "blank_lines": 0, "from_earlier_attempts": 4}
    assert row["attempts"] == 3
    assert (row["timing"]["run_s"], row["timing"]["run_all_attempts_s"]) == (4.0, 11.5)
    assert row["tokens"] == {"prompt": 40, "output": 400, "cached": 0, "prompt_per_s": 2.5, "output_per_s": 25.0}  # speeds are this run's
    assert row["errors"] == {"internal": 1}
    assert row["exit_code"] == 3


def test_json_of_a_run_that_needed_no_engine() -> None:
    row = JobStats().to_json(command="chat", settings={}, defaults={"sampling": {}})
    assert row["timing"]["startup_s"] is None
    assert row["timing"]["run_s"] is None
    assert row["records"]["total"] == 0


def test_json_where_texts_are_only_read() -> None:
    stats = JobStats(started_at=10.0, ready_at=12.0, admitted_at=12.0, finished_at=14.0, pools=True)
    stats.resume(Tally.of_texts(5, tokens=10, texts=1, truncated=1), attempts=1, run_s=1.0)
    stats.add(Tally.of_texts(5, tokens=60, texts=4, truncated=0))
    row = stats.to_json(command="embed", settings={}, defaults={"embedding": {"size": 8}})
    assert row["texts"] == {"total": 5, "truncated": 1, "per_s": 2.0}
    assert row["tokens"] == {"prompt": 70, "repeated": 0, "prompt_per_s": 30.0}
    assert row["embedding"] == {"size": 8, "truncated": 1}
    assert row["engine"] == {"steps": 0}
    assert "first_vector_s" in row["timing"]
    assert not {"finish_reasons", "cut_by_default_max_tokens", "sampling"} & set(row)
