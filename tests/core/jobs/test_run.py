"""Whole jobs through the fake engine: the promises about order, isolation and memory."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.errors import EngineError, InferError, RecordError
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.row import Row
from infer.core.jobs.run import Run, Window
from infer.core.jobs.tasks import CompletionOptions, GenerateTask
from infer.core.jobs.watch import Watch

GOOD = [b'{"prompt":"good %d","id":"g%d"}' % (i, i) for i in range(5)]

#: What is wrong -> (line, code). Of the issue's list, for `infer generate`.
BAD_GENERATE: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{prompt: 1}", "invalid_json"),
    "not an object": (b'["prompt"]', "invalid_json"),
    "missing prompt": (b'{"id":"x"}', "missing_field"),
    "null prompt": (b'{"prompt":null}', "missing_field"),
    "prompt is a number": (b'{"prompt":5}', "invalid_type"),
    "prompt is an object": (b'{"prompt":{}}', "invalid_type"),
    "one of several prompts is empty": (b'{"prompt":["a",""]}', "invalid_value"),
    "one of several prompts is a number": (b'{"prompt":["a",5]}', "invalid_type"),
    "one of several prompts has a strange token": (b'{"prompt":["a",[258],"b"]}', "invalid_value"),
    "one of several prompts is too long": (b'{"prompt":["a","%s"]}' % (b"x" * 300), "prompt_too_long"),
    "prompt is a list of floats": (b'{"prompt":[1.5]}', "invalid_type"),
    "prompt is a list of booleans": (b'{"prompt":[true]}', "invalid_type"),
    "token ids are a string": (b'{"prompt_token_ids":"1 2"}', "invalid_type"),
    "both prompts": (b'{"prompt":"a","prompt_token_ids":[1]}', "invalid_value"),
    "NaN": (b'{"prompt":"a","temperature":NaN}', "invalid_json"),
    "Infinity": (b'{"prompt":"a","temperature":Infinity}', "invalid_json"),
    "1e400": (b'{"prompt":"a","temperature":1e400}', "invalid_json"),
    "invalid UTF-8": (b'{"prompt":"\xff\xfe"}', "invalid_encoding"),
    "lone surrogate": (b'{"prompt":"\\ud83d"}', "invalid_encoding"),
    "over-long line": (b'{"prompt":"%s"}' % (b"x" * 3000), "line_too_long"),
    "too deep": (b'{"prompt":"a","x":' + b"[" * 250 + b"]" * 250 + b"}", "too_deep"),
    "integer id over 2^53": (b'{"prompt":"a","id":9007199254740993}', "invalid_value"),
    "id is a list": (b'{"prompt":"a","id":[1]}', "invalid_type"),
    "empty prompt": (b'{"prompt":""}', "invalid_value"),
    "no tokens": (b'{"prompt_token_ids":[]}', "invalid_value"),
    "empty list as prompt": (b'{"prompt":[]}', "invalid_value"),
    "token id outside the vocabulary": (b'{"prompt_token_ids":[1,258]}', "invalid_value"),
    "negative token id": (b'{"prompt_token_ids":[-1]}', "invalid_value"),
    "huge token id": (b'{"prompt_token_ids":[123456789012345678901234567890]}', "invalid_value"),
    "prompt too long": (b'{"prompt":"%s"}' % (b"x" * 300), "prompt_too_long"),
    "never fits the KV cache": (b'{"prompt":"a","max_tokens":5000}', "kv_capacity"),
    "temperature below 0": (b'{"prompt":"a","temperature":-1}', "invalid_value"),
    "temperature is a string": (b'{"prompt":"a","temperature":"hot"}', "invalid_type"),
    "top_p above 1": (b'{"prompt":"a","top_p":1.5}', "invalid_value"),
    "max_tokens 0": (b'{"prompt":"a","max_tokens":0}', "invalid_value"),
    "max_tokens is a float": (b'{"prompt":"a","max_tokens":1.5}', "invalid_type"),
    "n is huge": (b'{"prompt":"a","n":123456789012345678901234}', "invalid_value"),
    "stop is a number": (b'{"prompt":"a","stop":5}', "invalid_type"),
    "stop is empty": (b'{"prompt":"a","stop":[""]}', "invalid_value"),
    "stream": (b'{"prompt":"a","stream":true}', "unsupported"),
    "response_format of no known type": (b'{"prompt":"a","response_format":{"type":"xml"}}', "invalid_value"),
    "two constraints": (b'{"prompt":"a","guided_regex":"a","guided_choice":["a"]}', "invalid_value"),
    "logit_bias is a list": (b'{"prompt":"a","logit_bias":[1]}', "invalid_type"),
    "priority is a word": (b'{"prompt":"a","priority":"high"}', "invalid_type"),
    "add_special_tokens is a word": (b'{"prompt":"a","add_special_tokens":"no"}', "invalid_type"),
    "chat": (b'{"messages":[{"role":"user","content":"a"}]}', "unsupported"),
    "embed": (b'{"input":"a"}', "unsupported"),
    "embed by text": (b'{"text":"a"}', "missing_field"),
    "beam": (b'{"prompt":"a","beam_width":4}', "unsupported"),
}

GOOD_CHAT = [b'{"messages":[{"role":"user","content":"good %d"}],"id":%d}' % (i, i) for i in range(5)]
_USER = b'"messages":[{"role":"user","content":"a"}]'
BAD_CHAT: dict[str, tuple[bytes, str]] = {
    "missing messages": (b'{"id":"x"}', "missing_field"),
    "messages is a string": (b'{"messages":"a"}', "invalid_type"),
    "no messages": (b'{"messages":[]}', "invalid_value"),
    "message is a string": (b'{"messages":["a"]}', "invalid_type"),
    "no role": (b'{"messages":[{"content":"a"}]}', "missing_field"),
    "role is a number": (b'{"messages":[{"role":1,"content":"a"}]}', "invalid_type"),
    "content is a number": (b'{"messages":[{"role":"user","content":1}]}', "invalid_type"),
    "tools is an object": (b"{%s,%s}" % (_USER, b'"tools":{}'), "invalid_type"),
    "tool_choice": (b"{%s,%s}" % (_USER, b'"tool_choice":"required"'), "invalid_value"),
    "flag is a string": (b"{%s,%s}" % (_USER, b'"add_generation_prompt":"yes"'), "invalid_type"),
    "contradicting flags": (b"{%s,%s}" % (_USER, b'"add_generation_prompt":true,"continue_final_message":true'), "invalid_value"),
    "kwargs is a list": (b"{%s,%s}" % (_USER, b'"chat_template_kwargs":[]'), "invalid_type"),
    "kwargs hide a field": (b"{%s,%s}" % (_USER, b'"chat_template_kwargs":{"tools":[]}'), "invalid_value"),
    "template of its own": (b"{%s,%s}" % (_USER, b'"chat_template":"{{ 1 }}"'), "unsupported"),
    "template raises": (b'{"messages":[{"role":"user","content":"RAISE"}]}', "template_error"),
    "top_logprobs alone": (b"{%s,%s}" % (_USER, b'"top_logprobs":3'), "invalid_value"),
    "top_logprobs is a string": (b"{%s,%s}" % (_USER, b'"logprobs":true,"top_logprobs":"3"'), "invalid_type"),
    "generate": (b'{"prompt":"a"}', "unsupported"),
    "embed": (b'{"input":"a"}', "unsupported"),
    "beam": (b"{%s,%s}" % (_USER, b'"beam_width":2'), "unsupported"),
}

#: Settings under which a job must give the same bytes.
SCHEDULES: list[dict[str, Any]] = [
    {},
    {"chunk": 3},
    {"window": Window(records=3, batch=2, low_water=1)},
    {"window": Window(records=5, batch=5, low_water=1, num_bytes=1)},
    {"engine": {"max_num_seqs": 1}},
    {"engine": {"max_num_seqs": 50, "patience": lambda i: i * 13 % 11}},
]


def rows(data: bytes) -> list[dict[str, Any]]:
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


class Each(Watch):
    """Calls a function after each step."""

    def __init__(self, stepped: Callable[[], None]) -> None:
        self.stepped = stepped  # type: ignore[method-assign]


def check_bad_lines(run_job: Any, command: str, good: list[bytes], bad: dict[str, tuple[bytes, str]]) -> None:
    """Each bad line among good ones: its code in its place, and the good ones' bytes as without it."""
    lines = list(good)
    for line, _ in bad.values():
        lines.insert(random.Random(len(lines)).randrange(len(lines)), line)
    by_line = {line: (name, code) for name, (line, code) in bad.items()}
    expected_good = run_job(b"\n".join(good), command=command)[0].splitlines()
    for schedule in SCHEDULES:
        out, stats = run_job(b"\n".join(lines), command=command, max_line_bytes=2000, **schedule)
        assert stats.exit_code == 3
        assert stats.num_failed == len(bad)
        good_rows = []
        for i, (line, row) in enumerate(zip(lines, out.splitlines(), strict=True)):
            parsed = json.loads(row)
            assert parsed["index"] == i
            if line not in by_line:
                # The same line, apart from the place in the input.
                good_rows.append(row.replace(b'"index":%d,' % i, b'"index":%d,' % len(good_rows), 1))
                continue
            name, code = by_line[line]
            assert parsed["error"]["code"] == code, (name, parsed)
            assert set(parsed["error"]) == {"code", "message", "param", "retryable"}
            assert not parsed.keys() & {"choices", "usage"}
        assert good_rows == expected_good


def test_bad_generate_lines(run_job: Any) -> None:
    check_bad_lines(run_job, "generate", GOOD, BAD_GENERATE)


def test_bad_chat_lines(run_job: Any) -> None:
    check_bad_lines(run_job, "chat", GOOD_CHAT, BAD_CHAT)


@pytest.mark.parametrize(("command", "bad"), [("generate", BAD_GENERATE), ("chat", BAD_CHAT)])
def test_lines_of_other_commands_name_them(run_job: Any, command: str, bad: dict[str, tuple[bytes, str]]) -> None:
    others = [name for name in ("generate", "chat", "embed", "beam") if name in bad]
    data, _ = run_job(b"\n".join(bad[name][0] for name in others), command=command)
    for name, row in zip(others, rows(data), strict=True):
        assert f"infer {name}" in row["error"]["message"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_list_of_prompts_is_answered_as_its_prompts_are(run_job: Any, schedule: dict[str, Any]) -> None:
    """Choices are numbered through; nothing else differs from the prompts on lines of their own, whatever the schedule."""
    more = '"n":2,"max_tokens":3,"logprobs":1,"return_token_ids":true'
    alone = rows(run_job("".join(f'{{"prompt":{p},{more}}}\n' for p in ('"abc"', "[97,98]", '"xyzzy"')).encode())[0])
    data, stats = run_job(b'{"prompt":["abc",[97,98],"xyzzy"],"id":"k",%s}\n' % more.encode() + GOOD[0], **schedule)
    row, after = rows(data)
    assert (row["id"], row["error"], after["id"], stats.num_records, stats.num_answered) == ("k", None, "g0", 2, 2)
    expected = [(one["prompt_token_ids"], choice) for one in alone for choice in one["choices"]]
    assert row["choices"] == [{**choice, "index": i, "prompt_token_ids": ids} for i, (ids, choice) in enumerate(expected)]
    assert row["usage"] == {name: sum(one["usage"][name] for one in alone) for name in alone[0]["usage"]}
    assert stats.prompt_tokens == row["usage"]["prompt_tokens"] + after["usage"]["prompt_tokens"]


def test_what_fails_in_the_engine_fails_its_whole_list(run_job: Any) -> None:
    fail = {0: RecordError("non_finite_logits", "NaN")}
    for where in ("add", "step"):
        data, stats = run_job(b'{"prompt":["a","b","c"]}\n' + GOOD[0], engine={"fail": fail, "fail_in": where})
        first, second = rows(data)
        assert (first["error"]["code"], second["error"], stats.num_failed) == ("non_finite_logits", None, 1)


def test_native_lines(run_job: Any) -> None:
    data, stats = run_job(
        b'{"prompt":"abc","id":"a"}\n'
        b'{"prompt":"abc","id":7,"note":{"x":[1,null]},"big":123456789012345678901234567890}\n'
        b'{"prompt_token_ids":[97,98],"n":2}\n'
        b'{"prompt":"abc","max_tokens":2,"model":"m","user":"u","stream":false,"temperature":null,"return_token_ids":true}\n'
    )
    assert data == (
        b'{"index":0,"id":"a","choices":[{"index":0,"text":"cba","finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":4,"completion_tokens":4,"total_tokens":8},"error":null}\n'
        b'{"index":1,"id":7,"choices":[{"index":0,"text":"cba","finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":4,"completion_tokens":4,"total_tokens":8},"error":null,'
        b'"extra":{"note":{"x":[1,null]},"big":123456789012345678901234567890}}\n'
        b'{"index":2,"choices":[{"index":0,"text":"ba","finish_reason":"stop"},{"index":1,"text":"ba","finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":2,"completion_tokens":4,"total_tokens":6},"error":null}\n'
        b'{"index":3,"prompt_token_ids":[256,97,98,99],"choices":[{"index":0,"text":"cb","finish_reason":"length","token_ids":[99,98]}],'
        b'"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6},"error":null}\n'
    )
    assert stats.exit_code == 0
    assert (stats.prompt_tokens, stats.output_tokens) == (14, 14)


def test_error_lines(run_job: Any) -> None:
    data, _ = run_job(b'{"id":"a","prompt":"","note":1}\n{"id":[],"prompt":"a","note":1}\nnope\n')
    assert rows(data) == [
        {
            "index": 0,
            "id": "a",
            "error": {"code": "invalid_value", "message": "the prompt is empty", "param": "prompt", "retryable": False},
            "extra": {"note": 1},
        },
        {
            "index": 1,
            "error": {
                "code": "invalid_type",
                "message": "id must be a string or an integer, not a list",
                "param": "id",
                "retryable": False,
            },
            "extra": {"note": 1},
        },
        {"index": 2, "error": rows(data)[2]["error"]},
    ]


def test_blank_lines_have_no_answer(run_job: Any) -> None:
    data, stats = run_job(b'\n  \n{"prompt":"a"}\n\r\n{"prompt":"b"}')
    assert [row["index"] for row in rows(data)] == [0, 1]
    assert stats.num_blank == 3


@pytest.mark.parametrize("data", [b"", b"\n\n", b" "])
def test_an_empty_input_needs_no_engine(memory_source: Any, memory_output: Any, data: bytes) -> None:
    sink = memory_output()
    run = Run(RecordReader(memory_source(data)), sink)
    assert not run.needs_engine()
    stats = run.end()
    assert (sink.data, stats.exit_code, stats.num_records) == (b"", 0, 0)


@pytest.mark.parametrize("fail_in", ["add", "step"])
def test_a_failing_record_fails_alone(run_job: Any, fail_in: str) -> None:
    data = b"\n".join(b'{"prompt":"%d"}' % i for i in range(30))
    error = RecordError("non_finite_logits", "NaN")
    out, stats = run_job(data, engine={"fail": {0: error, 17: error, 29: error}, "fail_in": fail_in})
    assert [row["index"] for row in rows(out) if row["error"]] == [0, 17, 29]
    whole = run_job(data)[0].splitlines()
    assert all(row == whole[i] for i, row in enumerate(out.splitlines()) if i not in (0, 17, 29))
    assert stats.errors == {"non_finite_logits": 3}


class Panic(BaseException):
    """As Rust libraries raise."""


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), Panic("x"), MemoryError()])
def test_a_bug_in_one_record_is_an_internal_error(run_job: Any, error: BaseException) -> None:
    out, stats = run_job(b'{"prompt":"a"}\n{"prompt":"b"}\n{"prompt":"c"}', engine={"fail": {1: error}})
    assert [row["error"] and row["error"]["code"] for row in rows(out)] == [None, "internal", None]
    assert stats.exit_code == 3


def test_a_bug_in_the_tokenizer_is_put_down_to_its_record(run_job: Any, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = type(byte_tokenizer).encode

    def panics(self: Any, text: str, **more: Any) -> list[int]:
        if text == "b":
            raise Panic("index out of bounds")
        return encode(self, text, **more)

    monkeypatch.setattr(type(byte_tokenizer), "encode", panics)
    out, _ = run_job(b'{"prompt":"a"}\n{"prompt":"b"}\n{"prompt":"c"}')
    assert [row["error"] and row["error"]["code"] for row in rows(out)] == [None, "internal", None]


@pytest.mark.parametrize("error", [EngineError("dead"), KeyboardInterrupt(), ZeroDivisionError("a bug in the engine")])
def test_what_is_nobodys_fault_ends_the_run_and_keeps_what_was_answered(
    memory_source: Any, memory_output: Any, fake_engine: Any, byte_tokenizer: Any, error: BaseException
) -> None:
    sink = memory_output()
    engine = fake_engine(fail={20: error}, fail_in="step")
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    data = b"".join(b'{"prompt":"%d"}\n' % i for i in range(40))
    with pytest.raises(type(error)):
        Run(RecordReader(memory_source(data)), sink).run(engine, task)
    assert not sink.finished
    assert 0 < len(rows(sink.data)) <= 20
    assert [row["index"] for row in rows(sink.data)] == list(range(len(rows(sink.data))))


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
def test_the_schedule_does_not_matter(run_job: Any, schedule: dict[str, Any]) -> None:
    data = b"".join(b'{"prompt":"%s","max_tokens":%d}\n' % (b"x" * (i % 17), i % 5 + 1) for i in range(100))
    assert run_job(data, **schedule)[0] == run_job(data)[0]


def test_the_window_bounds_what_is_in_flight(memory_source: Any, memory_output: Any, fake_engine: Any, byte_tokenizer: Any) -> None:
    engine = fake_engine(max_num_seqs=4, patience=lambda i: 1000 if i == 0 else 0)  # the head of the line is slow
    output = memory_output()
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    reader = RecordReader(memory_source(b'{"prompt":"a"}\n' * 500))
    held: list[int] = []
    run = Run(reader, output, window=Window(records=50, batch=8, low_water=8), watch=Each(lambda: held.append(num_held())))

    def num_held() -> int:
        return run.stats.num_records - output.num_rows

    run.run(engine, task)
    assert max(held) == 49
    assert engine.most_unfinished <= 16
    assert output.num_rows == 500


def test_the_engine_learns_when_no_more_will_come(memory_source: Any, memory_output: Any, fake_engine: Any, byte_tokenizer: Any) -> None:
    engine = fake_engine(max_num_seqs=4)
    told: list[tuple[int, bool]] = []
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    watch = Each(lambda: told.append((engine.most_unfinished, engine.told_of_the_end)))
    reader = RecordReader(memory_source(b'{"prompt":"a"}\n' * 40))
    Run(reader, memory_output(), window=Window(batch=8, low_water=8), watch=watch).run(engine, task)
    assert told[0][1] is False
    assert told[-1][1] is True


def test_more_is_read_ahead_for_an_engine_that_runs_more() -> None:
    engine = SimpleNamespace(max_num_seqs=4, num_waiting=300)
    window = Window()
    assert not window.wants_more(engine)
    engine.max_num_seqs = 256
    assert window.wants_more(engine)
    engine.max_num_seqs, engine.num_waiting = 100_000, 5000  # the window is a limit to that
    assert not window.wants_more(engine)


def test_the_window_bounds_bytes_too(memory_source: Any, memory_output: Any, fake_engine: Any, byte_tokenizer: Any) -> None:
    engine = fake_engine(max_num_seqs=4)
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    line = b'{"prompt":"a","pad":"%s"}\n' % (b"x" * 10_000)
    output = memory_output()
    Run(RecordReader(memory_source(line * 100)), output, window=Window(num_bytes=50_000)).run(engine, task)
    assert engine.most_unfinished <= 5
    assert output.num_rows == 100


def test_a_slow_pipe_gets_its_answers_before_it_says_more(fake_engine: Any, byte_tokenizer: Any, memory_output: Any) -> None:
    """A program that waits for each answer before it sends the next record must not wait for ever."""
    sink = memory_output()

    class Dialog:
        asked = 0

        def read(self, size: int) -> bytes:
            assert sink.data.count(b"\n") == self.asked, "asked for more before answering"
            self.asked += 1
            return b'{"prompt":"q%d"}\n' % self.asked if self.asked <= 20 else b""

        def ready(self, seconds: float = 0.0) -> bool:
            return sink.data.count(b"\n") == self.asked

    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    Run(RecordReader(Dialog()), sink).run(fake_engine(), task)
    assert [row["choices"][0]["text"] for row in rows(sink.data)] == [f"{i}"[::-1] + "q" for i in range(1, 21)]


def test_the_engine_is_looked_after_while_the_input_is_silent(fake_engine: Any, byte_tokenizer: Any, memory_output: Any) -> None:
    """Between records, within a line, before a blank one and before the end; and not once there is nothing left to do."""

    class Slow:
        def __init__(self) -> None:
            self.pieces = [b'{"prompt":"ab"}\n', None, b'{"pro', None, None, b'mpt":"cd"}\n', None, b"\n", None, b'{"prompt":"ef"}\n']

        def read(self, size: int) -> bytes:
            piece = self.pieces.pop(0) if self.pieces else b""
            assert piece is not None, "read while it is silent"
            return piece

        def ready(self, seconds: float = 0.0) -> bool:
            if self.pieces and self.pieces[0] is None:
                if seconds:
                    self.pieces.pop(0)
                return False
            return True

    engine, sink = fake_engine(), memory_output()
    Run(RecordReader(Slow()), sink).run(engine, GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256))
    assert [row["choices"][0]["text"] for row in rows(sink.data)] == ["ba", "dc", "fe"]
    assert engine.num_checks == 5


def test_an_input_that_breaks_after_a_silence(fake_engine: Any, byte_tokenizer: Any, memory_output: Any) -> None:
    class Breaks:
        silent, lines = 2, [b'{"prompt":"ab"}\n']

        def read(self, size: int) -> bytes:
            if not self.lines:
                raise InferError("broken")
            return self.lines.pop()

        def ready(self, seconds: float = 0.0) -> bool:
            self.silent -= not self.lines and seconds > 0
            return bool(self.lines) or self.silent < 0

    engine, sink = fake_engine(), memory_output()
    with pytest.raises(InferError, match="broken"):
        Run(RecordReader(Breaks()), sink).run(engine, GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256))
    assert (len(rows(sink.data)), engine.num_checks) == (1, 2)


def test_60_000_records_stream_in_flat_memory(fake_engine: Any, byte_tokenizer: Any, memory_output: Any) -> None:
    total = 60_000

    class Lines:
        """Makes lines as they are read."""

        def __init__(self) -> None:
            self.lines: Iterator[bytes] = (b'{"id":%d,"prompt":"p%d","extra":"x"}\n' % (i, i) for i in range(total))

        def read(self, size: int) -> bytes:
            return b"".join(line for _, line in zip(range(1000), self.lines, strict=False))

        def ready(self, seconds: float = 0.0) -> bool:
            return True

    class Checker(memory_output):
        """Checks rows as they come, keeps none."""

        blocks: dict[int, int] = {}  # noqa: RUF012
        resident: dict[int, int] = {}  # noqa: RUF012

        def write(self, rows: Sequence[Row]) -> None:
            for row in rows:
                parsed = orjson.loads(row.data)
                assert row.ordinal == parsed["index"] == parsed["id"] == self.num_rows
                assert parsed["choices"][0]["text"] == f"p{self.num_rows}"[::-1]
                self.num_rows += 1
                if self.num_rows in (total // 10, total):
                    self.blocks[self.num_rows] = sys.getallocatedblocks()
                    self.resident[self.num_rows] = psutil.Process().memory_info().rss

    sink = Checker()
    task = GenerateTask(CompletionOptions(), byte_tokenizer, max_model_len=256)
    engine = fake_engine(max_num_seqs=256)
    stats = Run(RecordReader(Lines()), sink).run(engine, task)
    assert stats.num_answered == sink.num_rows == total
    assert sink.blocks[total] - sink.blocks[total // 10] < 20_000
    assert sink.resident[total] - sink.resident[total // 10] < 8 << 20


fragments = st.sampled_from(
    [
        b'{"prompt":"a"}',
        b'{"prompt":',
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b"\n",
        b"\r\n",
        b" ",
        b"\\ud800",
        b"\xff",
        b"\xef\xbb\xbf",
        b"NaN",
        b"1e999",
    ]
    + [
        b'{"messages":[{"role":"user","content":"x"}]}',
        b'"id":',
        b"9" * 20,
        b",",
        b":",
        b"null",
        b'"prompt"',
        b'"n":',
        b'"stop":',
        b'"logprobs":',
    ]
    + [line for line, _ in [*BAD_GENERATE.values(), *BAD_CHAT.values()]]
)


@settings(max_examples=200)
@given(st.lists(fragments | st.binary(max_size=30), max_size=60), st.sampled_from(["generate", "chat"]), st.integers(0, 5))
def test_any_bytes_give_one_row_a_line(run_job: Any, pieces: list[bytes], command: str, schedule: int) -> None:
    data = b"".join(pieces)
    out, stats = run_job(data, command=command, max_line_bytes=2000, **SCHEDULES[schedule])
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    assert [row["index"] for row in rows(out)] == list(range(len(lines)))
    assert stats.num_records == len(lines)
    assert all(row["error"]["code"] != "internal" for row in rows(out) if row["error"])
    assert out == run_job(data, command=command, max_line_bytes=2000)[0]


def test_the_window_is_wide_enough_for_a_large_fleet(fake_engine: Any) -> None:
    large, small = fake_engine(max_num_seqs=65536), fake_engine(max_num_seqs=4)
    assert Window().for_engine(large).records > 2 * 65536
    assert Window().for_engine(large).num_bytes == Window().num_bytes
    assert Window().for_engine(small) == Window()
