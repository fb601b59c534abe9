"""The engine of a plan: in this process, or where `data_parallel_size` or `executor` says so, several elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..engine.protocol import AnyEngine
    from .transport import Transport


def start(plan: Plan) -> AnyEngine:
    """Loads the weights and takes the memory. Raises ModelError, ConfigError, EngineError."""
    config = plan.config
    if config.data_parallel_size > 1 or config.executor == "ray":
        from .fleet import Fleet

        media = plan.media_store
        if media is not None:  # towers run in replicas
            media.look_only()
        return Fleet(config, _transport(plan), plan.tokenizer, recipe=plan.recipe, media=media)
    from ..build.engines import build

    return build(plan)


def _transport(plan: Plan) -> Transport:
    if plan.config.executor == "ray":
        from .actors import Actors

        return Actors(plan)
    from .processes import Processes
    from .replica import payloads

    return Processes(payloads(plan.config, plan.recipe), stall_timeout=plan.config.stall_timeout)
