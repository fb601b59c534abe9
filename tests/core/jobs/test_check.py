"""Findings against what a run of the same lines does; no weights anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from infer.core.engine.limits import Limits
from infer.core.errors import ModelError, RecordError
from infer.core.jobs.check import Findings, check
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask, Task
from infer.core.types.params import SamplingParams

LIMITS = Limits(vocab_size=258, max_model_len=256, max_logprobs=20, block_size=16, num_blocks=None)

BAD = [
    b"nope",
    b"[]",
    b'{"prompt":5}',
    b'{"prompt":""}',
    b'{"other":1}',
    b'{"messages":[]}',
    b'{"prompt":"a","temperature":-1}',
    b'{"prompt":"a","max_tokens":"x"}',
    b'{"prompt":[999]}',
    b'{"prompt":[-1]}',
    b'{"prompt":"a","stop_token_ids":[300]}',
    b'{"prompt":"a","logprobs":21}',
    b'{"prompt":"' + b"x" * 256 + b'"}',
    b'{"prompt":"' + b"x" * 70000 + b'"}',
    b'{"prompt":"\\ud800"}',
    b"\xff",
    b"x" * 100_000,
    b'{"prompt":' + b"[" * 300 + b"]" * 300 + b"}",
]
GOOD = [b'{"prompt":"abc"}', b'{"prompt":"abc","max_tokens":100,"n":3}', b'{"prompt_token_ids":[1,2],"max_tokens":999}']


@pytest.fixture
def checked(byte_tokenizer: Any, chatml: Any, memory_source: Any) -> Callable[..., Findings]:
    """checked(lines, command="chat", limits=..., **task options) -> findings."""

    def run(lines: list[bytes], *, command: str = "generate", limits: Limits = LIMITS, **options: Any) -> Findings:
        def task_for(record: Record) -> Task:
            chosen = CompletionOptions(**options)
            if command == "chat":
                return ChatTask(chosen, byte_tokenizer, chatml, max_model_len=limits.max_model_len)
            return GenerateTask(chosen, byte_tokenizer, max_model_len=limits.max_model_len)

        return check(RecordReader(memory_source(b"\n".join(lines) + b"\n"), 80_000), task_for, limits)

    return run


def test_what_fails_in_a_run_fails_here(checked: Any, run_job: Any) -> None:
    lines = [line for pair in zip(BAD, GOOD * 6, strict=True) for line in pair]
    output, stats = run_job(b"\n".join(lines) + b"\n", max_line_bytes=80_000, engine={"kv_tokens": 10**6})
    rows = [json.loads(row) for row in output.splitlines()]
    # What the fake engine does not look at: stop_token_ids and logprobs.
    expected = sorted([row["error"]["code"] for row in rows if row["error"]] + ["invalid_value"] * 2)
    findings = checked(lines)
    assert sorted(findings.errors.elements()) == expected
    assert findings.num_failed == len(BAD)
    assert findings.exit_code == 3
    for code, (line, message) in stats.first_errors.items():
        if code not in ("invalid_value", "prompt_too_long"):
            place, told = findings.first_errors[code]
            assert (place.line, told) == (line, message)


def test_numbers(checked: Any) -> None:
    findings = checked([*GOOD, b"", b'{"prompt":"abc"}'])
    assert findings.exit_code == 0
    assert (findings.num_records, findings.num_blank) == (4, 1)
    assert findings.prompts.to_json() == {"min": 2, "median": 4, "mean": 3.5, "p90": 4, "p99": 4, "max": 4}  # one of them BOS
    assert findings.prompts.total == 14
    assert findings.max_output_tokens == 16 + 3 * 100 + 254 + 16
    assert findings.sequences.count == 6
    assert findings.sequences.max == 256
    assert findings.largest is not None
    assert (findings.largest[0].line, findings.largest[1]) == (3, 256)
    assert findings.tokenized.buckets() == [(2, 3, 1), (4, 7, 3)]
    assert findings.distinct.repeats == 2
    told = findings.to_json()
    assert told["records"] == {"total": 4, "good": 4, "failed": 0, "blank_lines": 1}
    assert told["prompt_tokens"]["total"] == 14
    json.dumps(told)


def test_too_long_prompts_are_measured_but_not_among_the_good(checked: Any) -> None:
    findings = checked([b'{"prompt":"' + b"x" * size + b'"}' for size in (10, 300, 1000)])
    assert findings.errors == {"prompt_too_long": 2}
    assert (findings.tokenized.max, findings.prompts.max) == (1001, 11)
    assert findings.tokenized.count == 3


def test_a_kv_cache_of_known_size(checked: Any) -> None:
    lines = [b'{"prompt":"abc","max_tokens":100}', b'{"prompt":"abc","max_tokens":10}']
    assert checked(lines).exit_code == 0
    small = Limits(vocab_size=258, max_model_len=256, max_logprobs=20, block_size=16, num_blocks=2)
    assert checked(lines, limits=small).errors == {"kv_capacity": 1}


def test_conversations(checked: Any) -> None:
    lines = [
        b'{"messages":[{"role":"user","content":"hi"}]}',
        b'{"messages":[{"role":"user","content":"RAISE"}]}',
        b'{"messages":7}',
        b'{"prompt":"x"}',
    ]
    findings = checked(lines, command="chat", defaults=SamplingParams(max_tokens=5))
    assert findings.errors == {"template_error": 1, "invalid_type": 1, "unsupported": 1}
    assert findings.max_output_tokens == 5


def test_the_task_is_made_once_for_the_first_object(memory_source: Any, byte_tokenizer: Any) -> None:
    asked: list[int] = []

    def task_for(record: Record) -> Task:
        asked.append(record.index)
        return GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)

    lines = [b"bad"] * 1300 + [b'{"prompt":"a"}'] * 3
    findings = check(RecordReader(memory_source(b"\n".join(lines))), task_for, LIMITS)
    assert asked == [1300]
    assert (findings.num_records, findings.num_failed) == (1303, 1300)
    asked.clear()
    assert check(RecordReader(memory_source(b"bad\n")), task_for, LIMITS).errors == {"invalid_json": 1}
    assert check(RecordReader(memory_source(b"")), task_for, LIMITS).num_records == 0
    assert asked == []


def test_batches_come_back_in_order(checked: Any) -> None:
    lines = [b'{"prompt":"%s"}' % (b"x" * (i % 50 + 1)) for i in range(5000)]
    lines[4321] = b"bad"
    findings = checked(lines)
    assert findings.first_errors["invalid_json"][0].line == 4322
    assert findings.prompts.count == 4999


def test_a_failure_of_ours_is_one_records(memory_source: Any, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(GenerateTask):
        def prompt_of(self, fields: Any) -> Any:
            if "odd" in fields:
                raise ZeroDivisionError
            return super().prompt_of(fields)

    lines = b'{"prompt":"a"}\n{"prompt":"a","odd":1}\n'
    findings = check(RecordReader(memory_source(lines)), lambda _: Odd(CompletionOptions(), byte_tokenizer, max_model_len=256), LIMITS)
    assert findings.errors == {"internal": 1}


def test_what_is_nobodys_fault_ends_it(memory_source: Any) -> None:
    def no_template(record: Record) -> Task:
        raise ModelError("no template")

    with pytest.raises(ModelError):
        check(RecordReader(memory_source(b"{}\n")), no_template, LIMITS)


class TestLimits:
    @pytest.mark.parametrize("num_blocks", [None, 2])
    def test_blocks(self, num_blocks: int | None) -> None:
        from infer.core.types.request import Request

        limits = Limits(10, 100, -1, 16, num_blocks)
        limits.check(Request("0", [1] * 16, SamplingParams(max_tokens=16, logprobs=1000), 0))
        too_long = Request("0", [1] * 16, SamplingParams(max_tokens=17), 0)
        if num_blocks is None:
            limits.check(too_long)
        else:
            with pytest.raises(RecordError) as error:
                limits.check(too_long)
            assert error.value.code == "kv_capacity"
        assert too_long.max_length(100) == 33
        assert too_long.max_length(20) == 20
