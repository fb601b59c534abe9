"""Long outputs first, common prefixes together, and nobody is overtaken for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infer.core.engine.queues.waiting import WaitingQueue
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence


def sequence(tokens: list[int], max_tokens: int | None = 16, *, ignore_eos: bool = True, max_model_len: int = 4096) -> Sequence:
    request = Request("r", tokens, SamplingParams(max_tokens=max_tokens, ignore_eos=ignore_eos), 0)
    return Sequence.of(request, 0, 0, max_model_len)


def emptied(queue: WaitingQueue) -> list[Sequence]:
    order = list(queue)
    popped = []
    while queue:
        popped.append(queue.pop())
    assert set(order) == set(popped)
    return popped


def test_long_outputs_come_first_and_common_prefixes_together() -> None:
    queue = WaitingQueue(100)
    a, b = [1, 2, 3, 4], [5, 6, 7, 8]
    given = [sequence(a, 20), sequence(b, 40), sequence([*a, 9], 18), sequence([*b, 9], 17), sequence([*a, 9], 300), sequence(b, 19)]
    for s in given:
        queue.add(s)
    assert emptied(queue) == [given[i] for i in (4, 1, 0, 2, 5, 3)]


def test_nested_prefixes_stand_together_at_every_depth() -> None:
    queue = WaitingQueue(100)
    prompts = [[first, second, third] for third in (1, 300) for second in (2, 70_000) for first in (3, 256)]
    for prompt in prompts:
        queue.add(sequence(prompt))
    assert [s.tokens for s in emptied(queue)] == sorted(prompts)


def test_equal_ones_stay_in_order() -> None:
    queue = WaitingQueue(100)
    given = [sequence([1, 2]) for _ in range(5)]
    for s in given:
        queue.add(s)
    assert emptied(queue) == given


def test_an_output_that_may_end_early_is_not_expected_to_be_very_long() -> None:
    queue = WaitingQueue(100)
    open_end, short, exact = sequence([1], None, ignore_eos=False), sequence([2], 511), sequence([0], 3000)
    for s in (short, open_end, exact):
        queue.add(s)
    assert emptied(queue) == [exact, open_end, short]


def test_what_is_put_back_goes_first_in_its_order() -> None:
    queue = WaitingQueue(100)
    given = [sequence([i]) for i in range(6)]
    for s in given[:3]:
        queue.add(s)
    first = queue.pop()
    queue.put_back(given[3:5])
    queue.put_back([given[5], first])
    assert emptied(queue) == [given[5], given[0], given[3], given[4], given[1], given[2]]


def test_what_goes_on_with_a_record_goes_before_those_that_were_not_begun() -> None:
    queue = WaitingQueue(100)
    given = [sequence([i]) for i in range(5)]
    given[3].request.goes_on = given[4].request.goes_on = True
    for s in given:
        queue.add(s)
    assert emptied(queue) == [given[3], given[4], *given[:3]]


def test_look_ahead_of_one_is_first_come_first_served() -> None:
    queue = WaitingQueue(1)
    given = [sequence([9 - i], 16 << i) for i in range(6)]
    for s in given:
        queue.add(s)
    assert emptied(queue) == given


def test_gathered_generations_are_one() -> None:
    queue = WaitingQueue(2)
    given = [sequence([i], 16 << i) for i in range(6)]
    for s in given:
        queue.add(s)
    assert queue.pop() is given[1]
    queue.put_back([given[1]])
    queue.gather()
    assert emptied(queue) == [given[i] for i in (1, 5, 4, 3, 2, 0)]


def test_a_request_is_dropped_wherever_it_is() -> None:
    queue = WaitingQueue(2)
    given = [sequence([i]) for i in range(5)]
    for s in given:
        queue.add(s)
    queue.put_back([queue.pop()])  # one in front, one ordered, three arrived
    for s in (given[0], given[1], given[3]):
        queue.remove(s.request)
    assert emptied(queue) == [given[2], given[4]]


@given(actions=st.lists(st.integers(0, 3000), max_size=80), look_ahead=st.integers(1, 9))
def test_a_record_is_overtaken_by_fewer_than_look_ahead_later_ones(actions: list[int], look_ahead: int) -> None:
    queue = WaitingQueue(look_ahead)
    arrived: list[Sequence] = []
    popped: list[Sequence] = []
    for action in actions:
        if action % 3:
            arrived.append(sequence([action % 7], 1 + action))
            queue.add(arrived[-1])
        elif queue:
            popped.append(queue.pop())
    popped += emptied(queue)
    place = {s: i for i, s in enumerate(arrived)}
    for i, s in enumerate(popped):
        assert sum(place[other] > place[s] for other in popped[:i]) < look_ahead
