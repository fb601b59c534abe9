"""Whatever goes into a step, each request gets what it would get alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.pooling.engine import PoolingEngine
from infer.core.pooling.recipe import DenseSpec
from infer.core.types.pooling_request import Pooled, PoolingRequest, TextIds

#: Tokens of the model of conftest.py that make it give NaN and infinity.
NAN, INFINITE = 7, 8
DENSE = (DenseSpec("2_Dense", 24, 13, True, "tanh"),)


def drain(engine: PoolingEngine) -> list[Pooled]:
    answers = []
    while engine.num_unfinished:
        answers += engine.step()
    assert engine.num_waiting == 0
    assert engine.step() == []
    return answers


def contents(answer: Pooled) -> tuple[Any, ...]:
    error = None if answer.error is None else answer.error.to_json()
    return [value.tobytes() for value in answer.values], [value.shape for value in answer.values], answer.num_tokens, error


def requests(ask: Callable[..., PoolingRequest], count: int, seed: int = 0) -> list[PoolingRequest]:
    """All sorts of them; some of their texts are the same, and some are not finite."""
    rng = random.Random(seed)

    def text() -> TextIds:
        ids = tuple(rng.randint(9, 12) for _ in range(rng.choice([1, 1, 2, 5, 17, 40, 64])))
        ids = (*ids[1:], rng.choice([NAN, INFINITE])) if rng.random() < 0.1 else ids
        types = tuple(i % 2 for i in range(len(ids))) if rng.random() < 0.2 else ()
        return TextIds(ids, types, rng.choice([0, 0, 0, 2]))

    made = []
    for number in range(count):
        params = rng.choice([{}, {}, {"dimensions": 5}, {"use_activation": False}])
        kind = rng.choice(["embed", "embed", "embed", "token_embed"])
        made.append(ask(f"r{number}", *(text() for _ in range(rng.choice([1, 1, 1, 3]))), kind=kind, **params))
    return made


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_neighbours_order_and_budget_do_not_matter(make: Any, ask: Any, pooling: str) -> None:
    fields = {"pooling": pooling, "dense": DENSE, "matryoshka": True}
    asked = requests(ask, 60)
    alone = {}
    for one in asked:
        engine, _ = make(64, **fields)
        engine.add(one)
        alone.update({answer.request_id: contents(answer) for answer in drain(engine)})
    assert any(answer[3] for answer in alone.values()), "some fail"
    for budget, most in ((16, 16), (64, 2), (64, 64), (256, 256), (4096, 256)):
        engine, model = make(budget, most, **fields)
        answers = []
        for number, one in enumerate(random.Random(budget).sample(asked, len(asked))):
            engine.add(one)
            if number % 20 == 19:
                answers += engine.step()
        answers += drain(engine)
        assert {answer.request_id: contents(answer) for answer in answers} == alone
        assert all(len(step) <= most for step in model.steps)
        assert all(sum(step) <= budget or len(step) == 1 for step in model.steps)


def test_steps_are_full_and_of_like_lengths(make: Any, ask: Any) -> None:
    engine, model = make(64)
    for number in range(32):
        engine.add(ask(str(number), [10 + number] * (4 if number % 2 else 16)))
    drain(engine)
    assert [set(step) for step in model.steps] == [{16}] + [{4}] + [{16}] * 3
    assert all(sum(step) == 64 for step in model.steps)


def test_answers_come_in_the_order_of_their_requests(make: Any, ask: Any) -> None:
    engine, _ = make(64)
    for number in range(6):
        engine.add(ask(str(number), [9 + number] * (3 - number % 3)))
    assert [answer.request_id for answer in engine.step()] == list("012345")


def test_a_request_is_answered_when_all_its_texts_are(make: Any, ask: Any) -> None:
    engine, _ = make(64)
    texts = [[10] * 40, [11] * 3, [12] * 39, [13] * 38]
    engine.add(ask("long", *texts))
    engine.add(ask("short", [11] * 3))
    assert engine.num_unfinished == 2
    assert engine.num_waiting == 4
    seen = [[answer.request_id for answer in engine.step()] for _ in range(3)]
    assert seen == [["short"], [], ["long"]]
    engine.add(ask("again", *texts))
    (answer,) = drain(engine)
    assert len(answer.values) == 4
    assert answer.num_tokens == 120
    assert len({value.tobytes() for value in answer.values}) == 4
    for text, value in zip(texts, answer.values, strict=True):
        engine.add(ask("one", text))
        assert drain(engine)[0].values[0].tobytes() == value.tobytes()


def test_the_same_texts_are_computed_once_and_answered_to_all(make: Any, ask: Any) -> None:
    engine, model = make(64)
    for number in range(10):
        engine.add(ask(str(number), [20] * 5, [21 + number % 2] * 3))
    assert engine.num_waiting == 3
    answers = drain(engine)
    assert sorted(model.steps[0]) == [3, 3, 5]
    assert len(model.steps) == 1
    assert [answer.request_id for answer in answers] == [str(number) for number in range(10)]
    assert len({answer.values[0].tobytes() for answer in answers}) == 1
    assert len({answer.values[1].tobytes() for answer in answers}) == 2
    answers[0].values[0][:] = 0
    assert answers[1].values[0].any(), "what one does with his does not show in another's"
    stats = engine.stats
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_steps) == (80, 80 - 11, 1)
    assert stats.first_token_at is not None


def test_texts_that_only_look_the_same(make: Any, ask: Any) -> None:
    """Of another kind, with other parameters, other types or another prompt: each is computed for itself."""
    engine, model = make(64, normalize=True, matryoshka=True)
    ids = (20, 21, 22)
    asked = [
        ask("a", ids),
        ask("b", ids, dimensions=4),
        ask("c", ids, use_activation=False),
        ask("d", TextIds(ids, (0, 1, 1))),
        ask("e", TextIds(ids, skip=1)),
        ask("f", ids, kind="token_embed"),
        ask("g", ids, use_activation=True),  # as the model does anyway
        ask("h", ids, dimensions=24),
    ]
    for one in asked:
        engine.add(one)
    answers = drain(engine)
    assert sum(map(len, model.steps)) == 6
    assert engine.stats.num_cached_tokens == 2 * len(ids)
    assert len({answer.values[0].tobytes() for answer in answers}) == 6


def test_what_is_not_finite_fails_alone(make: Any, ask: Any) -> None:
    engine, _ = make(64, pooling="mean")
    engine.add(ask("good", [10] * 5))
    engine.add(ask("bad", [10, NAN, 10]))
    engine.add(ask("infinite", [INFINITE, 10]))
    engine.add(ask("half", [10] * 5, [11, NAN], [12, INFINITE], [13] * 60))
    engine.add(ask("same", [11, NAN], [14]))
    engine.add(ask("last", [15] * 5))
    answers = {answer.request_id: answer for answer in drain(engine)}
    assert {name for name, answer in answers.items() if answer.error} == {"bad", "infinite", "half", "same"}
    assert all(answer.error is None or (answer.error.code == "non_finite_logits" and not answer.values) for answer in answers.values())
    assert "for the text" in str(answers["bad"].error)
    assert "for text 2 of 4" in str(answers["half"].error), "the first, whichever was computed first"
    assert "for text 1 of 2" in str(answers["same"].error)
    alone, _ = make(64)
    for name, text in (("good", [10] * 5), ("last", [15] * 5)):
        alone.add(ask(name, text))
        assert contents(drain(alone)[0]) == contents(answers[name])


def test_nan_of_tokens_that_nobody_wants(make: Any, ask: Any) -> None:
    engine, _ = make(64, pooling="cls")
    engine.add(ask("a", [10, NAN, 10]))  # its NaN is at the last token
    engine.add(ask("b", [10, NAN, 10], kind="token_embed"))
    assert [answer.error is None for answer in drain(engine)] == [True, False]


def test_abort(make: Any, ask: Any) -> None:
    engine, model = make(64)
    engine.add(ask("a", [10] * 60, [11] * 60, [12] * 5))
    engine.add(ask("b", [11] * 60))
    engine.add(ask("c", [13] * 5, [13] * 5))
    assert engine.is_open("a")
    assert engine.step() == []  # one text of a
    engine.abort("a")
    engine.abort("c")
    assert not engine.is_open("a")
    assert (engine.num_unfinished, engine.num_waiting) == (1, 1)
    assert [answer.request_id for answer in drain(engine)] == ["b"]
    assert model.steps == [[60], [60]]
    engine.add(ask("a", [14] * 5))  # the name is free again
    assert [answer.request_id for answer in drain(engine)] == ["a"]
    with pytest.raises(KeyError):
        engine.abort("a")


def test_a_text_longer_than_a_step(make: Any, ask: Any) -> None:
    engine, model = make(16)
    engine.add(ask("a", [10] * 64))
    engine.add(ask("b", [10] * 4))
    assert len(drain(engine)) == 2
    assert model.steps == [[64], [4]]


@pytest.mark.parametrize(
    ("texts", "fields", "code", "said"),
    [
        ([], {}, "invalid_value", "no text"),
        ([()], {}, "invalid_value", "the text is empty"),
        ([(1, 2), ()], {}, "invalid_value", "text 2 of 2 is empty"),
        ([(1, 100)], {}, "invalid_value", "token id 100.*vocabulary of 100"),
        ([(1, -1)], {}, "invalid_value", "token id -1"),
        ([(1,) * 65], {}, "prompt_too_long", "65 tokens.*64.*--truncate"),
        ([TextIds((1, 2), (0, 2))], {}, "invalid_value", "token types must be 0 to 1"),
        ([(1,)], {"kind": "classify"}, "unsupported", "no classifier"),
        ([(1,)], {"dimensions": 5}, "invalid_value", "dimensions 5"),
        ([(1,)], {"step_tag_id": 5}, "unsupported", "step_tag_id"),
        ([(1,)], {"returned_token_ids": [5]}, "unsupported", "returned_token_ids"),
    ],
)
def test_what_can_never_be_answered_is_refused(make: Any, ask: Any, texts: Any, fields: Any, code: str, said: str) -> None:
    engine, _ = make(64)
    with pytest.raises(RecordError, match=said) as caught:
        engine.add(ask("a", *texts, **fields))
    assert caught.value.code == code
    assert (engine.num_unfinished, engine.num_waiting) == (0, 0)
    engine.add(ask("a", (1,) * 64))
    assert drain(engine)[0].error is None


@pytest.mark.parametrize(("lengths", "good", "bad"), [(True, [1, 23, 24], [25]), ((4, 8), [4, 8, 24], [5, 25]), (False, [24], [23, 25])])
def test_matryoshka_lengths(make: Any, ask: Any, lengths: Any, good: list[int], bad: list[int]) -> None:
    engine, _ = make(64, matryoshka=lengths)
    for size in good:
        engine.add(ask("a", (1, 2), dimensions=size))
        assert drain(engine)[0].values[0].shape == (size,)
    for size in bad:
        with pytest.raises(RecordError, match="dimensions") as caught:
            engine.add(ask("a", (1, 2), dimensions=size))
        assert (caught.value.code, caught.value.param) == ("invalid_value", "dimensions")


def test_a_classifier_gives_scores_and_nothing_else(make: Any, ask: Any) -> None:
    engine, _ = make(64, labels=3)
    for kind in ("embed", "token_embed"):
        with pytest.raises(RecordError, match="no embeddings") as caught:
            engine.add(ask("a", (1, 2), kind=kind))
        assert caught.value.code == "unsupported"
    with pytest.raises(RecordError, match="dimensions"):
        engine.add(ask("a", (1, 2), kind="classify", dimensions=3))
    engine.add(ask("a", (1, 2), kind="classify"))
    assert drain(engine)[0].values[0].shape == (3,)


def test_types_are_left_out_where_the_model_has_none(make: Any, ask: Any) -> None:
    engine, model = make(64)
    engine._num_types = model.num_token_types = 1
    engine.add(ask("a", TextIds((10, 11), (0, 3))))
    engine.add(ask("b", (10, 11)))
    a, b = drain(engine)
    assert a.values[0].tobytes() == b.values[0].tobytes()


def test_the_next_step_is_begun_before_the_last_is_finished(make: Any, ask: Any) -> None:
    """As on a GPU: the same answers, one step later; those dropped meanwhile are dropped."""
    asked = requests(ask, 60)
    found = []
    for overlaps in (False, True):
        engine, model = make(64, dense=DENSE, matryoshka=True)
        engine._overlaps = overlaps
        for one in asked:
            engine.add(one)
        found.append({answer.request_id: contents(answer) for answer in drain(engine)})
        assert engine._begun is None
    assert found[0] == found[1]
    assert len(found[0]) == 60

    engine, model = make(64)
    engine._overlaps = True
    engine.add(ask("a", [10] * 60, [11] * 60, [12] * 60))
    engine.add(ask("b", [11] * 60))
    assert engine.step() == []
    assert model.steps == [[60], [60]], "the second was begun"
    engine.abort("a")
    engine.add(ask("a", [14] * 5))
    first, second = drain(engine)
    assert (first.request_id, second.request_id) == ("b", "a")
    assert second.num_tokens == 5
    assert model.steps == [[60], [60], [5]]
