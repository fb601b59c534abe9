"""Blocks of the cache that are copied, go to CPU memory and come back, in every backend's own layout. See cuda/test_kv.py for GPUs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import NULL_BLOCK, AttentionConfig, AttentionMeta, KVCache, Ops

CPU = torch.device("cpu")
CPU_INTS = torch.tensor([0, 1], dtype=torch.int32)
BLOCKS = 9


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def filled(ops: Ops, dtype: torch.dtype, latent: int = 0) -> KVCache:
    """Random bytes, but for the null block."""
    cache = ops.new_kv_cache(BLOCKS, 4, 1 if latent else 2, 7, dtype, CPU, latent=latent)
    assert not latent or cache.key.numel() + cache.value.numel() == BLOCKS * 4 * 7
    for tensor in cache:
        tensor.view(torch.uint8)[1:] = torch.randint(256, tensor.view(torch.uint8)[1:].shape, dtype=torch.uint8)
    return cache


def bits(cache: KVCache) -> list[Tensor]:
    return [tensor.view(torch.uint8).clone() for tensor in cache]


def test_float8_is_kept_by_the_reference_alone() -> None:
    """Rounded to the nearest; what it cannot hold becomes its largest number."""
    assert "model's dtype or in int8" in kernels.load("cpu").kv_refusal(torch.float8_e4m3fn)
    assert kernels.load("cpu").kv_refusal(torch.bfloat16) == ""
    ops = kernels.load("reference")
    numbers = torch.tensor([0.0, 1.0, 1.07, -0.3, 448.0, 500.0, -1e9, 2.0**-9, float("inf"), 60000.0])
    for dtype, most in ((torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0)):
        assert ops.kv_refusal(dtype) == ""
        cache = ops.new_kv_cache(3, 4, 1, 10, dtype, CPU)
        meta = AttentionMeta(CPU_INTS, CPU_INTS, CPU_INTS[None], torch.tensor([5]), 4)
        ops.rope_and_store(torch.cat([numbers * 0, numbers, -numbers])[None], None, None, cache, meta, AttentionConfig(1, 1, 10, 1.0))
        want = numbers.clamp(-most, most).to(dtype).float()
        assert torch.equal(cache.key[1, 1, 0].float(), want)
        assert torch.equal(cache.value[1, 1, 0].float(), -want)
        before = bits(cache)
        ops.copy_blocks(cache, torch.tensor([1]), torch.tensor([2]))
        assert all(torch.equal(new[2], old[1]) for old, new in zip(before, bits(cache), strict=True))


def test_int8_is_kept_with_a_scale_for_each_token_and_head(ops: Ops) -> None:
    """Largest magnitude / 127, whatever the block's size; other slots are left alone."""
    numbers = torch.tensor([[127.0, 0.5, 1.5, -2.5, 126.5, 0.0], [0.0] * 6, [1e-3, 2e-3, -3e-3, 0.0, 0.0, 1e-5]])
    assert ops.kv_refusal(torch.int8) == ""
    for block_size in (1, 2, 16):
        cache = ops.new_kv_cache(30, block_size, 1, 6, torch.int8, CPU)
        for part in cache:
            part.view(torch.uint8)[1:] = 0xA5
        before = bits(cache)
        slots = torch.tensor([17, 20, 29])
        meta = AttentionMeta(CPU_INTS, CPU_INTS, CPU_INTS[None], slots, block_size)
        ops.rope_and_store(torch.cat([numbers * 0, numbers, -numbers], 1), None, None, cache, meta, AttentionConfig(1, 1, 6, 1.0))
        blocks, offsets = slots // block_size, slots % block_size
        for new, old, sign in zip(bits(cache), before, (1, -1), strict=True):
            scale, codes = stored_int8(ops, new, block_size, blocks, offsets, value=sign < 0)
            assert scale.tolist() == (numbers.abs().amax(1) / 127).tolist()
            assert codes[0].tolist() == [sign * x for x in (127, 0, 2, -2, 126, 0)]
            assert not codes[1].any()
            assert codes[2].tolist() == [sign * x for x in (42, 85, -127, 0, 0, 0)]
            same = [i for i in range(30) if i not in blocks]
            assert torch.equal(new[same], old[same])


def stored_int8(ops: Ops, part: Tensor, size: int, blocks: Tensor, offsets: Tensor, *, value: bool) -> tuple[Tensor, Tensor]:
    """Scales and codes of tokens' only head of 6 dims, out of the bytes of keys or values; see cpu/src/codes.h."""
    if ops.name == "reference":
        found = part[blocks, offsets, 0]
        return found[:, 6:].contiguous().view(torch.float32)[:, 0], found[:, :6].view(torch.int8)
    head, wide = part[blocks, 0], 8
    scale = head[:, wide * size :].contiguous().view(torch.float32)[torch.arange(len(blocks)), offsets]
    if value:
        beside = min(size, 4)
        quads = head[:, : wide * size].view(len(blocks), size // beside, wide, beside)
        return scale, quads[torch.arange(len(blocks)), offsets // beside, :, offsets % beside][:, :6].view(torch.int8)
    codes = head[:, : wide * size].view(len(blocks), 2, size, 4)[torch.arange(len(blocks)), :, offsets].flatten(1)
    return scale, (codes[:, :6].short() - 128).to(torch.int8)


@pytest.mark.parametrize(("dtype", "latent"), [(torch.float32, 0), (torch.bfloat16, 0), (torch.float16, 0), (torch.bfloat16, 5)], ids=str)
def test_copies_read_all_before_they_write(ops: Ops, dtype: torch.dtype, latent: int) -> None:
    cache = filled(ops, dtype, latent)
    before = bits(cache)
    ops.copy_blocks(cache, torch.tensor([1, 2, 5]), torch.tensor([2, 3, 1]))
    for old, new in zip(before, bits(cache), strict=True):
        assert not new[NULL_BLOCK].any()
        assert torch.equal(new[[2, 3, 1]], old[[1, 2, 5]])
        assert torch.equal(new[4:], old[4:])


@pytest.mark.parametrize(
    ("dtype", "latent"), [(torch.float32, 0), (torch.bfloat16, 0), (torch.float16, 0), (torch.bfloat16, 5), (torch.int8, 0)], ids=str
)
@pytest.mark.parametrize(
    ("blocks", "places"),
    [([3, 4, 5], [0, 1, 2]), ([7, 1, 2, 8], [5, 2, 3, 0]), ([4, 3, 2], [1, 2, 3]), ([6], [4]), ([], [])],
    ids=["one run", "several", "backwards", "one block", "none"],
)
def test_blocks_come_back_as_they_were(ops: Ops, dtype: torch.dtype, latent: int, blocks: list[int], places: list[int]) -> None:
    """To other blocks than they left, the others untouched."""
    cache = filled(ops, dtype, latent)
    host = ops.new_host_cache(6, cache)
    before, kept = bits(cache), bits(host)
    out, there = torch.tensor(blocks, dtype=torch.int64), torch.tensor(places, dtype=torch.int64)
    ops.swap_out(cache, host, out, there)
    others = [i for i in range(6) if i not in places]
    for old, same, was, now in zip(before, bits(cache), kept, bits(host), strict=True):
        assert torch.equal(old, same)
        assert torch.equal(now[places], old[blocks])
        assert torch.equal(now[others], was[others])
    back = [BLOCKS - block for block in blocks]
    ops.swap_in(cache, host, there, torch.tensor(back, dtype=torch.int64))
    rest = [i for i in range(BLOCKS) if i not in back]
    for old, new in zip(before, bits(cache), strict=True):
        assert torch.equal(new[back], old[blocks])
        assert torch.equal(new[rest], old[rest])
