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
from ..errors import AdapterError
from ..models.language_model import LanguageModel
from ..parallel.group import Lost
from ..parallel.met import ALONE, Met
from ..parallel.ranks import Ranks
from ..parallel.watch import Watch
from ..parallel.wire import pack_arrays
from ..sampling.transfers import on
from ..settings.config import EngineConfig
from ..weights.source import ModelSource
from .generating import Room, device_of, load
from .meeting import meet, shared_memory
from .stage_runner import StageRunner
from .tower_memory import TowerMemory


class ShardedRunner(StageRunner):
    """Rank 0's runner: every batch goes to the others first. It is of the last stage, if there are several."""

    def __init__(
        self,
        model: LanguageModel,
        ops: Ops,
        caches: list[KVCache],
        block_size: int,
        device: torch.device,
        pools: Sequence[Sequence[Tensor]],
        ranks: Ranks,
        met: Met,
        room: Room,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(model, ops, caches, block_size, device, pools, met.before)
        self.ranks = ranks
        self.group, self._stage, self._room = met.group, met.place.stage, room
        self.watch = watch
        """Ends a wait for the device that has no end by itself; None if there is no such wait."""

    @property
    def num_states(self) -> int:
        """State slots that every rank has room for. Not read off this rank's pools: its layers may keep no states."""
        return self._room.num_states

    @property
    def num_stages(self) -> int:
        return self._stage.count

    @property
    def can_be_shared(self) -> bool:
        """Ranks exchange in the order of steps."""
        return False

    def begin(self, batch: Batch) -> None:
        self.ranks.send(pack_arrays(batch.arrays()))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            with super().at_work(), nullcontext() if self.watch is None else self.watch.waiting():
                yield
        except Lost as error:
            self.ranks.fail(error)

    def check(self) -> None:
        """Raises EngineError if a rank is gone."""
        if self.ranks.missing():
            self.ranks.fail()

    def close(self) -> None:
        """Ends the other ranks."""
        self.ranks.close()

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        if adapter.config.bases and not self._stage.is_first:  # the first stage has the embedding, and only a rank's own fault ends here
            path = adapter.config.path
            raise AdapterError(f"adapter {path} has an embedding or a head of its own, which a pipeline does not take; merge it with PEFT")
        super().load_adapter(slot, adapter)  # what does not fit here is not sent
        self.ranks.send(pack_arrays(adapter.arrays(slot)))

    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> Tensor:
        if self._stage.count == 1:
            self.begin(batch)
        try:
            if batch.asks_back:  # this rank drew them
                assert self.drawn is not None
                self.drawn = self.group.broadcast(self.drawn)
            return super().run(batch, take_prompt)
        except Lost as error:
            self.ranks.fail(error)


def build_runner(
    config: EngineConfig,
    source: ModelSource,
    wrap_ops: Callable[[Ops], Ops] | None = None,
    tower: TowerMemory | None = None,
) -> tuple[Runner, int]:
    """The runner with weights and cache in memory, and its number of usable KV blocks.

    Args:
        wrap_ops: what takes the place of the loaded backend, made from it: to time or trace its operations.
        tower: of the model, which this process has.

    Raises ModelError, ConfigError, EngineError.
    """
    with on(device_of(config, 0)):
        if config.num_ranks > 1:
            return _build_sharded(config, source, wrap_ops, tower)
        loaded = load(config, source, ALONE, wrap_ops, tower)
        return loaded.runner(config, loaded.room), loaded.room.num_blocks


def _build_sharded(
    config: EngineConfig, source: ModelSource, wrap_ops: Callable[[Ops], Ops] | None, tower: TowerMemory | None
) -> tuple[Runner, int]:
    """Starts the other ranks, loads this one's part meanwhile, and agrees with them on the size of the KV cache.

    Raises what any of them raises; then none is left.
    """
    folder = tempfile.mkdtemp(prefix="infer-ranks-")  # for its owner alone
    shared = shared_memory(config, source.spec(config.hf_overrides))
    memory = None if shared is None else shared["descriptor"]
    try:
        payloads = [{"config": _plain(config), "rank": rank, "folder": folder, "shared": shared} for rank in range(1, config.num_ranks)]
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
        met, watch = meet(config, 0, folder, shared, ranks.missing), None
        if device.type == "cuda":  # a CPU's collectives notice by themselves what becomes of the others
            ranks.at_end(met.abort)
            watch = Watch(ranks.workers, met.abort, stall_timeout=config.stall_timeout)
            ranks.at_end(watch.stop)
        met.greet(device)
        loaded = load(config, source, met, wrap_ops, tower)
        room = Room(*map(min, zip(loaded.room, *ranks.receive_json(), strict=True)))
        ranks.send_json([*room])
        plain = loaded.runner(config, room)
        runner = ShardedRunner(plain.model, plain.ops, plain.caches, plain.block_size, plain.device, plain.pools, ranks, met, room, watch)
        runner.any_rows = plain.any_rows
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
