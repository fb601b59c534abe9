"""Steps of schedulers and engines under test, with proof after each that the books balance."""

from __future__ import annotations

from infer.core.engine.engine import Engine
from infer.core.engine.schedule import Schedule
from infer.core.engine.scheduler import Scheduler
from infer.core.types.outputs import RequestOutput


def step(scheduler: Scheduler) -> Schedule:
    """One step in which every sequence that samples draws a 7; those of full length end."""
    schedule = scheduler.schedule()
    scheduler.check_integrity()
    scheduler.commit(schedule, [7] * int(schedule.samples.sum()))
    ended = [s for s in schedule.sequences if len(s.tokens) >= s.max_length]
    for s in ended:
        s.finish_reason = "length"
    scheduler.finish(ended)
    scheduler.check_integrity()
    return schedule


def drain(engine: Engine) -> dict[str, RequestOutput]:
    """The outputs of all requests that are open; nothing is held after them."""
    outputs = {}
    while engine.num_unfinished:
        outputs.update({o.request_id: o for o in engine.step()})
        engine.scheduler.check_integrity()
    assert engine.scheduler.blocks.num_free == engine.scheduler.blocks.num_usable
    assert not engine.scheduler.has_work
    return outputs
