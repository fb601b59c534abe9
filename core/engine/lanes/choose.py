"""The lanes that an engine's steps are shared out to, if there are several."""

from __future__ import annotations

from collections.abc import Callable
from weakref import proxy

from ...settings.config import EngineConfig
from .company import Company
from .crew import Crew, Work
from .lane import Lane
from .pipeline import Pipeline


def lanes_of(engine: Work, config: EngineConfig, first: Lane, another: Callable[[], Lane]) -> Crew | Pipeline | None:
    """As many as its model has stages, or threads that compute; None where there is but the first."""
    stages = engine.runner.num_stages
    count = stages if stages > 1 else config.lanes if engine.runner.can_be_shared else 1
    if count == 1:
        return None
    lanes = [first, *(another() for _ in range(count - 1))]
    if stages > 1:
        return Pipeline(proxy(engine), lanes)
    return Crew(engine, lanes, config.threads, None if config.lanes_always else Company(config.threads), config.cpus)
