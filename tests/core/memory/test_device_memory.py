"""Memory of a GPU that is left for the KV cache, on a GPU of numbers; and the steps that are measured, on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.build import generating
from infer.core.build.plan import Plan, make_plan
from infer.core.build.profile import largest_batch, run_largest_steps
from infer.core.build.tower_memory import TowerMemory
from infer.core.engine.runner import Runner
from infer.core.errors import ConfigError, EngineError
from infer.core.memory.device_memory import CudaMemory, MemoryPlan, Usage
from infer.core.memory.kv_cache import MOST_TOKENS, KVShape, choose_num_blocks
from infer.core.parallel.met import ALONE
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.spec.stack import KVSpec

GIB = 1 << 30


@dataclass
class FakeMemory:
    """A GPU of numbers. torch keeps what it had taken until its cache is emptied."""

    total: int = 80 * GIB
    others: int = 0
    hidden: int = 0
    """What this process has without torch's knowledge."""
    used: int = 0
    kept: int = 0
    most: int = 0

    def take(self, size: int) -> None:
        self.used += size
        self.kept = max(self.kept, self.used)
        self.most = max(self.most, self.used)

    def give(self, size: int) -> None:
        self.used -= size

    def free(self) -> int:
        return self.total - self.others - self.hidden - self.kept

    def reserved(self) -> int:
        return self.kept

    def in_use(self) -> int:
        return self.used

    def peak(self) -> int:
        return self.most

    def reset_peak(self) -> None:
        self.most = self.used

    def synchronize(self) -> None:
        pass

    def empty_cache(self) -> None:
        self.kept = self.used


def test_what_is_left() -> None:
    memory = FakeMemory(others=2 * GIB)
    plan = MemoryPlan(memory, 0.9)
    memory.take(30 * GIB)  # on the way to the weights
    memory.give(14 * GIB)

    def step() -> None:
        memory.take(5 * GIB)
        memory.give(3 * GIB)
        memory.take(1 * GIB)
        memory.give(3 * GIB)
        memory.hidden += 1 * GIB

    usage = plan.measure(step)
    assert usage == Usage(budget=72 * GIB, others=2 * GIB, peak=21 * GIB, unknown=1 * GIB)
    assert usage.left == 48 * GIB
    assert memory.kept == 16 * GIB  # the cache is given back
    assert str(usage) == (
        "of 72.00 GiB to use in all, 21.00 GiB are weights and the largest step, 1.00 GiB libraries, 2.00 GiB were taken before"
    )


def test_what_stays_beside_the_largest_step() -> None:
    memory = FakeMemory()
    plan = MemoryPlan(memory, 0.5)
    memory.take(10 * GIB)
    measured = plan.measure(lambda: memory.take(0))

    def graphs() -> None:
        memory.take(2 * GIB)
        memory.give(GIB)
        memory.take(3 * GIB)
        memory.give(4 * GIB)

    assert plan.beside(graphs, "CUDA graphs") == 4 * GIB
    assert memory.kept == 10 * GIB
    with_graphs = replace(measured, graphs=4 * GIB)
    assert with_graphs.left == measured.left - 4 * GIB == 26 * GIB
    assert str(with_graphs) == "of 40.00 GiB to use in all, 10.00 GiB are weights and the largest step, 4.00 GiB CUDA graphs"

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EngineError, match="no memory for CUDA graphs beside the weights; lower --max-num-seqs, try --enforce-eager"):
        plan.beside(full, "CUDA graphs")


def test_another_model_in_this_process_counts_once() -> None:
    memory = FakeMemory(hidden=GIB)
    memory.take(20 * GIB)
    memory.give(4 * GIB)
    plan = MemoryPlan(memory, 0.75)
    memory.take(10 * GIB)
    usage = plan.measure(lambda: None)
    assert usage == Usage(budget=60 * GIB, others=17 * GIB, peak=10 * GIB, unknown=0)


def test_less_free_than_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization=0\.9 of the GPU's 80\.00 GiB is 72\.00 GiB, and 70\.00 GiB are free"):
        MemoryPlan(FakeMemory(others=10 * GIB), 0.9)
    with pytest.raises(ConfigError, match=r"lower it to 0\.87 or less"):
        MemoryPlan(FakeMemory(others=10 * GIB), 0.9)
    MemoryPlan(FakeMemory(others=10 * GIB), 0.87)


def test_a_step_that_does_not_fit_names_what_to_change() -> None:
    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EngineError, match="lower --max-num-batched-tokens or --max-num-seqs"):
        MemoryPlan(FakeMemory(), 0.9).measure(step)


# -- blocks --------------------------------------------------------------------------------------------------------
SHAPE = KVShape((KVSpec(2, 8),) * 2, torch.float32)  # 4096 bytes a block of 16 tokens


def config(**kwargs: Any) -> EngineConfig:
    made = EngineArgs.from_kwargs(model="m", device="cpu", dtype="float32", **kwargs).resolve(read_spec({"max_position_embeddings": 1024}))
    return replace(made, device="cuda:0")


def usage(left: int) -> Usage:
    return Usage(budget=left + 7 * GIB, others=GIB, peak=6 * GIB, unknown=0)


def test_all_that_is_left_is_taken() -> None:
    assert choose_num_blocks(config(), SHAPE, 0, usage(1000 * 4096 + 4095)) == 999  # and the null block
    assert choose_num_blocks(config(num_gpu_blocks_override=70), SHAPE, 0, None) == 70
    assert choose_num_blocks(config(), SHAPE, 0, usage(10**15)) == MOST_TOKENS // 16 - 1


def test_nothing_left_is_refused_with_what_is_in_the_way() -> None:
    for left in (4096, 0, -5 * GIB):
        with pytest.raises(
            ConfigError, match=r"no room for one block.* 6\.00 GiB are weights.*raise --gpu-memory-utilization.*lower --max"
        ):
            choose_num_blocks(config(), SHAPE, 0, usage(left))


def test_a_length_that_does_not_fit_is_refused_with_the_largest_that_does() -> None:
    with pytest.raises(ConfigError, match=r"max_model_len=512 .*lower it to 144, or raise gpu_memory_utilization"):
        choose_num_blocks(config(max_model_len=512), SHAPE, 0, usage(10 * 4096))
    assert choose_num_blocks(config(max_model_len=144), SHAPE, 0, usage(10 * 4096)) == 9


# -- the measured steps --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("num_seqs", "tokens", "length"), [(7, 100, 64), (100, 100, 64), (1, 100, 64), (3, 2048, 64), (64, 8192, 1 << 17), (16, 16, 5)]
)
def test_the_largest_batch(num_seqs: int, tokens: int, length: int) -> None:
    made = replace(config(), max_num_seqs=num_seqs, max_num_batched_tokens=tokens, max_model_len=length)
    batch = largest_batch(made, num_seqs)
    total = min(tokens, num_seqs * length)
    assert batch.query_start[-1] == total == len(batch.slots)
    counts = np.diff(batch.query_start)
    assert len(counts) == batch.num_logits == num_seqs
    assert counts.min() >= 1
    assert counts.max() <= length
    assert batch.positions.max() < length
    assert len(batch.tokens) % 16 == len(batch.logit_rows) % 16 == 0
    assert batch.block_tables.shape[1] * 16 >= length
    assert {*batch.block_tables.ravel().tolist()} == {1}
    assert {*(batch.slots // 16).tolist()} == {1}
    assert (batch.kv_lens == counts).all()
    assert batch.logit_rows[:num_seqs].tolist() == (batch.query_start[1:] - 1).tolist()


def plan_of(model: Path, **kwargs: Any) -> Plan:
    return make_plan(EngineArgs.from_kwargs(model=str(model), device="cpu", dtype="float32", **kwargs))


def test_the_largest_steps_run_and_take_no_blocks(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tiny_llama, max_num_seqs=40, max_num_batched_tokens=300)
    loaded = generating.load(plan.config, plan.source, ALONE)
    ran: list[tuple[int, int, int]] = []
    plain = Runner.run

    def run(self: Runner, *args: Any) -> Any:
        logits = plain(self, *args)
        ran.append((len(args[0].slots), len(logits), len(self.caches[0].key)))
        return logits

    monkeypatch.setattr(Runner, "run", run)
    drawn: list[int] = []
    plain_sample = loaded.ops.sample
    loaded.ops.sample = lambda logits, *rest: (drawn.append(len(logits)), plain_sample(logits, *rest))[1]  # type: ignore[method-assign, func-returns-value]
    run_largest_steps(loaded.model, loaded.ops, loaded.shape, loaded.states, plan.config, loaded.device, draws=True)
    assert ran == [(300, 16, 2), (300, 40, 2)]
    assert drawn == [16, 40]
    run_largest_steps(loaded.model, loaded.ops, loaded.shape, loaded.states, plan.config, loaded.device, draws=False)
    assert drawn == [16, 40]


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    """Computes on the CPU, and counts the memory of a GPU that has 64 MiB."""
    memory = FakeMemory(total=64 << 20, others=2 << 20)
    real = generating.load_model

    def load_model(config: EngineConfig, *rest: Any) -> Any:
        memory.take(8 << 20)
        return real(config, *rest)

    def steps(*args: Any, **kwargs: Any) -> None:
        run_largest_steps(*args, **kwargs)
        memory.take(4 << 20)
        memory.give(4 << 20)

    monkeypatch.setattr(generating, "load_model", load_model)
    monkeypatch.setattr(generating, "run_largest_steps", steps)
    monkeypatch.setattr(generating, "memory_of", lambda device: memory)
    return memory


def test_loading_measures_unless_the_size_is_given(tiny_llama: Path, fake_gpu: FakeMemory) -> None:
    plan = plan_of(tiny_llama, gpu_memory_utilization=0.5, max_num_seqs=8)
    loaded = generating.load(plan.config, plan.source, ALONE)
    block = 16 * loaded.shape.bytes_per_token
    assert loaded.room.num_blocks == ((32 - 2 - 8 - 4) << 20) // block - 1
    given = plan_of(tiny_llama, num_gpu_blocks_override=33)
    fake_gpu.others = 60 << 20
    assert generating.load(given.config, given.source, ALONE).room.num_blocks == 33


def test_a_tower_is_counted(tiny_llama: Path, fake_gpu: FakeMemory) -> None:
    """Of a GPU what it took when it was tried out."""

    def run() -> None:
        fake_gpu.take(3 << 20)  # weights, which stay
        fake_gpu.take(5 << 20)
        fake_gpu.give(5 << 20)

    plan = plan_of(tiny_llama, gpu_memory_utilization=0.5, max_num_seqs=8)
    loaded = generating.load(plan.config, plan.source, ALONE, tower=TowerMemory(3 << 20, run))
    assert loaded.room.num_blocks == ((32 - 2 - 8 - 8) << 20) // (16 * loaded.shape.bytes_per_token) - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured() -> None:
    memory = CudaMemory(torch.device("cuda", 0))
    plan = MemoryPlan(memory, 0.1)
    kept = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")

    def step() -> None:
        torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    usage = plan.measure(step)
    assert usage.peak == 320 << 20
    assert usage.budget == int(memory.total * 0.1)
    assert memory.in_use() >= kept.nbytes
