"""The desk between calls and engine, with an engine that costs nothing: who gets which answer, what is left behind."""

from __future__ import annotations

import pytest

from infer.core.errors import RecordError
from infer.core.intake.generating import Asked, Desk
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
def desk(engine: Engine) -> Desk:
    return Desk(engine, Bytes())  # type: ignore[arg-type]


def hand_in(desk: Desk, *asked: Asked) -> list[str]:
    desk.number(asked)
    desk.tokenize(asked)
    for one in asked:
        desk.hand_in(one)
    return [one.request_id for one in asked if one.error is None]


def wait_for(desk: Desk, *request_ids: str) -> list[str]:
    """The requests answered, in the order in which they were."""
    waiting, got = set(request_ids), []
    while waiting:
        got += [output.request_id for output in desk.pick_up(waiting)]
        waiting -= set(got)
    return got


def test_each_gets_its_own_whoever_turns_the_crank(desk: Desk, engine: Engine) -> None:
    first, second = (hand_in(desk, Asked(text, None, PARAMS), Asked(text, None, PARAMS)) for text in ("a", "b"))
    assert wait_for(desk, *first) == first[::-1]
    assert not engine.open  # the others were answered on the way
    assert wait_for(desk, *second) == second[::-1]


def test_waiting_for_what_nobody_computes_is_our_mistake(desk: Desk) -> None:
    with pytest.raises(AssertionError):
        desk.pick_up({"5"})


def test_what_is_dropped_is_gone(desk: Desk, engine: Engine) -> None:
    ids = hand_in(desk, *(Asked("a", None, PARAMS) for _ in range(3)))
    assert wait_for(desk, ids[2], ids[1]) == [ids[2], ids[1]]
    hand_in(desk, Asked("a", None, PARAMS))
    desk.drop([*ids, "77"])
    assert engine.aborted == [ids[0]]
    assert list(engine.open) == ["3"]


def test_a_finished_answer_that_is_dropped_is_not_kept(desk: Desk) -> None:
    first, second = (hand_in(desk, Asked("a", None, PARAMS))[0] for _ in range(2))
    assert wait_for(desk, first) == [first]  # and `second` on the way
    desk.drop([second])
    (third,) = hand_in(desk, Asked("a", None, PARAMS))
    assert [output.request_id for output in desk.pick_up({second, third})] == [third]
    with pytest.raises(AssertionError):
        desk.pick_up({second})


def test_bad_ones_keep_their_number_and_their_place(desk: Desk) -> None:
    asked = [Asked("a", None, PARAMS), Asked("b?", None, PARAMS), Asked("a" * 9, None, PARAMS), Asked("b", None, PARAMS)]
    assert hand_in(desk, *asked) == ["0", "3"]
    assert [one.error and one.error.code for one in asked[:3]] == [None, "invalid_encoding", "prompt_too_long"]
    failed = asked[2].failed()
    assert (failed.request_id, failed.prompt, failed.outputs, failed.finished) == ("2", "a" * 9, [], True)


def test_special_tokens_and_truncation(desk: Desk) -> None:
    cut = SamplingParams(truncate_prompt_tokens=2)
    full = SamplingParams(truncate_prompt_tokens=-1, truncation_side="right")
    asked = [
        Asked("ab", None, PARAMS),
        Asked("ab", None, PARAMS, add_special_tokens=False),
        Asked("abcd", None, cut),
        Asked("abcdefgh", None, full),
        Asked(None, [1, 2, 3], cut),
        Asked("shown", [1], PARAMS),
    ]
    hand_in(desk, *asked)
    assert [one.ids for one in asked] == [[256, 97, 98], [97, 98], [99, 100], [256, 97, 98, 99, 100], [2, 3], [1]]


def test_without_a_tokenizer(engine: Engine) -> None:
    desk = Desk(engine, None)
    asked = [Asked(None, [1], PARAMS), Asked("a", None, PARAMS), Asked("shown", [1], PARAMS)]
    assert hand_in(desk, *asked) == ["0", "2"]
    assert [one.error and (one.error.code, one.error.param) for one in asked] == [None, ("unsupported", "prompt"), None]
