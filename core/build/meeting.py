"""The way by which the ranks of a model exchange: memory that they share on a CPU, else a backend of torch.distributed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import EngineError
from ..parallel import group
from ..parallel.group import Group
from ..settings.config import EngineConfig
from .generating import device_of

log = logging.getLogger(__name__)


def shared_memory(config: EngineConfig) -> int | None:
    """The descriptor of memory for all ranks; None where they use torch.distributed, which is said where it is the slower way."""
    if config.device != "cpu" or config.disable_custom_all_reduce:
        return None
    if config.kernels != "cpu":
        log.info("ranks exchange over sockets (gloo): only compiled kernels can wait for shared memory")
        return None
    from ..parallel.shared_memory import group_bytes, new_memory

    try:
        return new_memory(group_bytes(config.tensor_parallel_size))
    except EngineError as error:
        log.info("ranks exchange over sockets (gloo): %s", error)
        return None


def meet(config: EngineConfig, rank: int, folder: str, descriptor: int | None, missing: Callable[[], str]) -> Group:
    """The group of all ranks, which have to call this at about the same time.

    Args:
        folder: where those that share no memory find each other; it must stay as long as any of them.
        descriptor: of the memory that they share, or None.
        missing: see `Patience`.

    Raises EngineError where they cannot meet.
    """
    size, whole_experts = config.tensor_parallel_size, config.enable_expert_parallel
    if descriptor is None:
        return group.join(
            folder,
            rank,
            size,
            device=device_of(config, rank),
            stall_timeout=config.stall_timeout,
            deterministic=config.deterministic,
            whole_experts=whole_experts,
        )
    from ..parallel.shared_memory import Patience, SharedGroup, mapped

    return SharedGroup(mapped(descriptor), rank, size, Patience(missing, config.stall_timeout), whole_experts=whole_experts)
