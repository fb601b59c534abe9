"""The tensors of swapped blocks: what leaves comes back bit for bit, in order with the step, and its time is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.errors import EngineError
from infer.core.memory.kv_cache import KVShape, choose_num_host_blocks
from infer.core.memory.swap import SwapCosts
from infer.core.memory.swapper import CudaLane, Swapper
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.spec.stack import KVSpec
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.kernels import load
from infer.kernels.ops import KVCache

from ..stepping import drain

pytestmark = pytest.mark.usefixtures("forked_ranks")

NOTHING = np.zeros((0, 2), dtype=np.int64)


class RecordingLane:
    """Copies at once; says that each took two seconds, when it is asked the time after."""

    def __init__(self) -> None:
        self.count = 0
        self.late: list[float] = []

    def copy(self, copies: Callable[[], None]) -> None:
        copies()
        self.count += 1
        self.late.append(2.0)

    def measured(self) -> list[float]:
        done, self.late = self.late, []
        return done


def caches(device: str = "cpu", kernels: str = "reference") -> list[KVCache]:
    made = [load(kernels).new_kv_cache(9, 4, 2, 8, torch.bfloat16, torch.device(device)) for _ in range(3)]
    for cache in made:
        for tensor in cache:
            tensor.copy_(torch.randn(tensor.shape))
    return made


def pairs(*them: tuple[int, int]) -> Any:
    return np.array(them, dtype=np.int64).reshape(-1, 2)


def round_trip(held: list[KVCache], swapper: Swapper) -> None:
    before = [(c.key.clone(), c.value.clone()) for c in held]
    swapper.move(pairs((3, 0), (7, 1)), NOTHING)
    for cache in held:
        cache.key[[3, 7]], cache.value[[3, 7]] = 0, 0
    swapper.move(pairs((5, 2)), pairs((1, 3), (0, 8)))  # out first: 2 is written and read in the same step
    swapper.move(NOTHING, pairs((2, 1)))
    for cache, was in zip(held, before, strict=True):
        for tensor, old in zip(cache, was, strict=True):
            for source, target in ((7, 3), (3, 8), (5, 1)):
                assert torch.equal(tensor[target], old[source])
            assert torch.equal(tensor[[0, 2, 4, 5, 6]], old[[0, 2, 4, 5, 6]])


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_what_leaves_comes_back(compiled_kernels: None, kernels: str) -> None:
    held = caches(kernels=kernels)
    round_trip(held, Swapper(load(kernels), held, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_leaves_a_gpu_comes_back() -> None:
    held = caches("cuda", "cuda")
    device = torch.device("cuda")
    swapper = Swapper(load("cuda"), held, 4, CudaLane(device))
    swapper.costs = costs = SwapCosts(swapper.block_bytes)
    guess = costs.of_copying(1)
    round_trip(held, swapper)
    torch.cuda.synchronize()
    swapper.move(NOTHING, NOTHING)
    assert costs.of_copying(1) != guess
    assert all(tensor.is_pinned() for host in swapper._host for tensor in host)


def test_out_goes_before_in() -> None:
    held = caches()
    old = [cache.key[4].clone() for cache in held]
    Swapper(load("reference"), held, 1).move(pairs((4, 0)), pairs((0, 6)))
    assert all(torch.equal(cache.key[6], key) for cache, key in zip(held, old, strict=True))


def test_memory_is_taken_when_it_is_needed_and_times_are_told() -> None:
    held, lane = caches(), RecordingLane()
    swapper = Swapper(load("reference"), held, 4, lane)
    swapper.costs = costs = SwapCosts(swapper.block_bytes)
    assert swapper.block_bytes == 3 * 2 * 4 * 2 * 8 * 2
    swapper.move(NOTHING, NOTHING)
    assert not swapper._host
    assert lane.count == 0
    swapper.move(pairs((1, 0), (2, 1)), NOTHING)
    assert [tuple(h.key.shape) for h in swapper._host] == [(4, 4, 2, 8)] * 3
    swapper.move(NOTHING, NOTHING)
    assert lane.count == 1
    assert costs.of_copying(1) == pytest.approx(2 * 2.0 / 2)  # two blocks took two seconds


def test_no_memory_is_said_with_the_flag_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = load("reference")

    def full(*args: Any) -> KVCache:
        raise RuntimeError("out of memory")

    ops.new_host_cache = full  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"lower --swap-space"):
        Swapper(ops, caches(), 4).move(pairs((1, 0)), NOTHING)


def config(**kwargs: Any) -> EngineConfig:
    made = EngineArgs.from_kwargs(model="m", device="cpu", dtype="float32", max_num_seqs=8).resolve(
        read_spec({"max_position_embeddings": 1024})
    )
    return replace(made, **kwargs)


def test_number_of_cpu_blocks() -> None:
    shape = KVShape((KVSpec(2, 8),) * 3, torch.float32)  # 384 bytes a token, 1024 a tensor and block of 16
    assert choose_num_host_blocks(config(), shape) == 0  # on a CPU
    assert choose_num_host_blocks(config(swap_space=6000 * 100 / 2**30), shape) == 6000 * 100 // 6 // 1024
    assert choose_num_host_blocks(config(swap_space=1), shape) == 8 * 1024 // 16  # no more than could ever be used
    latents = KVShape((KVSpec(1, 32, latent=24),) * 3, torch.float32)  # 384 bytes a token, 2048 a tensor and block
    assert latents.bytes_per_token == shape.bytes_per_token
    assert choose_num_host_blocks(config(swap_space=3000 * 100 / 2**30, device="cuda:0"), latents) == 65536 // 2048
    # Each of 6 tensors has a power of two of bytes: 65,536 of 100,000.
    assert choose_num_host_blocks(config(swap_space=6000 * 100 / 2**30, device="cuda:0"), shape) == 65536 // 1024


# -- a model -------------------------------------------------------------------------------------------------------
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. " * 3


def start(model: Path, *, swap_space: float, mode: str | None = None, **kwargs: Any) -> Engine:
    """An engine on a CPU with blocks beside its KV cache, which settings alone do not give it."""
    plan = make_plan(EngineArgs.from_kwargs(model=str(model), device="cpu", seed=3, **kwargs))
    forced = replace(plan.config, swap_space=swap_space, preemption_mode=mode)
    return build_engine(replace(plan, config=forced))


def answers(engine: Engine) -> list[RequestOutput]:
    assert engine.tokenizer is not None
    for i in range(16):
        more: dict[str, Any] = ({}, {"n": 2, "logprobs": 2}, {"prompt_logprobs": 1}, {"repetition_penalty": 1.2})[i % 4]
        params = SamplingParams(max_tokens=16 + i % 5, temperature=0.8, **more)
        engine.add(Request(str(i), engine.tokenizer.encode(TEXT[: 9 * i + 1]), params, i))
    got = drain(engine)
    return [got[str(i)] for i in range(16)]


@pytest.mark.parametrize(
    ("dtype", "kernels", "ranks"), [("float32", "auto", 1), ("bfloat16", "auto", 1), ("float32", "reference", 1), ("float32", "auto", 2)]
)
def test_answers_do_not_depend_on_how_a_record_comes_back(tiny_llama: Path, dtype: str, kernels: str, ranks: int) -> None:
    same: dict[str, Any] = {"dtype": dtype, "kernels": kernels, "tensor_parallel_size": ranks}
    base = answers(start(tiny_llama, swap_space=0, **same))
    some = [(0.0, None), (0.1, "swap"), (0.1, "recompute"), (0.1, None), (2e-5, "swap")] if ranks == 1 else [(0.1, "swap")]
    for swap_space, mode in some:
        engine = start(tiny_llama, swap_space=swap_space, mode=mode, num_gpu_blocks_override=24, **same)
        got = answers(engine)
        assert [(o.outputs, o.prompt_logprobs) for o in got] == [(o.outputs, o.prompt_logprobs) for o in base], f"{swap_space}, {mode}"
        assert engine.stats.num_preemptions > 0
        swap = engine.scheduler.swap
        assert (swap is not None) == (swap_space > 0)
        if swap is not None and mode is not None:
            assert (swap.num_swapped > 0) == (mode == "swap")
