"""The fleet's own part: what becomes of requests whose replicas are lost. Replicas are simulated; no model is loaded."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.plan import Plan, make_plan
from infer.core.errors import EngineError, ModelError
from infer.core.fleet.fleet import Fleet
from infer.core.fleet.transport import Event, Lost
from infer.core.settings.args import EngineArgs
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from .simulated import FakeReplica, Simulated

SEQS = 4


@pytest.fixture(scope="module")
def plan(tiny_llama: Path) -> Plan:
    return make_plan(EngineArgs(str(tiny_llama), device="cpu"), compile_kernels=False)


def fleet_of(plan: Plan, transport: Simulated, replicas: int = 3, **settings: Any) -> Fleet:
    settings = {"max_restarts": 10 * replicas, **settings}
    return Fleet(replace(plan.config, data_parallel_size=replicas, max_num_seqs=SEQS, **settings), transport, plan.tokenizer)


def add(fleet: Fleet, names: list[str]) -> None:
    for index, name in enumerate(names):
        fleet.add(Request(name, [1, 2], SamplingParams(max_tokens=4), index, prompt=f"prompt {name}"))


def answers(fleet: Fleet, *, most: int = 100_000) -> dict[str, RequestOutput]:
    """All of them, each of which must come once, and the books, which must balance."""
    found: dict[str, RequestOutput] = {}
    for i in range(most):
        if not fleet.num_unfinished:
            break
        for output in fleet.step():
            assert output.request_id not in found
            found[output.request_id] = output
        if i % 5 == 0:
            check_books(fleet)
    check_books(fleet)
    assert not fleet.num_unfinished
    return found


def check_books(fleet: Fleet) -> None:
    """What is counted as it changes is what a count of all finds."""
    members, most = fleet._members.values(), fleet.config.max_num_seqs
    for member in members:
        assert member.load == sum(fleet._requests[name].weight for name in member.requests)
        assert all(fleet._requests[name].member is member for name in member.requests)
    assert fleet._num_queued == sum(asked.weight for asked in fleet._requests.values() if asked.member is None)
    assert fleet._num_behind == sum(max(0, member.load - most) for member in members)


NAMES = [str(i) for i in range(200)]


@pytest.mark.parametrize("seed", range(6))
def test_all_is_answered_once_whoever_is_lost(plan: Plan, seed: int) -> None:
    chance = random.Random(seed)
    transport = Simulated(seed, dies=lambda _: chance.random() < 0.02, loads=lambda one: one.life < 3 or chance.random() > 0.2)
    fleet = fleet_of(plan, transport, max_restarts=1000)
    add(fleet, NAMES)
    found = answers(fleet)
    assert fleet.num_lost > 0
    assert {name: output.outputs[0].text for name, output in found.items() if not output.error} == {
        name: f"prompt {name}" for name in NAMES if not found[name].error
    }
    assert not [output.error for output in found.values() if output.error]
    assert fleet.stats.num_kv_blocks == 1000 * sum(member.is_ready for member in fleet._members.values())
    assert fleet.stats.num_steps >= len(NAMES)  # what a lost one had computed was computed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", [NAMES, ["17"]])
@pytest.mark.parametrize("replicas", [2, 5])
def test_a_record_that_ends_every_engine_gets_an_error_and_no_other_does(plan: Plan, seed: int, names: list[str], replicas: int) -> None:
    transport = Simulated(seed, deadly=["prompt 17"])
    fleet = fleet_of(plan, transport, replicas)
    add(fleet, names)
    found = answers(fleet)
    assert sorted(found) == sorted(names)
    assert [name for name, output in found.items() if output.error] == ["17"]
    error = found["17"].error
    assert error is not None
    assert (error.code, error.retryable) == ("internal", True)
    assert "SIGKILL" in str(error)
    assert fleet.num_lost <= 2 + 4 + 2  # two before it is suspected, halves of at most twelve, and twice alone
    add(fleet, ["more", "17b"])
    assert not any(output.error for output in answers(fleet).values())  # and the fleet is as it was
    assert fleet._trials.apart is None


def test_several_such_records(plan: Plan) -> None:
    fleet = fleet_of(plan, Simulated(3, deadly=["prompt 5", "prompt 6", "prompt 150"]), max_restarts=100)
    add(fleet, NAMES)
    assert sorted(name for name, output in answers(fleet).items() if output.error) == ["150", "5", "6"]


def test_a_run_in_which_too_many_are_lost_ends(plan: Plan) -> None:
    chance = random.Random(0)
    fleet = fleet_of(plan, Simulated(0, dies=lambda _: chance.random() < 0.2), max_restarts=4)
    add(fleet, NAMES)
    with pytest.raises(EngineError, match="5 engines were lost in this run, and --max-restarts allows 4"):
        answers(fleet)
    assert fleet._transport.closed
    with pytest.raises(EngineError):
        fleet.step()


def test_without_restarts_the_first_one_ends_it(plan: Plan) -> None:
    fleet = fleet_of(plan, Simulated(0, dies=lambda _: True), max_restarts=0)
    add(fleet, NAMES)
    with pytest.raises(EngineError, match=r"^engine \d \(life \d\) was killed by SIGKILL$"):
        answers(fleet)


def test_answers_that_came_before_the_end_are_given(plan: Plan) -> None:
    class Both(Simulated):
        """Tells of an answer and of a loss at once."""

        def wait(self, timeout: float) -> list[Event]:
            events = super().wait(timeout)
            return [*events, Lost(events[0].replica, EngineError("it is gone"))] if any(one.has for one in self.replicas) else events

    fleet = fleet_of(plan, Both(), 1, max_restarts=0)
    add(fleet, ["a", "b"])
    assert len(fleet.step()) == 1
    with pytest.raises(EngineError, match="it is gone"):
        fleet.step()


def test_an_engine_that_never_starts_again_is_left_out(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    started = [0, 0, 0]

    def loads(replica: FakeReplica) -> bool:
        started[replica.number] += 1
        return replica.number != 1 or started[1] == 1

    died: list[int] = []

    def dies(replica: FakeReplica) -> bool:
        if replica.number == 1 and not died:
            died.append(1)
        return replica.number == 1 and len(died) == 1 and replica.life == 1

    transport = Simulated(1, loads=loads, dies=dies)
    fleet = fleet_of(plan, transport)
    add(fleet, NAMES)
    assert not any(output.error for output in answers(fleet).values())
    assert started == [1, 3, 1]
    assert "goes on with 2 engines" in caplog.text


def test_none_that_starts_again_ends_the_run(plan: Plan) -> None:
    fleet = fleet_of(plan, Simulated(0, loads=lambda one: one.life < 2, dies=lambda _: True), 2)
    add(fleet, NAMES)
    with pytest.raises(EngineError, match="no engine is left: each was lost 3 times in a row"):
        answers(fleet)


def test_an_error_that_any_other_would_raise_ends_the_run(plan: Plan) -> None:
    class Wrong(Simulated):
        def _lost(self, replica: FakeReplica) -> Lost:
            return Lost(replica, ModelError("no such model"))

    for at_start in (True, False):
        transport = Wrong(0, loads=lambda _, at_start=at_start: not at_start, dies=lambda _: True, is_local=not at_start)

        def run(transport: Simulated = transport) -> None:
            fleet = fleet_of(plan, transport)
            add(fleet, NAMES)
            answers(fleet)

        with pytest.raises(ModelError, match="no such model"):
            run()


def test_one_that_says_nothing_is_ended_and_replaced(plan: Plan) -> None:
    transport = Simulated(0, silent=[1])
    fleet = fleet_of(plan, transport, stall_timeout=0.001, max_restarts=1000)
    add(fleet, NAMES[:30])
    found: list[str] = []
    while fleet.num_unfinished:
        found += [output.request_id for output in fleet.step()]
        if fleet.num_lost:
            transport.silent.clear()
    assert sorted(found) == sorted(NAMES[:30])
    assert fleet.num_lost >= 1


def test_one_that_is_lost_while_there_is_nothing_to_do_is_replaced_at_once(plan: Plan) -> None:
    transport = Simulated(0)
    fleet = fleet_of(plan, transport, 2, max_restarts=1)
    fleet.check()
    assert transport.started == 2
    transport.killed.append(transport.replicas[0])
    fleet.check()
    assert (fleet.num_lost, transport.started, len(transport.replicas)) == (1, 3, 2)
    while not all(one.is_ready for one in transport.replicas):
        fleet.check()
    add(fleet, NAMES[:30])
    assert len(answers(fleet)) == 30
    transport.killed.append(transport.replicas[0])
    with pytest.raises(EngineError, match="--max-restarts allows 1"):
        fleet.check()


def test_what_is_dropped_is_nobodys_work(plan: Plan) -> None:
    transport = Simulated(0)
    fleet = fleet_of(plan, transport)
    add(fleet, NAMES)
    given = {output.request_id for _ in range(5) for output in fleet.step()}
    dropped = [name for name in NAMES if name not in given][::2]
    for name in dropped:
        fleet.abort(name)
        check_books(fleet)
    assert not set(answers(fleet)) & set(dropped)
    assert fleet.num_waiting == 0


def test_replicas_that_come_late_are_used(plan: Plan) -> None:
    transport = Simulated(0, is_local=False)
    fleet = fleet_of(plan, transport, 4)
    assert sum(member.is_ready for member in fleet._members.values()) == 1  # it begins with the first
    add(fleet, NAMES)
    assert len(answers(fleet)) == len(NAMES)
    assert sum(member.is_ready for member in fleet._members.values()) == 4
    assert all(one.answered for one in transport.replicas)
    assert transport.largest <= 3 * SEQS


def test_a_late_one_without_room_for_what_was_accepted_is_left_out(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    blocks = [1000, 999, 1, 1000]  # the second has less memory, and enough for any request
    transport = Simulated(2, is_local=False, blocks=lambda one: blocks[one.number])
    transport.loads = lambda one: True
    fleet = fleet_of(plan, transport, 4)
    first = next(member.number for member in fleet._members.values() if member.is_ready)
    assert first != 2, "the seed is chosen so that the small one is late"
    add(fleet, NAMES)
    assert not any(output.error for output in answers(fleet).values())
    assert sorted(one.number for one in transport.replicas) == [0, 1, 3]
    assert "has memory for 16 tokens, less than requests were promised, and is left out" in caplog.text


def test_an_engine_that_is_there_first_leaves_others_their_part(plan: Plan) -> None:
    """Of a job that one could take whole, which would then be no faster than with one."""
    fleet = fleet_of(plan, Simulated(0), 2)
    fleet.config = replace(fleet.config, max_num_seqs=100)
    add(fleet, NAMES)
    first, second = fleet._members.values()
    second.is_ready = False
    fleet._loads.drop(second)
    fleet._share_out()
    assert (first.load, fleet._num_queued) == (100, 100)
    second.is_ready = True
    fleet._loads.note(second)
    fleet._share_out()
    assert (first.load, second.load) == (100, 100)
