"""Texts that go into a step: the oldest and those like it, each once."""

from __future__ import annotations

import random

from infer.core.pooling.setting import Setting
from infer.core.pooling.window import Waiting, Window
from infer.core.types.pooling_request import TextIds

PLAIN = Setting("embed", 4, True)
SHORT = Setting("embed", 2, True)


def text(length: int, first: int = 0) -> TextIds:
    return TextIds((first, *range(1, length)))


def fill(lengths: list[int], setting: Setting = PLAIN) -> Window[int]:
    """A window of texts whose taker is their number."""
    window: Window[int] = Window()
    for number, length in enumerate(lengths):
        window.add(text(length, 1000 + number), setting, number)
    return window


def numbers(taken: list[Waiting[int]]) -> list[int]:
    return [taker for waiting in taken for taker in waiting.takers]


def test_the_oldest_then_the_nearest_in_length() -> None:
    window = fill([10, 50, 11, 9, 10, 3, 12])
    assert numbers(window.take(41, 99)) == [0, 4, 3, 2]
    assert len(window) == 3
    assert numbers(window.take(60, 99)) == [1, 5]  # 12 are nearer to 50, but do not fit
    assert numbers(window.take(60, 99)) == [6]
    assert len(window) == 0
    assert window.take(60, 99) == []


def test_what_does_not_fit_leaves_room_for_shorter_ones() -> None:
    window = fill([8, 8, 7, 5, 4, 2])
    assert numbers(window.take(14, 99)) == [0, 3]
    assert numbers(window.take(14, 99)) == [1, 4, 5]
    assert numbers(window.take(14, 99)) == [2]


def test_a_text_longer_than_the_budget_goes_alone() -> None:
    window = fill([100, 1, 100])
    assert numbers(window.take(16, 99)) == [0]
    assert numbers(window.take(16, 99)) == [1]
    assert numbers(window.take(16, 99)) == [2]


def test_no_more_texts_than_allowed() -> None:
    window = fill([4, 4, 4, 5, 3])
    assert numbers(window.take(100, 2)) == [0, 1]
    assert numbers(window.take(100, 2)) == [2, 4]
    assert numbers(window.take(100, 2)) == [3]


def test_a_step_is_of_one_setting_and_the_oldest_decides() -> None:
    window: Window[int] = Window()
    for number in range(6):
        window.add(text(5, number), PLAIN if number % 2 else SHORT, number)
    first, second = window.take(100, 99), window.take(100, 99)
    assert (numbers(first), {w.setting for w in first}) == ([0, 2, 4], {SHORT})
    assert (numbers(second), {w.setting for w in second}) == ([1, 3, 5], {PLAIN})


def test_the_same_text_waits_once() -> None:
    window: Window[int] = Window()
    same = [TextIds((1, 2)), TextIds((1, 2)), TextIds((1, 2), (0, 1)), TextIds((1, 2), skip=1), TextIds((1, 2))]
    for number, one in enumerate(same):
        window.add(one, PLAIN, number)
    window.add(TextIds((1, 2)), SHORT, 5)
    assert len(window) == 4
    assert [w.takers for w in window.take(100, 99)] == [[0, 1, 4], [2], [3]]
    window.add(TextIds((1, 2)), PLAIN, 6)  # it no longer waits, so it is another
    assert [w.takers for w in window.take(100, 99)] == [[5]]
    assert [w.takers for w in window.take(100, 99)] == [[6]]


def test_who_goes_takes_his_text_along_if_nobody_else_wants_it() -> None:
    window: Window[int] = Window()
    texts = [text(3), text(4), text(3), text(5)]
    for number, one in enumerate(texts):
        window.add(one, PLAIN, number)
    window.drop(texts[0], PLAIN, 0)
    assert len(window) == 3
    window.drop(texts[1], PLAIN, 1)
    window.drop(texts[3], PLAIN, 3)
    assert len(window) == 1
    window.add(text(4), PLAIN, 4)  # like one that went
    assert numbers(window.take(100, 99)) == [2, 4]
    assert len(window) == 0


def test_other_texts_with_the_same_hash() -> None:
    first, second, third = TextIds((-1,)), TextIds((-2,)), TextIds((-2, 5))  # to Python -1 and -2 are the same
    assert hash(first) == hash(second) != hash(third)
    window: Window[int] = Window()
    for number, one in enumerate([first, second, first, second, third]):
        window.add(one, PLAIN, number)
    assert len(window) == 4, "the second is not found"
    window.drop(second, PLAIN, 3)
    assert sorted(numbers(window.take(1, 99))) == [0, 2]
    assert numbers(window.take(1, 99)) == [1]
    assert numbers(window.take(2, 99)) == [4]


def test_each_text_is_taken_once_and_none_waits_for_ever() -> None:
    rng = random.Random(0)
    for _ in range(200):
        window: Window[int] = Window()
        budget, most, known, steps_of_first = rng.choice([16, 64]), rng.choice([3, 99]), {}, 0
        taken: list[int] = []
        gone: set[int] = set()
        for number in range(60):
            known[number] = text(rng.randint(1, 40), number), rng.choice([PLAIN, SHORT])
            window.add(*known[number], number)
            if rng.random() < 0.2:
                dropped = rng.choice([n for n in known if n not in taken and n not in gone])
                window.drop(*known[dropped], dropped)
                gone.add(dropped)
            if rng.random() < 0.3:
                waiting = sorted(set(known) - set(taken) - gone)
                got = window.take(budget, most)
                assert numbers(got)[:1] == waiting[:1], "the oldest goes first"
                lengths = [len(w.text.ids) for w in got]
                assert len(got) <= most
                assert sum(lengths) <= budget or len(got) == 1
                taken += numbers(got)
                steps_of_first += 1
        while got := window.take(budget, most):
            taken += numbers(got)
        assert len(window) == 0
        assert sorted(taken) == sorted(set(known) - gone)
