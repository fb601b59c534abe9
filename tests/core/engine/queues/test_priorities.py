"""Low values first: in starting, in their share of a step, and in keeping their blocks. No answer depends on it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.engine.blocks import BlockManager
from infer.core.engine.queues.priorities import PriorityQueues
from infer.core.engine.schedule import Schedule
from infer.core.engine.scheduler import Scheduler
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

from ... import stepping


def sequence(priority: int, tokens: list[int] | None = None, max_tokens: int = 16) -> Sequence:
    request = Request("r", tokens or [1], SamplingParams(max_tokens=max_tokens, ignore_eos=True), 0, priority=priority)
    return Sequence.of(request, 0, 0, 4096)


def emptied(queue: PriorityQueues) -> list[Sequence]:
    order, size = list(queue), len(queue)
    popped = []
    while queue:
        popped.append(queue.pop())
    assert set(order) == set(popped)
    assert len(popped) == size
    return popped


def test_the_lowest_goes_first_and_the_rest_is_as_it_was() -> None:
    queue = PriorityQueues(100)
    long, short = sequence(5, max_tokens=300), sequence(5, max_tokens=20)
    others = [sequence(-(2**70)), sequence(0), sequence(7)]
    for s in (others[2], short, long, others[1], others[0]):
        queue.add(s)
    assert emptied(queue) == [others[0], others[1], long, short, others[2]]


def test_what_is_put_back_goes_before_those_of_its_priority() -> None:
    queue = PriorityQueues(100)
    waiting = {priority: sequence(priority) for priority in (1, 2, 3)}
    for s in waiting.values():
        queue.add(s)
    back = [sequence(2), sequence(3), sequence(2)]
    queue.put_back(back)
    assert emptied(queue) == [waiting[1], back[0], back[2], waiting[2], back[1], waiting[3]]


@given(st.lists(st.tuples(st.sampled_from(["add", "pop", "back", "remove", "gather"]), st.integers(-2, 2)), max_size=60), st.integers(1, 4))
def test_nothing_is_lost_and_nobody_of_a_higher_value_goes_first(actions: list[tuple[str, int]], look_ahead: int) -> None:
    queue = PriorityQueues(look_ahead)
    inside: set[Sequence] = set()
    for action, priority in actions:
        if action == "add":
            inside.add(s := sequence(priority))
            queue.add(s)
        elif action == "back":
            inside.add(s := sequence(priority))
            queue.put_back([s])
        elif action == "pop" and queue:
            s = queue.pop()
            assert s.request.priority == min(other.request.priority for other in inside)
            inside.remove(s)
        elif action == "remove" and inside:
            s = min(inside, key=lambda s: (abs(s.request.priority - priority), id(s)))
            inside.remove(s)
            queue.remove(s.request)
        elif action == "gather":
            queue.gather()
        assert len(queue) == len(inside)
    assert set(emptied(queue)) == inside


def make(num_blocks: int = 1000, **kwargs: Any) -> Scheduler:
    kwargs = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "policy": "priority", **kwargs}
    return Scheduler(BlockManager(num_blocks + 1, 4, prefix_caching=False), **kwargs)


def add(scheduler: Scheduler, priority: int, length: int, max_tokens: int = 8) -> Sequence:
    made = sequence(priority, [3] * length, max_tokens)
    scheduler.add([made])
    return made


def step(scheduler: Scheduler) -> Schedule:
    schedule = stepping.step(scheduler)
    for sequences in (schedule.sequences, scheduler.running):
        order = [s.request.priority for s in sequences]
        assert order == sorted(order)
    return schedule


def test_an_urgent_one_overtakes_those_that_wait_and_has_its_tokens_first() -> None:
    scheduler = make(max_num_batched_tokens=20)
    slow = add(scheduler, 3, 50)
    assert step(scheduler).sequences == [slow]
    waiting, urgent = add(scheduler, 4, 10), add(scheduler, 1, 18)
    schedule = step(scheduler)
    assert schedule.sequences == [slow]  # it takes the whole step
    schedule = step(scheduler)
    assert (schedule.sequences, schedule.counts.tolist()) == ([urgent, slow], [10, 10])
    schedule = step(scheduler)
    assert (schedule.sequences, schedule.counts.tolist()) == ([urgent, slow, waiting], [8, 1, 10])


@pytest.mark.parametrize("policy", ["priority", "fcfs"])
def test_the_least_urgent_gives_its_blocks_back(policy: str) -> None:
    scheduler = make(num_blocks=9, look_ahead=1, policy=policy)
    low, high, middle = add(scheduler, 9, 8, 12), add(scheduler, 1, 8, 12), add(scheduler, 5, 8, 12)
    while not scheduler.num_preemptions:
        stepping.step(scheduler)
    assert list(scheduler.waiting) == [low if policy == "priority" else middle]
    assert scheduler.running.sequences == ([high, middle] if policy == "priority" else [low, high])
    while scheduler.has_work:
        stepping.step(scheduler)
    assert all(len(s.tokens) == 20 for s in (low, middle, high))


def test_priorities_change_no_answer(make_engine: Any) -> None:
    rng = random.Random(1)
    prompts = [[rng.randrange(3, 64) for _ in range(rng.randrange(1, 30))] for _ in range(20)]

    def answers(policy: str) -> tuple[list[Any], int]:
        engine = make_engine(num_blocks=14, max_num_seqs=6, max_num_batched_tokens=40, scheduling_policy=policy)
        for i, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=3 + i, n=1 + i % 3, temperature=0.9, ignore_eos=True)
            engine.add(Request(str(i), prompt, params, i, priority=i * 7 % 5))
        got = stepping.drain(engine)
        return [got[str(i)].outputs for i in range(len(prompts))], engine.stats.num_preemptions

    (plain, _), (sorted_, preempted) = answers("fcfs"), answers("priority")
    assert plain == sorted_
    assert preempted > 0
