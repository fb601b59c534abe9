"""Schedules without a model, and so over any number of steps: which tokens each computes."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infer.core.engine.batch import pack
from infer.core.engine.blocks import BlockManager
from infer.core.engine.schedule import Schedule
from infer.core.engine.scheduler import Scheduler
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

from ..stepping import step

SIZE = 4


def make(num_blocks: int = 1000, *, caching: bool = True, block_size: int = SIZE, **kwargs: Any) -> Scheduler:
    kwargs = {"max_num_seqs": 8, "max_num_batched_tokens": 64, **kwargs}
    return Scheduler(BlockManager(num_blocks + 1, block_size, prefix_caching=caching), **kwargs)


def add(scheduler: Scheduler, prompt: list[int], max_tokens: int = 8, n: int = 1) -> list[Sequence]:
    params = SamplingParams(max_tokens=max_tokens, n=n, ignore_eos=True)
    request = Request("r", prompt, params, 0)
    choices = [Sequence.of(request, i, 0, 10_000) for i in range(n)]
    scheduler.add(choices)
    return choices


def computed(schedule: Schedule) -> dict[Sequence, int]:
    return dict(zip(schedule.sequences, schedule.counts.tolist(), strict=True))


def drain(scheduler: Scheduler) -> int:
    """Steps until nothing is left; returns how many tokens they computed."""
    total = 0
    while scheduler.has_work:
        total += int(step(scheduler).counts.sum())
    assert scheduler.blocks.num_free == scheduler.blocks.num_usable
    return total


PREFIX = [5] * (4 * SIZE)


def test_those_with_a_prefix_that_is_being_computed_wait_for_it() -> None:
    scheduler = make()
    (leader,), *followers = [add(scheduler, [*PREFIX, 10 + i]) for i in range(5)]
    (other,) = add(scheduler, [9] * 6)
    assert computed(step(scheduler)) == {leader: 17, other: 6}
    assert computed(step(scheduler)) == {leader: 1, other: 1, **{s: 1 for (s,) in followers}}
    assert [s.num_cached for (s,) in followers] == [16] * 4


def test_a_prefix_of_several_steps_is_waited_for_as_far_as_it_is_shared() -> None:
    scheduler = make(max_num_batched_tokens=10)
    (leader,) = add(scheduler, [*PREFIX, *range(10, 30)])
    (follower,) = add(scheduler, [*PREFIX, *range(50, 60)])
    steps = [computed(step(scheduler)) for _ in range(4)]
    # The leader's 36 tokens take four steps; two of them compute the common 16.
    assert steps == [{leader: 10}, {leader: 10}, {leader: 10}, {leader: 6, follower: 4}]
    assert follower.num_cached == 16


def test_equal_prompts_are_computed_once() -> None:
    scheduler = make()
    for _ in range(6):
        add(scheduler, [3] * (3 * SIZE + 1), max_tokens=1)
    assert drain(scheduler) == 3 * SIZE + 1 + 5


def test_nobody_waits_without_prefix_caching() -> None:
    scheduler = make(caching=False)
    for i in range(3):
        add(scheduler, [*PREFIX, 10 + i])
    assert step(scheduler).counts.tolist() == [17, 17, 17]


@pytest.mark.parametrize("how", ["aborted", "preempted"])
def test_nobody_waits_for_one_that_has_gone(how: str) -> None:
    scheduler = make(max_num_batched_tokens=10, num_blocks=14)
    (leader,), (follower,) = add(scheduler, [*PREFIX, 1]), add(scheduler, [*PREFIX, 2])
    assert computed(step(scheduler)) == {leader: 10}
    if how == "aborted":
        scheduler.abort(leader.request)
    else:
        scheduler._preempt_last([])
    scheduler.check_integrity()
    rest = computed(step(scheduler))
    assert rest == ({follower: 9} if how == "aborted" else {leader: 9})  # 8 of its tokens are found
    drain(scheduler)


def test_only_so_many_are_passed_over() -> None:
    scheduler = make(max_num_seqs=3)
    add(scheduler, [*PREFIX, 1])
    for i in range(20):
        add(scheduler, [*PREFIX, 2 + i])
    (other,) = add(scheduler, [9, 9])
    assert len(step(scheduler).counts) == 1
    assert other.num_computed == 0
    drain(scheduler)


def test_records_that_share_prefixes_compute_each_once() -> None:
    rng = random.Random(0)
    prefixes = [[100 + i] * 32 for i in range(4)]
    for seqs in (2, 8, 64):
        scheduler = make(max_num_seqs=seqs, max_num_batched_tokens=200)
        for i in range(64):
            add(scheduler, [*rng.choice(prefixes), *(1000 + i for _ in range(6))], max_tokens=5)
        assert drain(scheduler) == 4 * 32 + 64 * (6 + 4)


def test_long_outputs_first_leave_fewer_steps() -> None:
    rng = random.Random(0)
    lengths = [int(rng.lognormvariate(3, 1)) + 1 for _ in range(100)]
    steps = {}
    for look_ahead in (1, 100):
        scheduler = make(max_num_seqs=8, look_ahead=look_ahead)
        for i, length in enumerate(lengths):
            add(scheduler, [i, i], max_tokens=length)
        steps[look_ahead] = 0
        while scheduler.has_work:
            step(scheduler)
            steps[look_ahead] += 1
    assert steps[100] <= 1.05 * max(*lengths, sum(lengths) / 8)
    assert steps[100] < 0.9 * steps[1]


def run_widths(lengths: list[int], *, more: bool, num_blocks: int = 10_000) -> tuple[list[int], Scheduler]:
    """The number of sequences of each step, and the scheduler."""
    scheduler = make(max_num_seqs=256, max_num_batched_tokens=4096, num_blocks=num_blocks)
    for i, length in enumerate(lengths):
        add(scheduler, [i, i], max_tokens=length)
    scheduler.expect_more(more)
    widths = []
    while scheduler.has_work:
        widths.append(len(step(scheduler).counts))
    return widths, scheduler


def test_work_that_is_known_whole_is_spread_over_its_steps() -> None:
    rng = random.Random(0)
    lengths = [int(rng.lognormvariate(3.5, 1)) + 1 for _ in range(200)]
    at_once, _ = run_widths(lengths, more=True)
    spread, _ = run_widths(lengths, more=False)
    assert at_once[0] == 200
    assert sum(at_once) == sum(spread) == sum(lengths)
    assert len(at_once) == max(lengths)
    assert len(spread) < 1.1 * max(lengths)
    assert max(spread) % 16 == 0
    # Steps cost as much as their rows rounded up.
    assert sum(-(-w // 16) for w in spread) < 0.8 * sum(-(-w // 16) for w in at_once)


def test_equal_outputs_need_not_be_spread() -> None:
    assert run_widths([20] * 60, more=False)[0] == [60] * 20


def test_spreading_spares_preemptions() -> None:
    lengths = [200] * 4 + [20] * 100
    assert run_widths(lengths, more=True, num_blocks=300)[1].num_preemptions > 0
    assert run_widths(lengths, more=False, num_blocks=300)[1].num_preemptions == 0


def test_what_comes_after_all_is_answered_too() -> None:
    scheduler = make(max_num_seqs=256)
    for length in (50, 5, 5):
        add(scheduler, [3, 4], max_tokens=length)
    scheduler.expect_more(False)
    step(scheduler)
    for _ in range(40):
        add(scheduler, [3, 4], max_tokens=50)
    assert len(step(scheduler).counts) > 16
    scheduler.expect_more(True)
    drain(scheduler)


def test_the_oldest_keep_their_blocks() -> None:
    scheduler = make(num_blocks=8, look_ahead=1)
    first, second, third = (add(scheduler, [i] * 8, max_tokens=9)[0] for i in range(3))
    assert len(step(scheduler).counts) == 3
    assert list(computed(step(scheduler))) == [first, second]
    assert scheduler.num_preemptions == 1
    assert list(scheduler.waiting) == [third]
    drain(scheduler)


def test_a_table_has_room_for_any_length() -> None:
    scheduler = make(max_num_batched_tokens=300)
    add(scheduler, [1] * 9, max_tokens=3)
    add(scheduler, [3] * 250, max_tokens=400)
    assert drain(scheduler) == 9 + 2 + 250 + 399
    assert scheduler.running.blocks.shape[1] >= 162


def test_choices_come_before_the_next_record() -> None:
    scheduler = make(max_num_seqs=2, look_ahead=1)
    first, second, third = add(scheduler, [3] * 9, max_tokens=4, n=3)
    (other,), (later,) = add(scheduler, [4] * 9, max_tokens=4), add(scheduler, [5] * 9, max_tokens=4)
    order: list[Sequence] = []
    while scheduler.has_work:
        order += [s for s in step(scheduler).sequences if s not in order]
    assert order == [first, other, second, third, later]


def test_a_batch_says_where_each_token_goes() -> None:
    scheduler = make(max_num_batched_tokens=12, look_ahead=1)
    a, b = add(scheduler, [10, 11, 12, 13, 14])[0], add(scheduler, [*range(20, 30)])[0]
    step(scheduler)  # all of a, 7 of b
    schedule = scheduler.schedule()
    batch = pack(schedule, scheduler.running, SIZE)
    assert batch.tokens.tolist() == [7, 27, 28, 29, *[0] * 12]
    assert batch.positions.tolist() == [5, 7, 8, 9, *[0] * 12]
    assert batch.query_start.tolist() == [0, 1, 4]
    assert batch.kv_lens.tolist() == [6, 10]
    assert batch.block_tables.tolist() == [[*a.blocks, 0], b.blocks]
    assert batch.slots.tolist() == [a.blocks[1] * 4 + 1, b.blocks[1] * 4 + 3, b.blocks[2] * 4, b.blocks[2] * 4 + 1]
    assert batch.logit_rows.tolist() == [0, 3, *[0] * 14]
    assert batch.num_logits == 2
    assert [a.dtype for a in (batch.tokens, batch.positions, batch.slots, batch.logit_rows)] == [np.int64] * 4
    assert [a.dtype for a in (batch.query_start, batch.kv_lens, batch.block_tables)] == [np.int32] * 3


def test_chunks_that_do_not_sample_have_no_logits() -> None:
    scheduler = make(max_num_batched_tokens=6)
    add(scheduler, [3] * 13)
    assert [pack(scheduler.schedule(), scheduler.running, SIZE).num_logits, step(scheduler).counts.tolist()] == [0, [6]]
    step(scheduler)
    schedule = scheduler.schedule()
    batch = pack(schedule, scheduler.running, SIZE)
    assert batch.tokens[0] == 3
    assert batch.num_logits == 1


def calls(work: Callable[[], object]) -> int:
    """The number of functions that `work` calls, of Python's and of C's."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.collect()  # what earlier tests left may call functions of its own as it goes
    gc.disable()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_the_work_of_a_step_does_not_grow_with_tokens() -> None:
    def one_step(scheduler: Scheduler) -> None:
        schedule = scheduler.schedule()
        pack(schedule, scheduler.running, 16)
        scheduler.commit(schedule, [7] * len(schedule.sequences))

    def work_at(length: int, num_seqs: int) -> int:
        """Function calls of 16 decode steps, in which every sequence fills a block."""
        scheduler = make(num_blocks=30_000, block_size=16, max_num_seqs=num_seqs, max_num_batched_tokens=100_000)
        for i in range(num_seqs):
            add(scheduler, [i] * length, max_tokens=100)
        one_step(scheduler)
        return calls(lambda: [one_step(scheduler) for _ in range(16)])

    short, long = work_at(40, 16), work_at(900, 16)
    assert short == long
    per_sequence = (work_at(40, 32) - short) / 16 / 16
    assert per_sequence < 4


def widths(scheduler: Scheduler, count: int, lengths: list[int]) -> list[tuple[int, int]]:
    """(sequences that run, those that begin) of each step."""
    for row in range(count):
        add(scheduler, [row] * 3, max_tokens=lengths[row % len(lengths)])
    seen = []
    while scheduler.has_work:
        step = scheduler.schedule()
        seen.append((len(step.sequences), len(step.admitted)))
        scheduler.commit(step, [5] * int(step.samples.sum()))
        scheduler.finish([s for s in step.sequences if s.num_output >= s.request.params.max_tokens])
        scheduler.check_integrity()
    return seen


def test_those_that_wait_are_admitted_together() -> None:
    """Where that is asked for a sixteenth of the places is free first, or steps have prompts in them anyway."""
    apart, together = (
        widths(make(max_num_seqs=32, max_num_batched_tokens=60, admits_together=it), 90, [9, 10, 17]) for it in (False, True)
    )
    assert sum(begun for _, begun in apart) == sum(begun for _, begun in together) == 90
    alone, kept = (sum(not begun for _, begun in seen) for seen in (apart, together))
    assert kept > alone
    assert all(begun != 1 for running, begun in together[3:] if running == 32)
    assert max(running for running, _ in together) == 32
