"""The CUDA backend's cache: what a new one holds, copies of blocks, and blocks that go to CPU memory and come back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infer.kernels.cuda.kv import copy_blocks, new_host_cache, new_kv_cache, swap_in, swap_out
from infer.kernels.ops import NULL_BLOCK, KVCache

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def bits(tensor: Tensor) -> Tensor:
    """Whatever is stored, NaN too, to compare."""
    return tensor.view(torch.uint8).cpu()


def filled(device: torch.device, dtype: torch.dtype, blocks: int = 9, shape: tuple[int, int, int] = (4, 2, 8)) -> KVCache:
    """A cache of random bytes, but for the null block."""
    cache = new_kv_cache(blocks, *shape, dtype, device)
    g = torch.Generator().manual_seed(blocks)
    for tensor in cache:
        noise = torch.randint(256, tensor.view(torch.uint8).shape, dtype=torch.uint8, generator=g)
        tensor.view(torch.uint8)[1:] = noise[1:].to(device)
    return cache


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_null_block_is_zero(device: torch.device, dtype: torch.dtype) -> None:
    cache = new_kv_cache(5, 16, 3, 20, dtype, device)
    for tensor in cache:
        assert tensor.dtype == dtype
        assert tensor.device.type == device.type
        assert tensor.shape == (5, 3, 16, 20)
        assert not bits(tensor[NULL_BLOCK]).any()


@pytest.mark.parametrize("shape", [(4, 2, 8), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copy_blocks_reads_all_before_it_writes(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    cache = filled(device, dtype, shape=shape)
    before = [bits(t).clone() for t in cache]
    copy_blocks(cache, torch.tensor([1, 2, 5], device=device), torch.tensor([2, 3, 1], device=device))
    for old, new in zip(before, map(bits, cache), strict=True):
        assert torch.equal(new[[2, 3, 1]], old[[1, 2, 5]])
        assert torch.equal(new[[0, 4, 5, 6, 7, 8]], old[[0, 4, 5, 6, 7, 8]])


def test_copying_nothing(device: torch.device) -> None:
    cache = filled(device, torch.bfloat16)
    before = [bits(t).clone() for t in cache]
    copy_blocks(cache, torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, dtype=torch.int64, device=device))
    swap_out(cache, new_host_cache(2, cache), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert all(torch.equal(old, bits(new)) for old, new in zip(before, cache, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize(
    ("blocks", "places"),
    [([3, 4, 5], [0, 1, 2]), ([7, 1, 2, 8], [5, 2, 3, 0]), ([4, 3, 2], [1, 2, 3]), ([6], [4])],
    ids=["one run", "several", "backwards", "one block"],
)
def test_blocks_come_back_as_they_were(device: torch.device, dtype: torch.dtype, blocks: list[int], places: list[int]) -> None:
    """To other blocks than they left, the others untouched."""
    cache = filled(device, dtype)
    host = new_host_cache(6, cache)
    assert all(t.device.type == "cpu" and t.is_pinned() == (device.type == "cuda") for t in host)
    for tensor in host:
        tensor.view(torch.uint8).fill_(7)
    before = [bits(t).clone() for t in cache]
    swap_out(cache, host, torch.tensor(blocks), torch.tensor(places))
    if device.type == "cuda":
        torch.cuda.synchronize()
    others = [i for i in range(6) if i not in places]
    for old, new, kept in zip(before, map(bits, cache), map(bits, host), strict=True):
        assert torch.equal(old, new)
        assert torch.equal(kept[places], old[blocks])
        assert (kept[others] == 7).all()
    back = [9 - block for block in blocks]
    swap_in(cache, host, torch.tensor(places), torch.tensor(back))
    rest = [i for i in range(9) if i not in back]
    for old, new in zip(before, map(bits, cache), strict=True):
        assert torch.equal(new[back], old[blocks])
        assert torch.equal(new[rest], old[rest])
