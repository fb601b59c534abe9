"""Several batches in flight: whatever the lanes' order, each request gets what it gets alone, and no batch reads what another writes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.engine.engine import Engine
from infer.core.engine.lanes.company import PATIENCE, Company
from infer.core.engine.lanes.crew import Crew
from infer.core.engine.stats import Stopwatch
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from .test_engine import alone, requests


class Flights:
    """An engine's lanes in one thread: each moves when it is told to, in any order that threads could take."""

    def __init__(self, engine: Engine, active: int) -> None:
        assert engine._crew is not None
        self.engine, self.crew = engine, engine._crew
        self.crew._shares.active = active
        self.number_of = {lane.scheduler: number for number, lane in enumerate(self.crew._lanes)}
        self.planned: dict[int, Any] = {}
        self.computed: dict[int, Any] = {}
        self.watch = Stopwatch(engine.stats.seconds)

    def move(self, number: int) -> bool:
        """The next thing of a lane: plan, compute or book; False if it has nothing to do."""
        with self.crew.turn:
            if number in self.computed:
                self.crew.book(number, self.computed.pop(number), self.watch)
            elif number in self.planned:
                self.computed[number] = self.crew.compute(number, self.planned.pop(number), self.watch)
            elif (planned := self.crew.plan(number, self.watch)) is not None:
                self.planned[number] = planned
            else:
                return False
        self.check()
        return True

    def check(self) -> None:
        """The books balance; no sequence is in two batches, and nobody holds a block that one of them writes."""
        scheduler = self.engine.scheduler
        scheduler.check_integrity()
        flying = [s for lane in scheduler.lanes if lane.overruns is not None for s in lane.overruns.in_flight]
        assert len({*flying}) == len(flying)
        assert scheduler.num_running <= scheduler.max_num_seqs
        assert all(s in lane.holders() for lane in scheduler.lanes if lane.overruns is not None for s in lane.overruns.in_flight)
        for batch in (planned.batch for planned in self.planned.values()):
            size = scheduler.blocks.block_size
            assert all(scheduler.blocks._refs[slot // size] == 1 for slot in batch.slots.tolist())


@settings(max_examples=50, deadline=None)
@given(
    requests=requests,
    lanes=st.integers(2, 4),
    block_size=st.sampled_from([1, 2, 4, 8]),
    spare=st.integers(0, 30),
    seqs=st.integers(1, 6),
    tokens=st.sampled_from([6, 16, 64]),
    caching=st.booleans(),
    threshold=st.sampled_from([0, 5]),
    priority=st.booleans(),
    states=st.sampled_from([0, 0, 9, 30]),
    swap=st.sampled_from([0, 0, 12]),
    dropped=st.dictionaries(st.integers(0, 11), st.integers(0, 30), max_size=3),
    poison=st.one_of(st.none(), st.integers(3, 5)),
    speculation=st.sampled_from(["off", "ngram"]),
    order=st.randoms(use_true_random=False),
)
def test_every_request_gets_what_it_gets_alone(
    make_engine: Any,
    oracle: Any,
    requests: Any,
    lanes: int,
    block_size: int,
    spare: int,
    seqs: int,
    tokens: int,
    caching: bool,
    threshold: int,
    priority: bool,
    states: int,
    swap: int,
    dropped: dict[int, int],
    poison: int | None,
    speculation: str,
    order: Any,
) -> None:
    """Lanes go on in any order and change in number; requests are aborted (`dropped`: request -> after how many moves) and fail
    (logits after a context that ends with `poison` twice are no numbers) while others of their sequences are in flight."""
    made = []
    for i, (prompt, length, n, greedy, seed) in enumerate(requests):
        more = order.choice([{}, {}, {"prompt_logprobs": 1}, {"logprobs": 2}, {"frequency_penalty": 1e-9}])
        params = SamplingParams(temperature=0 if greedy else 0.9, max_tokens=length, n=1 if greedy else n, seed=seed or None, **more)
        made.append(Request(str(i), prompt, params, i, priority=i % 3))
    largest = max(-(-(len(r.prompt_token_ids) + (r.params.max_tokens or 0)) // block_size) for r in made)
    engine = make_engine(
        num_blocks=largest + spare,
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        enable_prefix_caching=caching,
        long_prefill_token_threshold=threshold,
        scheduling_policy="priority" if priority else "fcfs",
        num_states=states,
        swap_blocks=0 if states else swap,
        preemption_mode="swap" if swap and not states else None,
        seed=7,
        lanes=lanes,
        threads=lanes,
        speculation=speculation,
    )
    engine.runner.poisoned = lambda context: poison is not None and context[-2:] == [poison, poison]
    flights = Flights(engine, lanes)
    for request in made:
        engine.add(request)
    num_moves = 0
    while engine.has_requests:
        if order.random() < 0.05:
            flights.crew._shares.active = order.randint(1, lanes)
        numbers = order.sample(range(lanes), lanes)
        # What one gives away, another before it may take.
        assert any(flights.move(number) for number in [*numbers, *numbers]), "nothing moves on"
        for place, when in dropped.items():
            if when == num_moves and str(place) in engine._open:
                if len(engine._open) == 1:  # who drops the last waits for all lanes
                    while flights.planned or flights.computed:
                        flights.move(next(iter({**flights.planned, **flights.computed})))
                if str(place) in engine._open:
                    engine.abort(str(place))
                    flights.check()
        num_moves += 1
    for number in range(lanes):
        while number in flights.planned or number in flights.computed:
            flights.move(number)
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    outputs = {output.request_id: output for output in flights.crew.outputs}
    for request in made:
        if int(request.request_id) in dropped and request.request_id not in outputs:
            continue
        expected = [alone(oracle, request, i, run_seed=7) for i in range(request.params.n)]
        if broken(request, expected, poison):
            assert outputs[request.request_id].error is not None
            continue
        got = outputs[request.request_id]
        assert got.error is None
        assert [output.token_ids for output in got.outputs] == expected
        if request.params.prompt_logprobs is not None:
            assert got.prompt_logprobs is not None
            assert len(got.prompt_logprobs) == len(request.prompt_token_ids)


def broken(request: Request, outputs: list[list[int]], poison: int | None) -> bool:
    """True if logits that are drawn from, or that are told of, are no numbers."""
    size = len(request.prompt_token_ids)
    for output in outputs:
        context = [*request.prompt_token_ids, *output]
        first = 1 if request.params.prompt_logprobs is not None else size
        if any(context[end - 2 : end] == [poison, poison] for end in range(max(first, 2), len(context))):
            return True
    return False


PROMPTS = [[3 + i % 7, 4, 5, 6] * (1 + i % 3) for i in range(40)]


def answers(engine: Engine, **params: Any) -> list[RequestOutput]:
    for i, prompt in enumerate(PROMPTS):
        engine.add(Request(str(i), prompt, SamplingParams(temperature=0.8, max_tokens=5 + i, **params), i))
    outputs: dict[str, RequestOutput] = {}
    while engine.num_unfinished:
        outputs.update({output.request_id: output for output in engine.step()})
    engine.scheduler.check_integrity()
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    return [outputs[str(i)] for i in range(len(PROMPTS))]


def crew_of(engine: Engine) -> Crew:
    assert engine._crew is not None
    engine._crew.enough = 2
    return engine._crew


@pytest.mark.parametrize("lanes", [2, 3])
def test_threads_give_the_same_answers_and_end_with_the_work(make_engine: Any, lanes: int) -> None:
    plain, engine = make_engine(num_blocks=60), make_engine(num_blocks=60, lanes=lanes, threads=lanes)
    crew = crew_of(engine)
    for params in ({"n": 2, "logprobs": 1}, {"repetition_penalty": 1.1}):
        expected = answers(plain, **params)
        assert [o.outputs for o in answers(engine, **params)] == [o.outputs for o in expected]
        for worker in crew._workers:
            if worker is not None:
                worker.join(30)
                assert not worker.is_alive()
    assert any(worker is not None for worker in crew._workers)
    assert engine.reset_prefix_cache()


def test_an_error_in_any_lane_is_raised_where_steps_are_asked_for(make_engine: Any) -> None:
    engine = make_engine(lanes=2, threads=2)
    crew, compute = crew_of(engine), engine.runner.run

    def run(*args: Any) -> Any:
        if crew._busy[1]:
            raise MemoryError("no room")
        return compute(*args)

    engine.runner.run = run
    with pytest.raises(MemoryError, match="no room"):
        answers(engine)
    for request_id in [*engine._open]:
        engine.abort(request_id)
    engine.scheduler.check_integrity()
    engine.runner.run = compute
    assert [o.error for o in answers(engine)] == [None] * len(PROMPTS)
    engine.close()


def test_an_error_beside_one_that_was_raised_is_no_later_work_s(make_engine: Any) -> None:
    engine = make_engine(lanes=2, threads=2)
    crew, compute, told = crew_of(engine), engine.runner.run, threading.Event()

    def run(*args: Any) -> Any:
        if threading.current_thread().name == "lane-1":
            assert told.wait(60)
            raise MemoryError("no room beside it")
        if crew._busy[1]:
            raise MemoryError("no room")
        return compute(*args)

    engine.runner.run = run
    with pytest.raises(MemoryError, match=r"no room$"):
        answers(engine)
    late = crew._workers[1]
    told.set()
    for request_id in [*engine._open]:
        engine.abort(request_id)
    late.join(60)
    engine.runner.run = compute
    assert [o.error for o in answers(engine)] == [None] * len(PROMPTS)
    engine.close()


def test_few_sequences_and_beams_have_one_lane_with_all_threads(make_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(lanes=2, threads=2, num_blocks=200)
    crew = engine._crew
    taken: list[tuple[int, int]] = []
    run, both = crew._run, threading.Barrier(2)

    def noted(number: int, planned: Any, watch: Any, threads: int) -> None:
        taken.append((number, threads))
        if count == 40 and taken.count((number, 1)) == 1:
            both.wait(60)  # else one lane could be done before the other's thread has begun
        run(number, planned, watch, threads)

    monkeypatch.setattr(crew, "_run", noted)
    for count in (20, 40):
        taken.clear()
        for i in range(count):
            engine.add(Request(str(i), [3 + i % 4, 4], SamplingParams(temperature=0, max_tokens=6, ignore_eos=True), i))
        while engine.num_unfinished:
            engine.step()
        assert {*taken} == {(0, 2)} if count == 20 else {(0, 1), (1, 1)} <= {*taken}


def test_lanes_are_used_while_others_want_the_cores(tmp_path: Path) -> None:
    now, waited = [0.0], [0]
    (tmp_path / "7").mkdir()

    def after(seconds: float, share: float) -> bool:
        """Whether there is company when the thread has waited for so much of that time."""
        now[0] += seconds
        waited[0] += int(share * seconds * 1e9)
        (tmp_path / "7/schedstat").write_text(f"5 {waited[0]} 9\n")
        return company.is_there()

    (tmp_path / "7/schedstat").write_text("5 0 9\n")
    company = Company(1, tasks=tmp_path, clock=lambda: now[0])
    assert not after(1, 0.01)
    assert not after(0.01, 1.0), "too early to tell"
    assert after(1, 0.5)
    assert [after(1, 0.0) for _ in range(PATIENCE)] == [True] * (PATIENCE - 1) + [False]
    assert after(1, 0.2)
    assert all(after(1, 0.05) for _ in range(2 * PATIENCE)), "neither calm nor crowded"
    (tmp_path / "8").mkdir()  # of which nothing is said
    assert after(1, 0.2)
    assert not Company(1, tasks=tmp_path / "none", clock=lambda: now[0]).is_there()
