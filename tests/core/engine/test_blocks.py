"""The books balance, blocks are found by content, and the constants agree with the kernels'."""

from __future__ import annotations

import random

from infer.core.engine import batch, blocks
from infer.core.engine.blocks import BlockManager
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence
from infer.kernels import ops


def sequence(tokens: list[int]) -> Sequence:
    return Sequence.of(Request("r", tokens, SamplingParams(max_tokens=100), 0), 0, 0, 1000)


def compute(manager: BlockManager, s: Sequence) -> None:
    start = s.num_computed
    manager.grow(s, len(s.tokens))
    s.num_computed = len(s.tokens)
    manager.remember(s, start)


def test_constants_are_those_of_the_kernels() -> None:
    assert blocks.NULL_BLOCK == ops.NULL_BLOCK
    assert batch.ROW_MULTIPLE == ops.ROW_MULTIPLE


def test_least_recently_used_content_goes_first_and_endings_before_beginnings() -> None:
    manager = BlockManager(7, 2, prefix_caching=True)
    a, b = sequence([1, 1, 2, 2, 3, 3]), sequence([7, 7, 8, 8, 9, 9])
    for s in (a, b):
        compute(manager, s)
        manager.free(s)
    again_a, again_b = sequence([*a.tokens, 5]), sequence([*b.tokens, 5])
    assert len(manager.cached_prefix(again_a)) == 3
    compute(manager, sequence([5, 6, 5, 6]))  # takes the two endings of a
    assert len(manager.cached_prefix(again_a)) == 1
    assert len(manager.cached_prefix(again_b)) == 3


def test_same_tokens_after_another_prefix_are_other_content() -> None:
    manager = BlockManager(20, 2, prefix_caching=True)
    compute(manager, sequence([1, 1, 2, 2]))
    assert manager.cached_prefix(sequence([3, 3, 2, 2, 0])) == []
    assert manager.cached_prefix(sequence([1, 1, 3, 3, 0])) == [1]


def test_copy_on_write_happens_only_while_shared() -> None:
    manager = BlockManager(20, 4, prefix_caching=False)
    a = sequence([1] * 6)
    compute(manager, a)
    b = sequence([1] * 6)
    manager.share(b, a.blocks)
    b.num_computed = 5
    assert manager.shortage(b, 7) == 1 - manager.num_free
    assert manager.grow(b, 7) == [(a.blocks[1], b.blocks[1])]
    assert a.blocks[0] == b.blocks[0]
    assert a.blocks[1] != b.blocks[1]
    assert manager.grow(b, 8) == []
    assert manager.grow(a, 8) == []
    manager.check_integrity([a, b])


def test_random_use_keeps_the_books_balanced() -> None:
    rng = random.Random(0)
    for caching in (True, False):
        manager = BlockManager(40, 4, prefix_caching=caching)
        live: list[Sequence] = []
        for _ in range(3000):
            action = rng.random()
            if action < 0.4:
                s = sequence([rng.randrange(2) for _ in range(rng.randrange(1, 30))])
                shared = manager.cached_prefix(s)
                computed = len(shared) * 4
                if manager.missing(shared, computed, len(s.tokens)) <= 0:
                    manager.share(s, shared)
                    s.num_computed = computed
                    compute(manager, s)
                    live.append(s)
            elif action < 0.6 and live:
                parent = rng.choice(live)
                s = sequence(list(parent.tokens))
                computed = len(s.tokens) - 1
                shared = parent.blocks[: manager.blocks_for(computed)]
                if manager.missing(shared, computed, len(s.tokens)) <= 0:
                    manager.share(s, shared)
                    s.num_computed = computed
                    compute(manager, s)
                    live.append(s)
            elif action < 0.8 and live:
                s = rng.choice(live)
                if manager.shortage(s, len(s.tokens) + 1) <= 0:
                    s.tokens.append(rng.randrange(2))
                    compute(manager, s)
            elif live:
                s = live.pop(rng.randrange(len(live)))
                if rng.random() < 0.1:
                    manager.forget(s)
                manager.free(s)
            manager.check_integrity(live)
        for s in live:
            manager.free(s)
        assert manager.num_free == manager.num_usable


def test_memory_that_was_never_needed_at_a_time_is_not_taken() -> None:
    """One sequence after another, each with other content: with a limit for idle blocks the same few are used again."""

    def highest_block(max_idle: int | None) -> int:
        manager = BlockManager(1001, 2, prefix_caching=True, max_idle=max_idle)
        highest = 0
        for number in range(100):
            s = sequence([number] * 9)
            manager.grow(s, 9)
            s.num_computed = 9
            manager.remember(s, 0)
            highest = max(highest, *s.blocks)
            manager.free(s)
            manager.check_integrity([])
        return highest

    assert highest_block(None) > 300
    assert highest_block(8) <= 8 + 2 * 5
    assert highest_block(0) <= 2 * 5


def test_what_is_idle_within_the_limit_is_found_again() -> None:
    manager = BlockManager(1001, 2, prefix_caching=True, max_idle=8)
    for number in (1, 2, 1):
        s = sequence([number] * 9)
        found = manager.cached_prefix(s)
        manager.share(s, found)
        s.num_computed = 2 * len(found)
        manager.grow(s, 9)
        s.num_computed = 9
        manager.remember(s, 0)
        manager.free(s)
    assert len(found) == 4
