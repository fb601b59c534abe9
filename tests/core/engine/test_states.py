"""States in the schedule: prefixes are computed once, choices and preempted sequences go on from snapshots, slots are waited for."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.engine import states
from infer.core.engine.states import StateSlots
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence
from infer.kernels.state import NULL_STATE

from ..stepping import drain
from .test_engine import run

PREFIX = [7, 8, 9] * 16


def sequence(tokens: list[int]) -> Sequence:
    return Sequence.of(Request("a", tokens, SamplingParams(max_tokens=8), 0), 0, 0, 100)


def test_constants_are_those_of_the_kernels() -> None:
    assert states.NULL_STATE == NULL_STATE


def test_a_prefix_that_arrives_many_times_at_once_is_computed_once(make_engine: Any) -> None:
    prompts = [[*PREFIX, 10 + i] for i in range(6)]
    engine = make_engine(num_blocks=200, num_states=20)
    assert run(engine, *prompts, max_tokens=2) == run(make_engine(num_blocks=200), *prompts, max_tokens=2)
    assert engine.runner.num_tokens == [48, 6, 6]
    assert engine.stats.num_cached_tokens == 5 * len(PREFIX)


def test_where_known_content_ends_states_are_kept_for_the_next(make_engine: Any) -> None:
    """One record after another: the second finds blocks and no states, and leaves some for the third."""
    engine = make_engine(num_blocks=200, num_states=20)
    for i, cached in enumerate([0, 0, 48, 48]):
        before = engine.stats.num_cached_tokens
        run(engine, [*PREFIX, *[20 + i] * 9], max_tokens=1)
        assert engine.stats.num_cached_tokens - before == cached
    run(engine, [*PREFIX, *[22] * 9], max_tokens=1)
    assert engine.stats.num_cached_tokens == 96 + 56, "its last full block was kept too"


@pytest.mark.parametrize("caching", [True, False])
def test_choices_begin_at_the_last_border_of_the_prompt(make_engine: Any, caching: bool) -> None:
    engine = make_engine(num_blocks=100, enable_prefix_caching=caching, num_states=20)
    engine.add(Request("a", [3] * 42, SamplingParams(n=4, max_tokens=3, ignore_eos=True), 0))
    drain(engine)
    assert engine.runner.num_tokens == [40, 2, 1 + 3 * 2, 4, 3]


def test_steps_are_not_cut_for_nobody(make_engine: Any) -> None:
    engine = make_engine(num_blocks=100, enable_prefix_caching=False, num_states=20)
    run(engine, [3] * 42, max_tokens=2)
    assert engine.runner.num_tokens == [42, 1]


def test_without_chunks_prompts_are_whole(make_engine: Any) -> None:
    engine = make_engine(num_blocks=100, num_states=20, enable_chunked_prefill=False, max_num_batched_tokens=512)
    engine.add(Request("a", [3] * 42, SamplingParams(n=2, max_tokens=2, ignore_eos=True), 0))
    drain(engine)
    assert engine.runner.num_tokens == [42, 1 + 42, 1]


def test_a_preempted_sequence_begins_at_its_last_snapshot(make_engine: Any) -> None:
    prompts = [[3 + i, 4, 5, 6] * 8 for i in range(4)]
    engines = [make_engine(num_blocks=43, num_states=20, enable_prefix_caching=caching) for caching in (True, False)]
    for engine in engines:
        assert run(engine, *prompts) == run(make_engine(num_blocks=500), *prompts)
        assert engine.stats.num_preemptions > 0
    some, all_of_it = (sum(engine.runner.num_tokens) for engine in engines)
    assert some < all_of_it


def test_with_few_slots_fewer_run_and_all_are_answered(make_engine: Any) -> None:
    prompts = [[*PREFIX, 10 + i] for i in range(6)]
    engine = make_engine(num_blocks=200, num_states=2)
    assert run(engine, *prompts) == run(make_engine(num_blocks=200), *prompts)
    assert max(engine.runner.num_tokens[1:]) <= 48 + 1, "two at most"
    assert engine.scheduler.blocks.states.num_held == 0


def test_a_snapshot_goes_with_the_content_of_its_block(make_engine: Any) -> None:
    engine = make_engine(num_blocks=14, num_states=20)
    run(engine, [*PREFIX, 10], max_tokens=1)
    blocks = engine.scheduler.blocks
    kept = sequence([*PREFIX, 11])
    assert len(blocks.cached_prefix(kept)) == 12
    assert blocks.states.has(kept.hashes[11])
    run(engine, [9] * 48, max_tokens=1)
    assert not blocks.states.has(kept.hashes[11])
    assert blocks.cached_prefix(kept) == []


def test_what_is_least_recently_used_is_given_up_first() -> None:
    slots = StateSlots(3)
    a, b, c = (sequence([1, 2, 3]) for _ in range(3))
    slots.start(a, None)
    for name in (b"x", b"y"):
        a.borders = [1]
        slots.keep(a, name)
    slots.start(b, b"x")  # x is used, so y goes
    assert (slots.has(b"x"), slots.has(b"y")) == (True, False)
    # The slot of y is b's, and what was to be y is not copied any more; x has its states from a, and so has b.
    assert sorted(slots.hand_over()) == sorted([(a.state, slots._snapshots[b"x"]), (a.state, b.state)])
    slots.start(c, b"x")  # the only one left: it stays where it is, as c's
    assert slots.hand_over() == []
    assert not slots.fork(c, sequence([1]))
    assert slots.num_free == 0
    slots.check_integrity([a, b, c])
    a.borders = [1]
    slots.keep(a, b"z")
    assert not slots.has(b"z")
    for one in (a, b, c):
        slots.end(one)
    slots.check_integrity([])
    assert slots.num_free == 3
