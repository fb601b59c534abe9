"""The books of adapters: slots, turns, and nobody who waits for ever; with the scheduler that asks them."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from infer.core.adapters.books import AdapterBooks
from infer.core.engine.blocks import BlockManager
from infer.core.engine.queues.waiting import WaitingQueue
from infer.core.engine.scheduler import Scheduler
from infer.core.errors import AdapterError
from infer.core.types.adapters import AdapterKey
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

KEYS = {name: AdapterKey(f"/{name}", (1,)) for name in "abcdef"}


def sequence(number: int, name: str | None, length: int = 4) -> Sequence:
    request = Request(str(number), [1, 2, 3], SamplingParams(max_tokens=length, ignore_eos=True), number)
    made = Sequence.of(request, 0, 0, 64)
    made.adapter = None if name is None else KEYS[name]
    return made


def scheduler(books: AdapterBooks, most: int = 4) -> Scheduler:
    blocks = BlockManager(64, 4, prefix_caching=True)
    return Scheduler(blocks, max_num_seqs=most, max_num_batched_tokens=64, look_ahead=1, adapters=books)


def step(one: Scheduler) -> list[Sequence]:
    """Computes a step; the sequences that began in it."""
    made = one.schedule()
    if not made.sequences:
        return []
    one.commit(made, [7] * len(made.drawing))
    one.check_integrity()
    one.finish([s for s in made.drawing if len(s.tokens) >= s.max_length])
    return made.admitted


@pytest.mark.parametrize("patience", [3, 10])
def test_an_endless_stream_of_others_does_not_starve_one(patience: int) -> None:
    books = AdapterBooks(1, 1, lambda slot, key: None, patience=patience)
    one = scheduler(books)
    stream = iter(range(1, 10_000))
    draw = random.Random(patience)

    def feed() -> None:
        while len(one.waiting) < 6:
            one.add([sequence(next(stream), "a", draw.randrange(1, 9))])

    feed()
    for _ in range(5):
        step(one)
        feed()
    lone = sequence(0, "b")
    one.add([lone])
    before = 0
    while lone not in (began := step(one)):
        before += len(began)
        feed()
        assert before <= 6 + patience + 4, "those ahead of it, those that may pass it, and a step's"
    assert len({s.adapter for s in one.running}) == 1


def test_work_of_many_adapters_in_few_slots() -> None:
    loads: list[tuple[int, AdapterKey]] = []
    books = AdapterBooks(3, 2, lambda slot, key: loads.append((slot, key)), patience=4)
    one, draw = scheduler(books, 6), random.Random(1)
    everyone = [sequence(number, draw.choice([None, *KEYS]), draw.randrange(1, 12)) for number in range(200)]
    for s in everyone:
        one.add([s])
    held: dict[int, AdapterKey] = {}
    began: Counter[Sequence] = Counter()
    for _ in range(2000):
        admitted = step(one)
        began.update(admitted)
        for slot, key in loads:
            assert not any(s.slot == slot and s.adapter != key for s in one.running), "what runs is not overwritten"
            held[slot] = key
        loads.clear()
        assert all(s.adapter is None or held[s.slot] == s.adapter for s in admitted)
        assert all(not s.slot for s in admitted if s.adapter is None)
        if not one.has_work:
            break
    assert set(began) == set(everyone)


def test_the_one_used_longest_ago_leaves() -> None:
    loads: list[str] = []
    books = AdapterBooks(2, 1, lambda slot, key: loads.append(key.path))
    for name in "abacab":
        books.begin([])
        assert books.admit(sequence(0, name))
    assert loads == ["/a", "/b", "/c", "/b"]


def test_one_that_cannot_be_read_fails_its_own() -> None:
    def load(slot: int, key: AdapterKey) -> None:
        if key.path == "/b":
            raise AdapterError("it is broken")

    books = AdapterBooks(2, 2, load)
    one = scheduler(books)
    good, bad, other = sequence(0, "a"), sequence(1, "b"), sequence(2, None)
    for s in (good, bad, other):
        one.add([s])
    assert step(one) == [good, other]
    refused = books.take_refused()
    assert [*refused] == [bad]
    assert (refused[bad].code, refused[bad].message) == ("adapter_invalid", "it is broken")
    assert bad not in one.waiting
    assert not books.refused


def test_records_of_one_adapter_are_started_one_after_the_other() -> None:
    queue, draw = WaitingQueue(100), random.Random(3)
    for number in range(60):
        queue.add(sequence(number, draw.choice("abc")))
    order = [queue.pop().adapter for _ in range(60)]
    assert sum(one != other for one, other in pairwise(order)) == 2
