"""The way by which the ranks of a model exchange: memory that they share on a CPU, else backends of torch.distributed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.batch import padded_rows
from ..errors import EngineError
from ..parallel import group
from ..parallel.channel import TorchChannel
from ..parallel.group import SINGLE, Group
from ..parallel.met import Met
from ..parallel.stages import Place
from ..settings.config import EngineConfig
from ..spec.model_spec import ModelSpec
from .generating import device_of

log = logging.getLogger(__name__)

#: Most bytes of a message between stages that go at once.
_SLOT = 16 << 20


def shared_memory(config: EngineConfig, spec: ModelSpec) -> dict[str, int] | None:
    """The shared memory of all ranks, for `meet`, with its file descriptor; None if the ranks use torch.distributed. A notice is logged if
    that is the slower way."""
    if config.device != "cpu" or config.disable_custom_all_reduce:
        return None
    if config.kernels != "cpu":
        log.info("ranks exchange over sockets (gloo): only compiled kernels can wait for shared memory")
        return None
    from ..parallel.shared_memory import LINE, channel_bytes, group_bytes, new_memory

    size, count = config.tensor_parallel_size, config.pipeline_parallel_size
    hidden = 0 if spec.stack is None else spec.stack.hidden_size
    # Two tensors of at most four bytes a number, and a factor for each row: see `Hidden`.
    message = padded_rows(config.max_num_batched_tokens) * (8 * hidden + 4) + 3 * LINE
    slot = min(_SLOT, -(-message // LINE) * LINE)
    channels = (count - 1) * size * channel_bytes(count + 1, slot)
    try:
        return {"descriptor": new_memory(count * group_bytes(size) + channels), "slot": slot}
    except EngineError as error:
        log.info("ranks exchange over sockets (gloo): %s", error)
        return None


def meet(config: EngineConfig, rank: int, folder: str, shared: Mapping[str, int] | None, missing: Callable[[], str]) -> Met:
    """Those that a rank exchanges with. All ranks have to call this at about the same time.

    Args:
        folder: where those that share no memory find each other; it must stay as long as any of them.
        shared: what `shared_memory` gave.
        missing: see `Patience`.

    Raises EngineError where they cannot meet.
    """
    place = Place.of(rank, config.tensor_parallel_size, config.pipeline_parallel_size)
    return _by_torch(config, rank, place, folder) if shared is None else _by_memory(config, place, shared, missing)


def _by_memory(config: EngineConfig, place: Place, shared: Mapping[str, int], missing: Callable[[], str]) -> Met:
    """The memory: a region of each stage's group, then one of each channel, stage by stage."""
    from ..parallel.shared_memory import Patience, SharedChannel, SharedGroup, channel_bytes, group_bytes, mapped

    memory, patience = mapped(shared["descriptor"]), Patience(missing, config.stall_timeout)
    stage, slots, slot = place.stage, place.stage.count + 1, shared["slot"]
    of_group, of_channel = group_bytes(place.size), channel_bytes(slots, slot)

    def channel(stage_before: int) -> SharedChannel:
        start = stage.count * of_group + (stage_before * place.size + place.rank) * of_channel
        return SharedChannel(memory[start : start + of_channel], slots, slot, patience)

    group: Group = SINGLE
    if place.size > 1:
        own = memory[stage.number * of_group : (stage.number + 1) * of_group]
        group = SharedGroup(own, place.rank, place.size, patience, whole_experts=config.enable_expert_parallel)
    before = None if stage.is_first else channel(stage.number - 1)
    return Met(place, group, before, None if stage.is_last else channel(stage.number))


def _by_torch(config: EngineConfig, rank: int, place: Place, folder: str) -> Met:
    device, stage = device_of(config, rank), place.stage
    more: dict[str, Any] = {"device": device, "stall_timeout": config.stall_timeout, "deterministic": config.deterministic}
    joined: Group = SINGLE
    if place.size > 1:
        name = f"ranks-of-{stage.number}"
        joined = group.join(folder, place.rank, place.size, name=name, whole_experts=config.enable_expert_parallel, **more)
    if stage.count == 1:
        return Met(place, joined, None, None)
    everyone = group.join(folder, rank, config.num_ranks, **more)

    def channel(other: int) -> TorchChannel:
        return TorchChannel(everyone.backend, other, device, stage.count)

    before = None if stage.is_first else channel(rank + place.size)
    return Met(place, joined, before, None if stage.is_last else channel(rank - place.size), everyone)
