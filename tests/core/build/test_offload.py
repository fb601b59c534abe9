"""`cpu_offload_gb`: which layers it takes, and that a model computes with them what it computes without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from infer.core.build import generating
from infer.core.build.offload import ROOMS, CudaCopier, Offload, count_layers, plan_offload
from infer.core.build.probe import make_rows_alike
from infer.core.errors import ConfigError, EngineError
from infer.core.models.decoder import Decoder
from infer.core.parallel.met import ALONE
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.weights.find import find
from infer.kernels import load as load_kernels

from ..engine import stacks

CPU = torch.device("cpu")
PROMPTS = [([5, 9, 3, 44, 8, 7], 0, [3, 1]), ([11, 2], 0, [5, 6])]
NEXT = [[([tokens[-1] + i], len(tokens) + i, blocks) for tokens, _, blocks in PROMPTS] for i in range(2)]


class LateCopier:
    """Copies as late as it may, and leaves garbage where a copy is under way."""

    def __init__(self) -> None:
        self.begun = 0
        self.waited = 0

    def host_tensor(self, like: Tensor) -> Tensor:
        return torch.empty_like(like)

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        self.begun += 1
        for _, target in pairs:
            target.fill_(float("nan") if target.is_floating_point() else 77)
        return list(pairs)

    def wait(self, ticket: list[tuple[Tensor, Tensor]]) -> None:
        self.waited += 1
        for source, target in ticket:
            target.copy_(source)


def config_of(gib: float) -> EngineConfig:
    args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", kernels="reference", cpu_offload_gb=gib)
    return args.resolve(read_spec({"model_type": "llama", "max_position_embeddings": stacks.LENGTH}))


def layer_bytes(model: Decoder) -> int:
    return sum(linear.method.num_bytes(linear.out_features, linear.in_features, torch.float32) for linear in model.layers[0].linears())


def offloaded(num_offloaded: int, copier: Any = None, **described: Any) -> tuple[Decoder, Offload]:
    """A model with so many of its layers' weights on "the CPU"."""
    model = stacks.described(load_kernels("reference"), **described)
    gib = (num_offloaded - ROOMS) * layer_bytes(model) / 2**30
    offload = plan_offload(config_of(gib), model, torch.float32, CPU, copier or LateCopier(), 1 << 40)
    assert offload is not None
    stacks.load(model)
    offload.start(model)
    return model, offload


def answers(model: Decoder) -> list[Tensor]:
    runner = stacks.runner_of(model)
    return [runner.run(stacks.step(*batch)) for batch in (PROMPTS, *NEXT)]


def expected(**described: Any) -> list[Tensor]:
    return answers(stacks.load(stacks.described(load_kernels("reference"), **described)))


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_answers_are_the_same(count: int, quantization: str | None) -> None:
    model, offload = offloaded(count, quantization=quantization)
    assert offload.num_layers == count
    for got, want in zip(answers(model), expected(quantization=quantization), strict=True):
        assert torch.equal(got, want)


def test_biases_stay_and_count_for_nothing() -> None:
    model, _ = offloaded(4, attention_bias=True)
    for got, want in zip(answers(model), expected(attention_bias=True), strict=True):
        assert torch.equal(got, want)


def test_one_layer_is_fetched_ahead_and_the_next_step_finds_its_first_two() -> None:
    copier = LateCopier()
    model, offload = offloaded(4, copier)
    assert (copier.begun, copier.waited) == (2, 0)
    seen = []
    for layer in offload.visit(model.layers):
        assert layer is model.layers[len(seen)]
        seen.append((copier.begun, copier.waited))
    # Two layers are resident. Each offloaded one waits for its own copy, with one more begun and no other.
    assert seen == [(2, 0), (2, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert copier.begun == 6
    for number in range(4, 0, -1):
        list(offload.visit(model.layers))
        assert copier.begun - copier.waited == ROOMS, number


def test_weights_are_away_unless_their_layer_is_visited() -> None:
    model, offload = offloaded(3)
    homes = [[t.data_ptr() for linear in layer.linears() for t in linear.method.tensors()] for layer in model.layers]
    rooms = set()
    for _ in range(3):
        for i, layer in enumerate(offload.visit(model.layers)):
            for j, other in enumerate(model.layers):
                there = [t.data_ptr() for linear in other.linears() for t in linear.method.tensors()]
                assert (there == homes[j]) == (j != i or i < 3), "only the visited layer's weights are elsewhere"
            if i >= 3:
                rooms.add(tuple(t.data_ptr() for linear in layer.linears() for t in linear.method.tensors()))
    assert len(rooms) == ROOMS
    assert [[t.data_ptr() for linear in layer.linears() for t in linear.method.tensors()] for layer in model.layers] == homes


@pytest.mark.parametrize("broken_at", range(6))
def test_a_step_that_breaks_off_leaves_the_next_one_right(broken_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = offloaded(5)
    runner = stacks.runner_of(model)
    want = expected()

    def fail(*_: Any) -> Any:
        raise EngineError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(model.layers[broken_at], "mlp", fail, raising=True)
        fail.quantizes_input = False  # type: ignore[attr-defined]
        with pytest.raises(EngineError) as kept:  # what went wrong is kept, and with it the frame of the step
            runner.run(stacks.step(*PROMPTS))
    got = [runner.run(stacks.step(*batch)) for batch in (PROMPTS, *NEXT)]
    assert kept.value.__traceback__ is not None
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


def test_the_probe_meets_every_layer_with_its_weights() -> None:
    model, _ = offloaded(6)
    ops = model.ops
    with torch.inference_mode():
        make_rows_alike(ops, model.linears(), torch.float32, CPU)
        next(iter(model.linears()))  # as one that ends early does
        for linear in model.linears():
            assert linear(torch.ones(16, linear.in_features)).isfinite().all()  # type: ignore[union-attr]
    for got, want in zip(answers(model), expected(), strict=True):
        assert torch.equal(got, want)


def test_weights_go_to_the_cpu_as_they_are_loaded() -> None:
    """A model that is larger than the device must never be there as a whole."""

    class Counting(LateCopier):
        homes = 0

        def host_tensor(self, like: Tensor) -> Tensor:
            self.homes += 1
            return super().host_tensor(like)

    copier = Counting()
    model = stacks.described(load_kernels("reference"))
    offload = plan_offload(config_of(layer_bytes(model) / 2**30), model, torch.float32, CPU, copier, 1 << 40)
    assert offload is not None
    for layer in model.layers[3:]:
        for linear in layer.linears():
            before = copier.homes
            weight = torch.ones(linear.out_features, linear.in_features)
            linear.method.store(weight)
            assert copier.homes == before + 1
            assert linear.method.tensors()[0] is not weight
    for layer in model.layers[:3]:
        for linear in layer.linears():
            weight = torch.ones(linear.out_features, linear.in_features)
            linear.method.store(weight)
            assert linear.method.tensors()[0] is weight


def test_no_cpu_memory_is_told_with_the_flag() -> None:
    class Full(LateCopier):
        def host_tensor(self, like: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: out of memory")

    model = stacks.described(load_kernels("reference"))
    assert plan_offload(config_of(layer_bytes(model) / 2**30), model, torch.float32, CPU, Full(), 1 << 40) is not None
    with pytest.raises(EngineError, match="lower --cpu-offload-gb"):
        stacks.load(model)


def test_loading_a_model_folder(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned before the weights come, in place when the probe meets the layers."""
    source = find(str(tiny_llama))
    hf = source.read_json("config.json")
    assert hf is not None
    args = {"load_format": "dummy", "hf_overrides": {"num_hidden_layers": 5}, "kernels": "reference", "num_gpu_blocks_override": 9}
    config = EngineArgs.from_kwargs(model=str(tiny_llama), device="cpu", dtype="float32", cpu_offload_gb=1, **args).resolve(read_spec(hf))
    plain = generating.load(config, source, ALONE)
    copier = LateCopier()
    monkeypatch.setattr(generating, "_offload", lambda c, model, dtype, device: plan_offload(c, model, dtype, device, copier, 1 << 40))
    offloading = generating.load(config, source, ALONE)
    assert copier.waited == 5, "the probe asks for every layer in turn"
    batch = stacks.step(([5, 6, 7], 0, [2]), block_size=config.block_size)
    want, got = (loaded.runner(config, generating.Room(9, 0, 0)).run(batch) for loaded in (plain, offloading))
    assert torch.equal(got, want)
    assert copier.waited == 10


def test_other_models_code_is_refused(tiny_llama: Path) -> None:
    source = find(str(tiny_llama))
    args = EngineArgs.from_kwargs(model=str(tiny_llama), device="cpu", dtype="float32", cpu_offload_gb=1, model_impl="transformers")
    config = args.resolve(read_spec(source.read_json("config.json") or {}))
    with pytest.raises(ConfigError, match="cpu_offload_gb: llama models run through transformers' code"):
        generating.load_model(config, source, load_kernels("reference"), torch.float32, torch.device("cuda"))


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(0, 700))
def test_as_many_layers_as_the_budget_needs_and_no_more(sizes: list[int], budget: int) -> None:
    def freed(count: int) -> int:
        return sum(sizes[-count:]) - ROOMS * max(sizes[-count:]) if count else 0

    count = count_layers(sizes, budget)
    assert 0 <= count <= len(sizes)
    if not budget or len(sizes) <= ROOMS:
        assert count == 0
    elif count < len(sizes):
        assert freed(count) >= budget
        assert all(freed(fewer) < budget for fewer in range(ROOMS + 1, count))
    else:
        assert all(freed(fewer) < budget for fewer in range(ROOMS + 1, count)), "fewer would have done"


def test_equal_layers_are_counted_exactly() -> None:
    assert [count_layers([10] * 8, budget) for budget in (0, 1, 10, 11, 20, 59, 60, 61, 1000)] == [0, 3, 3, 4, 4, 8, 8, 8, 8]


def test_settings_that_cannot_be_followed_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "infer")
    ops = load_kernels("reference")
    small = stacks.described(ops, num_layers=2)
    assert plan_offload(config_of(1.0), small, torch.float32, CPU, LateCopier(), 1 << 40) is None
    assert "cpu_offload_gb has no effect" in caplog.text
    model = stacks.described(ops)
    assert plan_offload(config_of(0), model, torch.float32, CPU, LateCopier(), 1 << 40) is None
    offload = plan_offload(config_of(1.0), model, torch.float32, CPU, LateCopier(), 1 << 40)
    assert offload is not None
    assert offload.num_layers == 6
    assert "no more than" in caplog.text
    hybrid = stacks.described(ops, model_type="lfm2", full_attn_idxs=[1, 3, 5])
    with pytest.raises(ConfigError, match="layers are of several kinds"):
        plan_offload(config_of(1.0), hybrid, torch.float32, CPU, LateCopier(), 1 << 40)
    with pytest.raises(ConfigError, match=r"cpu_offload_gb=1 takes .* \(6 layers\), and .* are free; lower it"):
        plan_offload(config_of(1.0), stacks.described(ops), torch.float32, CPU, LateCopier(), 1000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_on_a_gpu(quantization: str | None) -> None:
    device, sizes = torch.device("cuda"), {"hidden_size": 512, "intermediate_size": 1024, "num_layers": 8}

    def built(count: int) -> tuple[list[Tensor], int, int]:
        before = torch.cuda.memory_allocated()
        model = stacks.described(load_kernels("cuda"), quantization=quantization, **sizes)
        linears = list(model.layers[0].linears())
        size = sum(linear.method.num_bytes(linear.out_features, linear.in_features, torch.bfloat16) for linear in linears)
        gib = (count - ROOMS) * size / 2**30 if count else 0
        offload = plan_offload(config_of(gib), model, torch.bfloat16, device, CudaCopier(device), 1 << 40)
        stacks.load(model, torch.bfloat16, "cuda")
        if offload is not None:
            offload.start(model)
            assert all(t.is_pinned() for layer in model.layers[-count:] for linear in layer.linears() for t in linear.method.tensors())
        taken = torch.cuda.memory_allocated() - before
        runner = stacks.runner_of(model, dtype=torch.bfloat16, device="cuda")
        return [runner.run(stacks.step(*batch)).cpu() for batch in (PROMPTS, *NEXT * 20)], taken, size

    plain, whole, size = built(0)
    moved, less, _ = built(6)
    assert whole - less > 3.9 * size, "four layers are off the device at any time"
    for one, other in zip(plain, moved, strict=True):
        assert torch.equal(one, other)
