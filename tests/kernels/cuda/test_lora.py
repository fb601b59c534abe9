"""LoRA of a step's rows by Triton: equal to the reference, in float32, bf16, float16 and of quantized rows; the same in any company."""

from __future__ import annotations

import pytest
import torch

from infer import kernels
from infer.kernels.lora import AdapterRows

from ..test_lora import SHAPES, made

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "quantized"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2], SHAPES[3]], ids=lambda s: "x".join(map(str, s[:2])))
def test_equals_the_reference(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, list[tuple[int, int, int]]], quantized: bool
) -> None:
    count, generator = 48, torch.Generator().manual_seed(1)
    out = torch.randn(count, shape[0], generator=generator).to(dtype)
    x = torch.randn(count, shape[1], generator=generator).to(dtype)
    factor = None
    if quantized:
        x, factor = torch.randint(0, 256, (count, shape[1]), generator=generator, dtype=torch.uint8), torch.full((count,), 1 / 100)
    slots = torch.randint(0, 4, (count,), generator=generator, dtype=torch.int32)
    weights = {slot: made(slot, dtype, shape) for slot in (1, 3)}  # slot 2 has nothing for this layer
    found = []
    for name, where in (("cuda", device), ("reference", torch.device("cpu"))):
        ops, rows = kernels.load(name), AdapterRows.of(slots, where)
        assert rows is not None
        packed = []
        for slot in rows.slots:
            a, parts = weights.get(slot, (None, []))
            there = [part._replace(b=part.b.to(where)) for part in parts]
            packed.append(None if a is None else ops.pack_lora(a.to(where), there))
        to = out.to(where, copy=True)
        ops.add_lora(to, x.to(where), rows, packed, None if factor is None else factor.to(where))
        found.append(to.cpu())
    ours, theirs = found
    torch.testing.assert_close(ours.float(), theirs.float(), atol=TOLERANCE[dtype] * theirs.abs().max().item(), rtol=0)
    untouched = [row for row, slot in enumerate(slots.tolist()) if slot not in weights]
    assert torch.equal(ours[untouched], out[untouched])
    assert not torch.equal(ours, out)


def test_a_row_s_bits_are_its_own(device: torch.device) -> None:
    ops, shape, generator = kernels.load("cuda"), SHAPES[0], torch.Generator().manual_seed(2)
    packed = {}
    for slot in (1, 2):
        a, parts = made(slot, torch.bfloat16, shape)
        packed[slot] = ops.pack_lora(a.to(device), [part._replace(b=part.b.to(device)) for part in parts])
    out, x = (torch.randn(70, size, generator=generator).to(device, torch.bfloat16) for size in shape[:2])
    slots = torch.randint(0, 3, (70,), generator=generator, dtype=torch.int32)

    def added(which: list[int]) -> torch.Tensor:
        rows, to = AdapterRows.of(slots[which], device), out[which].clone()
        assert rows is not None
        ops.add_lora(to, x[which], rows, [packed[slot] for slot in rows.slots], None)
        return to

    whole = added([*range(70)])
    some = [*range(3, 70, 7)]
    assert torch.equal(added(some), whole[some])
    assert torch.equal(added([*range(69, -1, -1)]), whole.flip(0))
