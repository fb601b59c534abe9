"""LoRA of a step's rows: backends against the reference, and a row's bits whatever stands beside it."""

from __future__ import annotations

import pytest
import torch

from infer import kernels
from infer.kernels.lora import AdapterRows, LoRAPart

CPU = torch.device("cpu")
#: Output features and input features of the layer, and its parts: (first feature, features, rank).
SHAPES = [
    (96, 64, [(0, 96, 16)]),
    (960, 576, [(0, 576, 16), (576, 192, 16), (768, 192, 16)]),
    (80, 37, [(7, 33, 5), (40, 40, 3)]),
    (49, 129, [(0, 49, 40)]),
    (33, 16, [(1, 1, 1)]),
]


def made(seed: int, dtype: torch.dtype, shape: tuple[int, int, list[tuple[int, int, int]]]) -> tuple[torch.Tensor, list[LoRAPart]]:
    _, size, parts = shape
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(sum(rank for _, _, rank in parts), size, generator=generator) / size**0.5
    columns, found = 0, []
    for start, features, rank in parts:
        found.append(LoRAPart(torch.randn(features, rank, generator=generator).to(dtype), start, columns))
        columns += rank
    return a.to(dtype), found


@pytest.mark.parametrize("backend", ["cpu"])
@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "quantized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s[:2])))
def test_equals_the_reference(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, list[tuple[int, int, int]]], quantized: bool
) -> None:
    ops, oracle = kernels.load(backend), kernels.load("reference")
    count = 64
    generator = torch.Generator().manual_seed(1)
    out = torch.randn(count, shape[0], generator=generator).to(dtype)
    x = torch.randn(count, shape[1], generator=generator).to(dtype)
    factor = torch.rand(count, generator=generator) + 0.5 if quantized else None
    if quantized:
        x, factor = torch.randint(0, 256, (count, shape[1]), generator=generator, dtype=torch.uint8), torch.full((count,), 1 / 100)
    slots = torch.randint(0, 4, (count,), generator=generator, dtype=torch.int32)
    rows = AdapterRows.of(slots, CPU)
    assert rows is not None
    weights = {slot: made(slot, dtype, shape) for slot in (1, 3)}  # slot 2 has nothing for this layer

    def added(one: object) -> torch.Tensor:
        ops = one
        assert hasattr(ops, "pack_lora")
        packed = [ops.pack_lora(*weights[slot]) if slot in weights else None for slot in rows.slots]
        to = out.clone()
        ops.add_lora(to, x, rows, packed, factor)
        return to

    ours, theirs = added(ops), added(oracle)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance * theirs.abs().max().item(), rtol=0)
    untouched = [row for row, slot in enumerate(slots.tolist()) if slot not in weights]
    assert torch.equal(ours[untouched], out[untouched])
    assert not torch.equal(ours, out)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_s_bits_are_its_own(backend: str, dtype: torch.dtype, threads: int) -> None:
    ops, shape = kernels.load(backend), SHAPES[1]
    before = torch.get_num_threads()
    kernels.set_threads(threads)
    try:
        packed = {slot: ops.pack_lora(*made(slot, dtype, shape)) for slot in (1, 2, 3)}
        generator = torch.Generator().manual_seed(2)
        out, x = torch.randn(200, shape[0], generator=generator).to(dtype), torch.randn(200, shape[1], generator=generator).to(dtype)
        slots = torch.randint(0, 4, (200,), generator=generator, dtype=torch.int32)

        def added(which: list[int]) -> torch.Tensor:
            rows, to = AdapterRows.of(slots[which], CPU), out[which].clone()
            assert rows is not None
            ops.add_lora(to, x[which].clone(), rows, [packed[slot] for slot in rows.slots], None)
            return to

        whole = added([*range(200)])
        for row in (0, 17, 199):
            if slots[row]:
                assert torch.equal(added([row])[0], whole[row])
        some = [*range(3, 200, 7)]
        assert torch.equal(added(some), whole[some])
        assert torch.equal(added([*range(199, -1, -1)]), whole.flip(0))
    finally:
        kernels.set_threads(before)


def test_rows_of_a_step() -> None:
    rows = AdapterRows.of(torch.tensor([2, 0, 1, 2, 0, 1], dtype=torch.int32), CPU, torch.tensor([1, 3, 0, 4]))
    assert rows is not None
    assert (rows.slots, rows.starts.tolist(), rows.order.tolist()) == ((1, 2), [0, 2, 4], [2, 5, 0, 3])
    assert rows.chosen is not None
    assert (rows.chosen.slots, rows.chosen.order.tolist()) == ((2,), [1, 2])
    assert AdapterRows.of(torch.zeros(3, dtype=torch.int32), CPU) is None
    all_of_one = AdapterRows.of(torch.full((2,), 7, dtype=torch.int32), CPU, torch.tensor([], dtype=torch.int64))
    assert all_of_one is not None
    assert (all_of_one.slots, all_of_one.starts.tolist(), all_of_one.chosen) == ((7,), [0, 2], None)
