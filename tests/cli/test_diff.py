"""`infer diff`: what it finds in two outputs, what it says, and its exit codes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from infer.core.review.diff import compare

Row = dict[str, Any]


def row(index: int, text: str = "a b c", reason: str = "stop", tokens: int = 3, logprobs: list[float] | None = None, **more: Any) -> Row:
    choice: Row = {"index": 0, "text": text, "finish_reason": reason}
    if logprobs is not None:
        choice["logprobs"] = {"tokens": text.split(), "token_logprobs": logprobs, "top_logprobs": []}
    usage = {"prompt_tokens": 2, "completion_tokens": tokens, "total_tokens": 2 + tokens}
    return {"index": index, "choices": [choice], "usage": usage, "error": None, **more}


def failed(index: int, code: str = "prompt_too_long") -> Row:
    return {"index": index, "error": {"code": code, "message": "no", "param": None, "retryable": False}}


def batch(index: int, text: str) -> Row:
    body = {"id": f"infer-x-{index}", "object": "text_completion", "created": 0, "model": "m", **row(0, text)}
    return {
        "id": f"infer-x-{index}",
        "custom_id": f"c{index}",
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


@pytest.fixture
def told(call: Callable[..., Result], write_lines: Callable[..., Path]) -> Callable[..., tuple[int, Row]]:
    """told(rows of A, rows of B, *options): exit code and JSON."""

    def run(a: list[Any], b: list[Any], *argv: str) -> tuple[int, Row]:
        result = call("diff", "--json", *argv, write_lines(*a, name="a.jsonl"), write_lines(*b, name="b.jsonl"))
        return result.exit_code, json.loads(result.stdout)

    return run


def test_equal_outputs(told: Callable[..., tuple[int, Row]], call: Callable[..., Result], write_lines: Callable[..., Path]) -> None:
    rows = [row(0), failed(1), row(2, logprobs=[-0.5])]
    code, found = told(rows, rows)
    assert (code, found["same"], found["rows"], found["equal"], found["changed"]) == (0, True, 3, 3, {})
    assert found["failed_in_both"] == 1
    # What a cache had, and names of a run, are no part of an answer.
    cached = row(0)
    cached["usage"]["prompt_tokens_details"] = {"cached_tokens": 1}
    assert told([row(0)], [cached])[0] == 0
    other_run = json.loads(json.dumps(batch(0, "x")).replace("infer-x-0", "infer-y-0"))
    assert told([batch(0, "x")], [other_run])[0] == 0
    assert call("diff", "-q", write_lines(name="e1"), write_lines(name="e2")).exit_code == 0


def test_what_changed(told: Callable[..., tuple[int, Row]]) -> None:
    a = [
        row(0),
        row(1),
        row(2),
        failed(3),
        failed(4),
        row(6, logprobs=[-0.5, -1.0, -2.0]),
        row(7, "same start, x", logprobs=[-1, -2, -3]),
        row(9),
    ]
    b = [
        row(0),
        row(1, "a b X", "length", 5),
        row(2, extra={"k": 1}),
        row(3),
        failed(4, "internal"),
        row(6, logprobs=[-0.5, -1.25, -2.0]),
        row(7, "same start, y", logprobs=[-1.5, -9, -9]),
        row(8),
    ]
    code, found = told(a, b, "--show", "9")
    assert code == 1
    assert (found["rows"], found["equal"], found["differ"], found["only_in_a"], found["only_in_b"]) == (7, 1, 6, 1, 1)
    assert found["changed"] == {"text": 2, "error": 2, "logprobs": 2, "length": 1, "finish_reason": 1, "other fields": 1}
    assert found["failed_in_both"] == 1
    assert found["finish_reasons"] == {"stop -> length": 1}
    assert found["errors"] == {"prompt_too_long -> answered": 1, "prompt_too_long -> internal": 1}
    assert found["texts"]["choices"] == 5
    assert found["texts"]["equal"] == 3
    assert found["texts"]["share_before_the_change"]["mean"] == pytest.approx((4 / 5 + 12 / 13) / 2)
    # All tokens of record 6; of record 7 the first alone, since after it the texts are two.
    assert found["logprobs"]["apart"] == {"count": 4, "mean": 0.1875, "min": 0.0, "max": 0.5}
    assert found["logprobs"]["b_minus_a"]["mean"] == -0.1875
    assert found["tokens_more_in_b"]["max"] == 2
    shown = {example["index"]: example for example in found["examples"]}
    assert shown[1] == {"index": 1, "changed": ["text", "length", "finish_reason"], "at": 4, "a": "a b c", "b": "a b X"}
    assert shown[3]["a"] == "prompt_too_long"
    assert [shown[i]["changed"] for i in (8, 9)] == [["only in B"], ["only in A"]]


def test_vectors_scores_and_labels(told: Callable[..., tuple[int, Row]]) -> None:
    def of(index: int, **answer: Any) -> Row:
        return {"index": index, **answer, "usage": {"prompt_tokens": 2, "total_tokens": 2}, "error": None}

    a = [of(0, embedding=[1.0, 0.0]), of(1, embedding=[0.6, 0.8]), of(2, score=0.5), of(3, label="x", probs={"x": 0.6, "y": 0.4})]
    b = [of(0, embedding=[1.0, 0.0]), of(1, embedding=[0.8, 0.6]), of(2, score=0.625), of(3, label="y", probs={"y": 0.6, "x": 0.4})]
    code, found = told(a, b)
    assert code == 1
    assert found["changed"] == {"numbers": 2, "vectors": 1, "labels": 1}
    assert found["cosine"]["min"] == pytest.approx(0.96)
    assert found["cosine"]["count"] == 2
    assert found["numbers_apart"]["max"] == pytest.approx(0.2)
    assert told(a[:3], b[:3], "--tolerance", "0.25")[0] == 0
    base64_of = of(0, embedding="AACAPwAAAAA=")  # float32 1, 0
    assert told([a[0]], [base64_of])[1]["cosine"]["min"] == 1.0


def test_batch_lines_are_matched_by_their_place(told: Callable[..., tuple[int, Row]]) -> None:
    code, found = told([batch(0, "x"), batch(1, "y")], [batch(0, "x"), batch(1, "z")])
    assert (code, found["equal"], found["changed"]) == (1, 1, {"text": 1})


def test_the_table(call: Callable[..., Result], write_lines: Callable[..., Path]) -> None:
    result = call("diff", write_lines(row(0), row(1), name="a"), write_lines(row(0), row(1, "a b X"), name="b"))
    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()[:2]] == [["rows", "in", "both", "2"], ["equal", "1", "50.0%"]]
    assert "record 1: text, at character 4\n  A: 'a b c'\n  B: 'a b X'\n" in result.stdout


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"nope"], "line 1 of"),
        ([b"[1]"], "it is not a JSON object"),
        ([{"prompt": "x"}], 'it has neither "index" nor "error"'),
        ([row(1), row(0)], "has index 0 after 1"),
    ],
)
def test_trouble_is_2(call: Callable[..., Result], write_lines: Callable[..., Path], lines: list[Any], why: str) -> None:
    good = write_lines(row(0), row(1), name="a.jsonl")
    result = call("diff", good, write_lines(*lines, name="b.jsonl"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr
    assert call("diff", good, "missing.jsonl").exit_code == 2
    assert call("diff", "-", "-").exit_code == 2


def test_memory_is_flat(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        for name in "ab":
            (tmp_path / name).write_bytes(
                b"".join(json.dumps(row(i, f"text {i} {name if i % 2 else ''}")).encode() + b"\n" for i in range(count))
            )
        tracemalloc.start()
        compare(str(tmp_path / "a"), str(tmp_path / "b"), examples=3)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(4_000) < 1.3 * peak(1_500) + 100_000
