"""Preempted sequences go on from CPU memory or are computed again; either way they say what they would have said alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.engine import overlap
from infer.core.engine.blocks import BlockManager
from infer.core.engine.engine import Engine
from infer.core.engine.scheduler import Scheduler
from infer.core.memory.swap import BYTES_PER_SECOND, SECONDS_PER_TOKEN, SwapCosts, SwapSpace
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

from ..stepping import drain, step

SIZE = 4


def sequence(prompt: list[int], max_tokens: int = 8, request_id: str = "r") -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return Sequence.of(Request(request_id, prompt, params, 0), 0, 0, 10_000)


def make(num_blocks: int, swap_blocks: int, mode: str | None = "swap", **kwargs: Any) -> Scheduler:
    swap = SwapSpace(swap_blocks, SIZE, SwapCosts(1 << 20), mode)
    kwargs = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "look_ahead": 1, **kwargs}
    caching = kwargs.pop("caching", True)
    return Scheduler(BlockManager(num_blocks + 1, SIZE, prefix_caching=caching), swap=swap, **kwargs)


# -- what it costs -------------------------------------------------------------------------------------------------
class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_supposed_before_anything_is_measured() -> None:
    costs = SwapCosts(1000)
    assert costs.of_computing(30) == pytest.approx(30 * SECONDS_PER_TOKEN)
    assert costs.of_copying(3) == pytest.approx(2 * 3000 / BYTES_PER_SECOND)


def test_measurements_replace_what_was_supposed() -> None:
    clock = Clock()
    costs = SwapCosts(1000, clock=clock)
    for _ in range(3):
        began = clock.now
        clock.now += 2.0
        costs.computed(500, began)
    costs.copied(4000, 1.0)
    assert costs.of_computing(100) == pytest.approx(100 * 2.0 / 500)
    assert costs.of_copying(2) == pytest.approx(2 * 2 * 1000 / 4000)
    for _ in range(60):
        costs.copied(4000, 3.0)
    assert costs.of_copying(2) == pytest.approx(3 * 2 * 2 * 1000 / 4000, rel=0.01)


def test_steps_of_few_tokens_tell_nothing_of_prompts() -> None:
    clock = Clock()
    costs = SwapCosts(1000, clock=clock)
    clock.now += 5
    costs.computed(8, 100.0)
    assert costs.of_computing(1) == SECONDS_PER_TOKEN


def test_a_step_that_was_scheduled_early_takes_its_time_from_the_one_before() -> None:
    clock = Clock()
    costs = SwapCosts(1000, clock=clock)
    clock.now = 103.0
    costs.computed(100, 100.0)  # 3 s
    clock.now = 104.0
    costs.computed(100, 100.5)  # scheduled while the other ran: 1 s
    assert costs.of_computing(100) == pytest.approx((0.9 * 3 + 1) / (0.9 + 1))


@pytest.mark.parametrize(
    ("mode", "seconds_per_token", "kept", "suits"),
    [
        (None, 1.0, 0, True),
        (None, 1e-9, 0, False),
        (None, 1.0, 40, False),  # nothing would be computed again
        ("swap", 1e-9, 40, True),
        ("recompute", 1.0, 0, False),
    ],
)
def test_what_takes_less_time_is_done(mode: str | None, seconds_per_token: float, kept: int, suits: bool) -> None:
    clock = Clock()
    costs = SwapCosts(1000, clock=clock)
    clock.now += 100 * seconds_per_token
    costs.computed(100, 100.0)
    costs.copied(1000, 0.001)
    s = sequence([3] * 40)
    s.num_computed = 40
    assert SwapSpace(10, SIZE, costs, mode).suits(s, kept) is suits
    assert not SwapSpace(9, SIZE, costs, mode).suits(s, kept)  # ten blocks would not fit
    s.num_computed = 0
    assert not SwapSpace(10, SIZE, costs, mode).suits(s, 0)


# -- the schedule --------------------------------------------------------------------------------------------------
def run(swap_blocks: int, mode: str | None) -> tuple[Scheduler, int]:
    """Four sequences that outgrow the blocks; returns how many tokens were computed."""
    scheduler = make(20, swap_blocks, mode, caching=False)
    for i in range(4):
        scheduler.add([sequence([10 + i] * 12, max_tokens=30)])
    total = 0
    while scheduler.has_work:
        total += int(step(scheduler).counts.sum())
    assert scheduler.blocks.num_free == scheduler.blocks.num_usable
    assert scheduler.num_preemptions > 0
    assert scheduler.swap is not None
    scheduler.swap.hand_over()
    assert scheduler.swap.num_free == swap_blocks
    return scheduler, total


def test_what_was_swapped_is_not_computed_again() -> None:
    least = 4 * (12 + 29)
    swapped, total = run(100, "swap")
    assert total == least
    assert swapped.swap is not None
    assert swapped.swap.num_swapped == swapped.num_preemptions
    recomputed, total = run(100, "recompute")
    assert total > least
    assert recomputed.swap is not None
    assert recomputed.swap.num_swapped == 0


def test_without_cpu_blocks_enough_all_is_computed_again() -> None:
    for blocks in (0, 2):
        scheduler, total = run(blocks, "swap")
        assert scheduler.swap is not None
        assert scheduler.swap.num_swapped == 0
        assert total > 4 * (12 + 29)


def test_the_copies_name_the_blocks_that_held_and_that_hold_the_tokens() -> None:
    scheduler = make(10, 10, caching=False)
    a, b = sequence([1] * 12, max_tokens=12), sequence([2] * 13, max_tokens=12)
    scheduler.add([a])
    scheduler.add([b])
    step(scheduler)
    held: list[int] = []
    while b in scheduler.running.sequences:
        held, computed = list(b.blocks), b.num_computed
        schedule = step(scheduler)
        assert (schedule.swap_out == []) == (b in scheduler.running.sequences)
    assert schedule.swap_out == [(block, i) for i, block in enumerate(held[: -(-computed // SIZE)])]
    assert schedule.swap_in == []
    scheduler.add([sequence([9] * 4, max_tokens=1)])
    while b not in scheduler.running.sequences:
        schedule = scheduler.schedule()
        assert schedule.admitted[:1] in ([], [b])  # the one that came later does not overtake it
        if schedule.admitted:
            break
        scheduler.commit(schedule, [7] * int(schedule.samples.sum()))
        scheduler.finish([s for s in schedule.sequences if len(s.tokens) >= s.max_length])
    assert b.num_computed == computed
    assert schedule.swap_in == [(i, block) for i, block in enumerate(b.blocks[: -(-computed // SIZE)])]
    assert schedule.counts[schedule.sequences.index(b)] == 1


def test_what_is_still_on_the_device_is_not_brought_back() -> None:
    scheduler = make(12, 12)
    prefix = [5] * 8
    a = sequence([*prefix, 1, 1, 1], max_tokens=30, request_id="a")
    b = sequence([*prefix, 2, 2, 2], max_tokens=20, request_id="b")
    scheduler.add([a])
    step(scheduler)
    scheduler.add([b])
    step(scheduler)
    assert b.blocks[:2] == a.blocks[:2]
    while b in scheduler.running.sequences:
        schedule = step(scheduler)
    assert schedule.swap_out
    scheduler.abort(a.request)
    schedule = step(scheduler)
    assert schedule.admitted == [b]
    stored, brought = -(-(b.num_computed - 1) // SIZE), len(schedule.swap_in)
    assert 0 < brought <= stored - 2
    assert schedule.swap_in == list(zip(range(stored - brought, stored), b.blocks[stored - brought :], strict=False))


@pytest.mark.parametrize("end", ["abort", "finish"])
def test_the_blocks_of_one_that_goes_are_free_again(end: str) -> None:
    scheduler = make(8, 8, caching=False)
    a, b = sequence([1] * 12, max_tokens=12, request_id="a"), sequence([2] * 12, max_tokens=12, request_id="b")
    scheduler.add([a])
    scheduler.add([b])
    while not step(scheduler).swap_out:
        pass
    assert scheduler.swap is not None
    assert scheduler.swap.num_free < 8
    if end == "abort":
        scheduler.abort(b.request)
        scheduler.check_integrity()
    while scheduler.has_work:
        step(scheduler)
    scheduler.swap.hand_over()
    assert scheduler.swap.num_free == 8


# -- the books -----------------------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 25), st.integers(3, 5)), min_size=2, max_size=12),
    num_blocks=st.integers(14, 30),
    swap_blocks=st.integers(0, 40),
    aborted=st.sets(st.integers(0, 11), max_size=3),
    caching=st.booleans(),
    chunk=st.sampled_from([7, 64]),
    policy=st.sampled_from(["fcfs", "priority"]),
)
def test_the_books_balance_and_nothing_is_read_that_was_not_written(
    prompts: list[tuple[int, int, int]], num_blocks: int, swap_blocks: int, aborted: set[int], caching: bool, chunk: int, policy: str
) -> None:
    """Blocks are followed by what they hold: (whose tokens, up to where), on the device and in CPU memory."""
    scheduler = make(num_blocks, swap_blocks, caching=caching, max_num_batched_tokens=chunk, policy=policy)
    requests = []
    for i, (length, output, token) in enumerate(prompts):
        one = sequence([token] * length, max_tokens=output, request_id=str(i))
        one.request.priority = i % 3
        requests.append(one.request)
        scheduler.add([one])
    device: dict[int, list[int]] = {}
    host: dict[int, list[int]] = {}
    for number in itertools.count():
        if not scheduler.has_work:
            break
        if number in aborted and number < len(requests):
            scheduler.abort(requests[number])
            scheduler.check_integrity()
            if not scheduler.has_work:
                break
        schedule = scheduler.schedule()
        for source, target in schedule.swap_out:
            assert 0 <= target < swap_blocks
            host[target] = device[source]
        for source, target in schedule.swap_in:
            device[target] = host[source]
        for source, target in schedule.copies:
            device[target] = device[source]
        for s, count in zip(schedule.sequences, schedule.counts.tolist(), strict=True):
            for position in range(s.num_computed, s.num_computed + count):
                block = s.blocks[position // SIZE]
                device[block] = [*device.get(block, [])[: position % SIZE], s.tokens[position]]
        for s, count in zip(schedule.sequences, schedule.counts.tolist(), strict=True):
            read = [device[s.blocks[p // SIZE]][p % SIZE] for p in range(s.num_computed + count)]
            assert read == s.tokens[: s.num_computed + count]
        scheduler.commit(schedule, [7] * int(schedule.samples.sum()))
        scheduler.finish([s for s in schedule.sequences if len(s.tokens) >= s.max_length])
        scheduler.check_integrity()
    assert scheduler.blocks.num_free == num_blocks
    assert scheduler.swap is not None
    scheduler.swap.hand_over()
    assert scheduler.swap.num_free == swap_blocks


# -- the engine ----------------------------------------------------------------------------------------------------
def requests_of(kind: str) -> Iterator[Request]:
    more = {"plain": {}, "choices": {"n": 3}, "prompts": {"prompt_logprobs": 1}}[kind]
    for i in range(8):
        params = SamplingParams(max_tokens=14 + i, temperature=0.9 * (i % 2) + 0.01, ignore_eos=True, **more)  # type: ignore[arg-type]
        yield Request(str(i), [3 + i % 3] * (5 + 3 * i), params, i)


def answers(engine: Engine, kind: str) -> dict[str, RequestOutput]:
    for request in requests_of(kind):
        engine.add(request)
    return drain(engine)


@pytest.mark.parametrize("kind", ["plain", "choices", "prompts"])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("overlaps", [True, False])
def test_answers_are_the_same_however_a_sequence_comes_back(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, kind: str, caching: bool, overlaps: bool
) -> None:
    """Steps that overlap too."""
    alone = answers(make_engine(num_blocks=400, enable_prefix_caching=caching), kind)
    monkeypatch.setattr(overlap, "wanted", lambda config: overlaps)
    tokens = {}
    for blocks, mode in ((0, None), (60, "recompute"), (60, "swap"), (9, "swap"), (60, None)):
        engine = make_engine(
            num_blocks=22,
            swap_blocks=blocks,
            preemption_mode=mode,
            enable_prefix_caching=caching,
            max_num_batched_tokens=40,
            max_num_seqs=6,
        )
        got = answers(engine, kind)
        assert {i: (o.outputs, o.prompt_logprobs) for i, o in got.items()} == {i: (o.outputs, o.prompt_logprobs) for i, o in alone.items()}
        assert engine.stats.num_preemptions > 0
        if mode == "swap":
            assert engine.scheduler.swap is not None
            assert engine.scheduler.swap.num_swapped > 0
        tokens[blocks, mode] = sum(engine.runner.num_tokens)  # type: ignore[attr-defined]
    assert tokens[60, "swap"] < tokens[60, "recompute"]
