"""Several steps in flight: whatever the lanes' order, each request gets what it gets alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from infer.core.adapters.books import AdapterBooks
from infer.core.engine.stats import Stopwatch
from infer.core.pooling.crew import Crew
from infer.core.pooling.engine import PoolingEngine
from infer.core.types.adapters import AdapterKey, LoRARequest
from infer.core.types.pooling_request import Pooled, PoolingRequest

from .test_engine import contents, drain, requests


def crew_of(engine: PoolingEngine) -> Crew[Any, Any]:
    assert engine._crew is not None
    engine._crew.enough = 8
    return engine._crew


def alone(make: Any, asked: list[PoolingRequest]) -> dict[str, Any]:
    engine, _ = make(64, matryoshka=True)
    for one in asked:
        engine.add(one)
    return {answer.request_id: contents(answer) for answer in drain(engine)}


@pytest.mark.parametrize("seed", range(8))
def test_steps_in_any_order_of_lanes(make: Any, ask: Any, seed: int) -> None:
    order = random.Random(seed)
    lanes = order.randint(2, 4)
    asked = requests(ask, 40, seed)
    expected, dropped = alone(make, asked), set(order.sample(range(40), 5))
    engine, _ = make(order.choice([16, 64]), matryoshka=True, lanes=lanes, threads=lanes)
    crew, watch = crew_of(engine), Stopwatch(dict.fromkeys(engine.stats.seconds, 0.0))
    answers: dict[str, Pooled] = {}
    planned: dict[int, Any] = {}
    computed: dict[int, Any] = {}
    waiting = [*asked]
    while waiting or engine.has_requests:
        for _ in range(order.randint(0, 6)):
            if waiting:
                engine.add(waiting.pop())
        if dropped and order.random() < 0.3:
            name = f"r{dropped.pop()}"
            if engine.is_open(name):
                engine.abort(name)
                expected.pop(name)
                assert not engine.is_open(name)
        number = order.randrange(lanes)
        with crew.turn:
            crew._active = order.randint(1, lanes)
            if number in computed:
                crew.book(number, computed.pop(number), watch)
            elif number in planned:
                computed[number] = crew.compute(number, planned.pop(number), watch)
            elif (step := crew.plan(number, watch)) is not None:
                planned[number] = step
            answers.update({answer.request_id: answer for answer in crew._answers()})
    assert {name: contents(answer) for name, answer in answers.items()} == expected
    assert engine.num_waiting == engine.num_waiting_tokens == engine.num_unfinished == 0


def test_threads_give_the_same_answers_and_end_with_the_work(make: Any, ask: Any) -> None:
    asked = requests(ask, 60)
    expected = alone(make, asked)
    engine, _ = make(64, matryoshka=True, lanes=3, threads=3)
    crew = crew_of(engine)
    for _ in range(2):
        for one in asked:
            engine.add(one)
        assert {answer.request_id: contents(answer) for answer in drain(engine)} == expected
        for worker in crew._workers[1:]:
            assert worker is not None
            worker.join(60)
            assert not worker.is_alive()
    engine.close()


def test_an_error_in_any_lane_is_raised_where_steps_are_asked_for(make: Any, ask: Any) -> None:
    engine, _ = make(64, lanes=2, threads=2)
    crew = crew_of(engine)
    pooled = crew._runners[1].pooled

    def fails(*args: Any) -> Any:
        raise MemoryError("no room")

    crew._runners[1].pooled = fails  # type: ignore[method-assign]
    for number in range(40):
        engine.add(ask(str(number), [9 + number] * 8))
    with pytest.raises(MemoryError, match="no room"):
        drain(engine)
    for number in range(40):
        if engine.is_open(str(number)):
            engine.abort(str(number))
    crew._runners[1].pooled = pooled  # type: ignore[method-assign]
    engine.add(ask("again", [9] * 8))
    assert [answer.error for answer in drain(engine)] == [None]


def test_an_adapter_takes_the_place_of_another_while_nothing_is_computed(make: Any, ask: Any) -> None:
    engine, _ = make(64, lanes=2, threads=2)
    crew, loads = crew_of(engine), []

    class Registry:
        def key_of(self, lora: LoRARequest) -> AdapterKey:
            return AdapterKey(lora.lora_path, ())

    def load(slot: int, key: AdapterKey) -> None:
        assert not any(crew._busy)
        loads.append(key.path)

    engine.adapters = Registry()  # type: ignore[assignment]
    engine._books = AdapterBooks(1, 1, load)
    for number in range(60):
        request = ask(str(number), [9 + number] * 8)
        request.lora = LoRARequest(f"a{number % 2}", number % 2 + 1, f"/a{number % 2}")
        engine.add(request)
    assert len(drain(engine)) == 60
    assert {*loads} == {"/a0", "/a1"}
    engine.close()
