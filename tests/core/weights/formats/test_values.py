"""Quantized weights in memory: parts of them mean the parts of what they mean."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from torch import Tensor

from infer.core.weights.cut import Cut
from infer.core.weights.formats.coded import Coded
from infer.core.weights.formats.values import Floats, Grouped, Int8Rows, QuantizedWeight, as_tensor, cut_of
from infer.core.weights.gguf.blocks import HELD, grouped

ROWS = 24


def blocks(quant: str, seed: int = 0) -> tuple[Grouped, Tensor]:
    """Random blocks with finite factors, and what the gguf package makes of them."""
    kind = gguf.GGMLQuantizationType[quant]
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (ROWS, 512 // size * num_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        means = torch.from_numpy(dequantize(raw, kind))
    return Grouped(grouped(torch.from_numpy(raw), quant)), means


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, but for the kind of what is not a number."""
    return torch.equal(one.nan_to_num(7e30), other.nan_to_num(7e30))


@pytest.mark.parametrize("quant", HELD)
def test_blocks_mean_what_the_package_makes_of_them(quant: str) -> None:
    weight, means = blocks(quant)
    assert weight.shape == means.shape == (ROWS, 512)
    assert same(weight.dense(), means)
    assert same(as_tensor(weight), means)
    assert weight.weight.bits == (4 if quant.startswith("Q4") else 8)


@pytest.mark.parametrize("quant", HELD)
def test_parts(quant: str) -> None:
    weight, means = blocks(quant)
    other, more = blocks(quant, seed=1)
    assert weight.kind == other.kind
    assert same(weight.rows(3, 9).dense(), means[3:9])
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    assert same(weight.reordered(order).dense(), means[order])
    assert same(Grouped.stacked([weight, other, weight.rows(0, 5)]).dense(), torch.cat([means, more, means[:5]]))
    for cut in (Cut(0, 8, 16), Cut(0, 16, 32), Cut(1, 256, 512), Cut(1, 0, 256), Cut(1, 32, 96), Cut(1, 8, 40), Cut(1, 384, 640)):
        part = cut_of(weight, cut)
        assert same(as_tensor(part), cut.of(means)), cut
        whole_groups = cut.start % weight.weight.group_size == 0 and cut.stop <= 512 and (cut.start % 256 == 0 or "_K" not in quant)
        assert isinstance(part, QuantizedWeight) == ((cut.dim == 0 and cut.stop <= ROWS) or (cut.dim == 1 and whole_groups)), cut


def test_columns_in_another_order() -> None:
    weight, means = blocks("Q4_1")
    columns = torch.randperm(512, generator=torch.Generator().manual_seed(2))
    mixed = Grouped(weight.weight, columns)
    assert same(mixed.dense()[:, columns], weight.dense())
    assert same(mixed.rows(1, 4).dense()[:, columns], means[1:4])
    assert same(as_tensor(cut_of(mixed, Cut(1, 32, 96))), mixed.dense()[:, 32:96])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_of_any_width_are_stored_in_4_or_8_bits(bits: int) -> None:
    codes = (torch.arange(64).view(4, 16) % (1 << bits)).to(torch.uint8)
    scale = torch.tensor([[0.5, 2.0]] * 4)
    weight = Grouped.of(codes, bits, 8, scale)
    assert weight.weight.bits == (8 if bits == 8 else 4)
    assert torch.equal(weight.dense(), (codes.float() - (1 << (bits - 1))) * scale.repeat_interleave(8, 1))


def test_rows_in_another_order_stay_quantized() -> None:
    """What layers whose features turn with their neighbours ask for; `Floats` by blocks of rows, too."""
    dice = torch.Generator().manual_seed(0)
    order = torch.randperm(12, generator=dice)
    values, packed = (torch.randint(low, high, (12, 8), generator=dice) for low, high in ((-127, 128), (0, 256)))
    eighths = torch.rand(12, 1, generator=dice).to(torch.float8_e4m3fn)
    for weight in (
        Int8Rows(values.to(torch.int8), torch.rand(12, generator=dice)),
        Floats(values.float(), torch.rand(3, 2, generator=dice), (4, 4)),
        Coded(packed.to(torch.uint8), torch.arange(16.0), eighths, 16, factor=torch.rand(12, generator=dice)),
        Grouped.of(packed.to(torch.uint8), 8, 4, torch.rand(12, 2, generator=dice)),
    ):
        assert type(weight.reordered(order)) is type(weight)
        assert torch.equal(weight.reordered(order).dense(), weight.dense()[order])
