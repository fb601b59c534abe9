"""Calls that share an engine that costs nothing: who gets which answer, what is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infer.core.api.drafts import Written
from infer.core.api.shared import SharedEngine
from infer.core.errors import RecordError
from infer.core.intake.prompts import PromptIntake
from infer.core.intake.remarks import Remarks
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

PARAMS = SamplingParams()


class Engine:
    """Answers one request a step, the last first."""

    max_model_len = 6

    def __init__(self) -> None:
        self.open: dict[str, Request] = {}
        self.aborted: list[str] = []

    @property
    def num_unfinished(self) -> int:
        return len(self.open)

    def add(self, request: Request) -> None:
        if len(request.prompt_token_ids) >= self.max_model_len:
            raise RecordError("prompt_too_long", "too long", param="prompt")
        self.open[request.request_id] = request

    def abort(self, request_id: str) -> None:
        del self.open[request_id]
        self.aborted.append(request_id)

    def is_open(self, request_id: str) -> bool:
        return request_id in self.open

    def expect_more(self, more: bool) -> None:
        pass

    def step(self) -> list[RequestOutput]:
        request_id, request = self.open.popitem()
        return [RequestOutput(request_id, request.prompt, request.prompt_token_ids)]


class Bytes:
    """Token i is byte i, after a 256; refuses text with a question mark, as the real one refuses what is no text."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if "?" in text:
            raise RecordError("invalid_encoding", "a question mark")
        return [256] * add_special_tokens + list(text.encode())

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def shared(engine: Engine) -> SharedEngine:
    return SharedEngine(engine)  # type: ignore[arg-type]


INTAKE = PromptIntake(Bytes(), 6, Remarks(None, lambda message: None))  # type: ignore[arg-type]


def call(shared: SharedEngine, *prompts: Any, raising: bool = False) -> Iterator[RequestOutput]:
    return shared.outputs([Written.of(prompt, PARAMS) for prompt in prompts], INTAKE, raising=raising)


def ids(outputs: Iterator[RequestOutput]) -> list[str]:
    return [output.request_id for output in outputs]


def test_each_gets_its_own_whoever_makes_the_steps(shared: SharedEngine, engine: Engine) -> None:
    first, second = call(shared, "a", "a", "a"), call(shared, "b", "b")
    assert next(first).request_id == "2"  # the last first
    assert ids(second) == ["4", "3"]
    assert next(first).request_id == "1"
    third = call(shared, "c")
    assert ids(first) == ["0"]
    assert ids(third) == ["5"]
    assert not engine.open


def test_answers_wait_for_their_call(shared: SharedEngine, engine: Engine) -> None:
    first, second = call(shared, "a", "a"), call(shared, "b", "b")
    assert [next(first).request_id, next(second).request_id] == ["1", "3"]
    assert next(first).request_id == "0"  # answered after the other call's, which is kept
    assert not engine.open
    assert ids(second) == ["2"]


def test_waiting_for_what_nobody_computes_is_our_mistake(shared: SharedEngine, engine: Engine) -> None:
    first = call(shared, "a", "a")
    next(first)
    engine.open.clear()
    with pytest.raises(AssertionError):
        next(first)


def test_what_is_dropped_is_gone(shared: SharedEngine, engine: Engine) -> None:
    first, second = call(shared, "a", "a"), call(shared, "b", "b", "b")
    next(first)
    next(second)
    first.close()  # type: ignore[attr-defined]
    assert engine.aborted == ["0"]
    assert list(engine.open) == ["2", "3"]
    assert ids(second) == ["3", "2"]


def test_a_finished_answer_that_is_dropped_is_not_kept(shared: SharedEngine, engine: Engine) -> None:
    first, second = call(shared, "a", "a"), call(shared, "b", "b")
    assert [next(first).request_id, next(second).request_id] == ["1", "3"]
    assert next(first).request_id == "0"  # and "2" on the way
    second.close()  # type: ignore[attr-defined]
    assert shared._answers == {}
    assert shared._expected == set()
    assert not engine.aborted


def test_bad_ones_keep_their_number_and_their_place(shared: SharedEngine, engine: Engine) -> None:
    outputs = list(call(shared, "a", "b?", "a" * 9, "b"))
    assert ids(iter(outputs)) == ["1", "2", "3", "0"]
    assert [output.error and output.error.code for output in outputs] == ["invalid_encoding", "prompt_too_long", None, None]
    failed = outputs[1]
    assert (failed.prompt, failed.outputs, failed.finished) == ("a" * 9, [], True)
    with pytest.raises(RecordError, match="a question mark"):
        list(call(shared, "a", "b?", "a" * 9, raising=True))
    assert not engine.open


def test_prompts_are_read_as_they_are_needed(shared: SharedEngine, engine: Engine) -> None:
    taken = []

    def drafts() -> Iterator[Written]:
        for number in range(5):
            taken.append(number)
            yield Written.of("a", PARAMS)

    outputs = shared.outputs(drafts(), INTAKE, look_ahead=2, raising=True)
    assert taken == []
    assert next(outputs).request_id == "1"
    assert taken == [0, 1]
    assert ids(outputs) == ["2", "3", "4", "0"]
