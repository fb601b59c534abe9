"""Pools of states: what layers keep of a sequence whatever its length, in slots, beside the KV cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, EngineError
from ..layers.mixers import new_pools
from ..settings.config import EngineConfig
from ..spec.mixers import StateSpec

log = logging.getLogger(__name__)

#: Snapshots for the prefix cache, of so many bytes, but no fewer and no more than these numbers.
SNAPSHOT_BYTES = 512 << 20
FEWEST_SNAPSHOTS, MOST_SNAPSHOTS = 4, 64


@dataclass(frozen=True, slots=True)
class StateShape:
    """The states of a sequence, layer by layer."""

    layers: tuple[tuple[StateSpec, ...], ...]
    dtype: torch.dtype
    """The model's."""

    @property
    def bytes_per_sequence(self) -> int:
        return sum(state.num_bytes(self.dtype.itemsize) for layer in self.layers for state in layer)

    def bytes_of(self, num_states: int) -> int:
        """Bytes of pools with so many slots for sequences; none of none."""
        return (num_states + 1) * self.bytes_per_sequence if num_states else 0


def choose_num_states(config: EngineConfig, shape: StateShape, budget: int | None, *, attends: bool) -> int:
    """Slots for sequences and snapshots (the null slot not counted); 0 for a model without states.

    Args:
        budget: bytes for these and the KV cache, which gets half of them at least; None: there is no limit.
        attends: whether there is a KV cache.

    Raises ConfigError for no slot at all.
    """
    each = shape.bytes_per_sequence
    if not each:
        return 0
    snapshots = min(MOST_SNAPSHOTS, max(FEWEST_SNAPSHOTS, SNAPSHOT_BYTES // each)) if config.enable_prefix_caching else FEWEST_SNAPSHOTS
    wanted = config.max_num_seqs + snapshots
    if budget is None:
        room = wanted
    else:
        room = max(0, budget // (2 if attends else 1) // each - 1)
        if room < 1:
            raise ConfigError(
                f"the states of one sequence are {each} bytes, and there is no room for them in {budget} bytes of memory"
                f"{', half of which is for the KV cache' if attends else ''}; raise kv_cache_memory_bytes or gpu_memory_utilization"
            )
    slots = min(wanted, room)
    if slots < config.max_num_seqs:
        log.warning("states of %d sequences of %.1f MiB fit the memory: no more run at a time", slots, each / 2**20)
    log.info("states: %d slots of %.2f MiB, %.2f GiB", slots, each / 2**20, slots * each / 2**30)
    return slots


def allocate(shape: StateShape, num_states: int, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Pools with the null slot in front of `num_states`, see `new_pools`. Raises EngineError when memory runs out."""
    try:
        return new_pools(shape.layers, num_states + 1, shape.dtype, device)
    except (RuntimeError, MemoryError) as error:
        size = shape.bytes_of(num_states) / 2**30
        raise EngineError(f"no memory for states of {size:.2f} GiB; lower --max-num-seqs") from error
