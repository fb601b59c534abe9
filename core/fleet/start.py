"""The engine of a plan: in this process, or where `data_parallel_size` says so, several in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..engine.protocol import AnyEngine


def start(plan: Plan) -> AnyEngine:
    """Loads the weights and takes the memory. Raises ModelError, ConfigError, EngineError."""
    if plan.config.data_parallel_size > 1:
        from .fleet import Fleet
        from .processes import Processes
        from .replica import payloads

        config = plan.config
        transport = Processes(payloads(config, plan.recipe), stall_timeout=config.stall_timeout)
        return Fleet(config, transport, plan.tokenizer, recipe=plan.recipe)
    from ..build.engines import build

    return build(plan)
