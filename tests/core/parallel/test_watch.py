"""A wait for the device that has no end by itself gets one: where a rank is gone, and where time is up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from infer.core.build.generating import Room
from infer.core.build.sharded import ShardedRunner
from infer.core.errors import EngineError, RecordError
from infer.core.parallel.group import Lost
from infer.core.parallel.met import ALONE
from infer.core.parallel.watch import Watch

#: No test waits so long: where the watch does nothing, they fail.
LONG = 60.0


@dataclass
class Process:
    ended: bool = False


class Device:
    """Waits for other ranks until it is told not to."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    def synchronize(self, *, without: Process | None = None, says: str = "") -> None:
        """While a process ends; RuntimeError where that `says` something."""
        if without is not None:
            without.ended = True
        assert self.given_up.wait(LONG), "it would wait for ever"
        if says:
            raise RuntimeError(says)


@pytest.fixture
def watching() -> Iterator[Callable[..., tuple[Watch, Device, list[Process]]]]:
    with ExitStack() as stack:

        def make(*, stall_timeout: float = LONG) -> tuple[Watch, Device, list[Process]]:
            device, processes = Device(), [Process(), Process()]
            watch = Watch(processes, device.given_up.set, stall_timeout=stall_timeout, interval=0.01)
            stack.callback(watch.stop)
            return watch, device, processes

        yield make


def test_a_rank_that_is_gone_ends_the_wait(watching: Any) -> None:
    """What was computed beside it means nothing, though no error came of it."""
    watch, device, processes = watching()
    with watch.waiting():
        pass
    with pytest.raises(Lost, match="a rank is gone"), watch.waiting():
        device.synchronize(without=processes[1])
    with pytest.raises(Lost), watch.waiting():
        pass


def test_a_rank_that_does_not_answer_ends_it_in_time(watching: Any) -> None:
    watch, device, _ = watching(stall_timeout=0.05)
    with pytest.raises(Lost, match="time is up"), watch.waiting():
        device.synchronize()


def test_time_counts_only_while_somebody_waits(watching: Any) -> None:
    watch, device, _ = watching(stall_timeout=0.05)
    assert not device.given_up.wait(0.3)
    watch.check()


def test_what_the_device_says_of_it_is_the_cause(watching: Any) -> None:
    watch, device, processes = watching()
    with pytest.raises(Lost) as lost, watch.waiting():
        device.synchronize(without=processes[0], says="communicator was aborted")
    assert str(lost.value.__cause__) == "communicator was aborted"
    fine, _, _ = watching()
    with pytest.raises(RuntimeError, match="other things"), fine.waiting():
        raise RuntimeError("other things")
    with pytest.raises(RecordError), fine.waiting():
        raise RecordError("invalid_value", "of one record")


def test_a_backend_that_cannot_be_aborted_is_no_end_of_the_watch(watching: Any) -> None:
    processes = [Process()]

    def cannot() -> None:
        raise RuntimeError("not supported")

    watch = Watch(processes, cannot, stall_timeout=LONG, interval=0.01)
    processes[0].ended = True
    with pytest.raises(Lost), watch.waiting():
        pass


def test_the_runner_tells_who_it_was(watching: Any) -> None:
    watch, device, processes = watching()

    class Ranks:
        def fail(self, cause: BaseException) -> None:
            raise EngineError("rank 1 (process 7) was killed by SIGKILL: out of memory?; all were ended") from cause

    runner = ShardedRunner(None, None, [], 16, torch.device("cpu"), (), Ranks(), ALONE, Room(1, 0, 0), watch)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="rank 1") as error, runner.at_work():
        device.synchronize(without=processes[0])
    assert isinstance(error.value.__cause__, Lost)
