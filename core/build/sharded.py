"""The runner of steps: a model in this process, or one that ranks share. This process is then rank 0; the others run `rank.py` and do
what it does, step for step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from infer.kernels.ops import KVCache, Ops

from ..adapters.weights import AdapterWeights
from ..engine.batch import Batch
from ..engine.runner import Runner, TakePiece
from ..models.language_model import LanguageModel
from ..parallel import group
from ..parallel.group import Lost
from ..parallel.ranks import Ranks
from ..parallel.watch import Watch
from ..parallel.wire import pack_arrays
from ..sampling.transfers import on
from ..settings.config import EngineConfig
from ..weights.source import ModelSource
from .generating import Room, device_of, load
from .meeting import meet, shared_memory


class ShardedRunner(Runner):
    """Rank 0's runner: every batch goes to the others first."""

    def __init__(
        self,
        model: LanguageModel,
        ops: Ops,
        caches: list[KVCache],
        block_size: int,
        device: torch.device,
        pools: Sequence[Sequence[Tensor]],
        ranks: Ranks,
        joined: group.Group,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(model, ops, caches, block_size, device, pools)
        self.ranks = ranks
        self.group = joined
        self.watch = watch
        """Ends a wait for the device that has no end by itself; None if there is no such wait."""

    @property
    def can_be_shared(self) -> bool:
        """False: the other ranks do one step after the other."""
        return False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            with super().at_work(), nullcontext() if self.watch is None else self.watch.waiting():
                yield
        except Lost as error:
            self.ranks.fail(error)

    def close(self) -> None:
        """Ends the other ranks."""
        self.ranks.close()

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        super().load_adapter(slot, adapter)  # what does not fit here is not sent
        self.ranks.send(pack_arrays(adapter.arrays(slot)))

    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> Tensor:
        self.ranks.send(pack_arrays(batch.arrays()))
        try:
            if batch.asks_back:  # this rank drew them
                assert self.drawn is not None
                self.drawn = self.group.broadcast(self.drawn)
            return super().run(batch, take_prompt)
        except Lost as error:
            self.ranks.fail(error)


def build_runner(config: EngineConfig, source: ModelSource, wrap_ops: Callable[[Ops], Ops] | None = None) -> tuple[Runner, int]:
    """The runner with weights and cache in memory, and its number of usable KV blocks.

    Args:
        wrap_ops: what takes the place of the loaded backend, made from it: to time or trace its operations.

    Raises ModelError, ConfigError, EngineError.
    """
    with on(device_of(config, 0)):
        if config.tensor_parallel_size > 1:
            return _build_sharded(config, source, wrap_ops)
        loaded = load(config, source, group.SINGLE, wrap_ops)
        return loaded.runner(config, loaded.room), loaded.room.num_blocks


def _build_sharded(config: EngineConfig, source: ModelSource, wrap_ops: Callable[[Ops], Ops] | None) -> tuple[Runner, int]:
    """Starts the other ranks, loads this one's part meanwhile, and agrees with them on the size of the KV cache.

    Raises what any of them raises; then none is left.
    """
    size = config.tensor_parallel_size
    folder = tempfile.mkdtemp(prefix="infer-ranks-")  # for its owner alone
    memory = shared_memory(config)
    try:
        payloads = [{"config": _plain(config), "rank": rank, "folder": folder, "memory": memory} for rank in range(1, size)]
        ranks = Ranks("infer.core.build.rank", payloads, noun="rank", first=1, stall_timeout=config.stall_timeout, inherited=memory)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if memory is not None:
            os.close(memory)
        raise
    ranks.at_end(partial(shutil.rmtree, folder, ignore_errors=True))
    try:
        ranks.receive_json()  # they have imported all they need
        ranks.send_json("meet")
        device = device_of(config, 0)
        joined = meet(config, 0, folder, memory, ranks.missing)
        watch = None
        if device.type == "cuda":  # a CPU's collectives notice by themselves what becomes of the others
            ranks.at_end(joined.abort)
            watch = Watch(ranks.workers, joined.abort, stall_timeout=config.stall_timeout)
            ranks.at_end(watch.stop)
        joined.greet(device)
        loaded = load(config, source, joined, wrap_ops)
        room = Room(*map(min, zip(loaded.room, *ranks.receive_json(), strict=True)))
        ranks.send_json([*room])
        plain = loaded.runner(config, room)
        runner = ShardedRunner(plain.model, plain.ops, plain.caches, plain.block_size, plain.device, plain.pools, ranks, joined, watch)
        runner.swapper, runner.graphs, runner.adapters = plain.swapper, plain.graphs, plain.adapters
        ranks.receive_json()  # they have taken their memory
    except Lost as error:
        ranks.fail(error)
    except BaseException:
        ranks.close(grace=0)
        raise
    return runner, room.num_blocks


def _plain(config: EngineConfig) -> dict[str, object]:
    """All settings, JSON-able; unlike `to_dict` with the token, which goes through a wire that nobody else sees."""
    return asdict(config)
