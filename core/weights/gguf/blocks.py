"""Blocks of GGUF's quantized types as weights of small integers in groups, number for number as the file has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from infer.kernels.grouped import GroupedWeight, Scales

#: Values of a K-quant's block, which has a float16 factor for the scales of all its groups.
SUPERBLOCK = 256


def grouped(raw: Tensor, quant: str) -> GroupedWeight:
    """The weight [rows, values] that uint8 [rows, bytes of a row] mean in a type of `HELD`."""
    return HELD[quant](raw)


def _q8_0(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 34)
    return GroupedWeight(_flat(blocks[..., 2:]) ^ 0x80, 8, 32, Scales(_half(blocks, 0)))


def _q4_0(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 18)
    return GroupedWeight(_flat(_nibbles(blocks[..., 2:])), 4, 32, Scales(_half(blocks, 0)))


def _q4_1(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 20)
    return _from_zero(_flat(_nibbles(blocks[..., 4:])), 4, 32, Scales(_half(blocks, 0)), Scales(_half(blocks, 2)))


def _q5_0(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 22)
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return GroupedWeight(_flat(codes) + 112, 8, 32, Scales(_half(blocks, 0)))  # 16 stands for 0


def _q5_1(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 24)
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return _from_zero(_flat(codes), 8, 32, Scales(_half(blocks, 0)), Scales(_half(blocks, 2)))


def _q4_k(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 144)
    codes = _flat(_nibbles(blocks[..., 16:].unflatten(-1, (4, 32))))
    return _from_zero(codes, 4, 32, *_k_scales(blocks))


def _q5_k(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 176)
    low = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))).unflatten(-1, (2, 32))
    bits = torch.arange(8, dtype=torch.uint8).view(4, 2, 1)
    high = (blocks[..., None, None, 16:48] >> bits) & 1
    return _from_zero(_flat(low | high << 4), 8, 32, *_k_scales(blocks))


def _q6_k(raw: Tensor) -> GroupedWeight:
    blocks = raw.view(len(raw), -1, 210)
    low = blocks[..., :128].unflatten(-1, (2, 1, 64)) >> torch.tensor([0, 4], dtype=torch.uint8).view(2, 1) & 0x0F
    high = blocks[..., 128:192].unflatten(-1, (2, 1, 32)) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(4, 1) & 3
    codes = low.reshape(*blocks.shape[:-1], 2, 128) | high.reshape(*blocks.shape[:-1], 2, 128) << 4
    scale = Scales(blocks[..., 192:208].reshape(len(raw), -1).view(torch.int8), _half(blocks, 208), SUPERBLOCK // 16)
    return GroupedWeight(_flat(codes) + 96, 8, 16, scale)  # 32 stands for 0


HELD: dict[str, Callable[[Tensor], GroupedWeight]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def _flat(codes: Tensor) -> Tensor:
    """[rows, blocks, ...] as [rows, values], in memory of its own."""
    return codes.flatten(1).contiguous()


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at a byte of each block: [rows, blocks]."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).squeeze(-1)


def _nibbles(packed: Tensor) -> Tensor:
    """Two codes a byte, the low ones of all bytes of the last dimension before the high ones."""
    return torch.cat([packed & 0x0F, packed >> 4], -1)


def _fifth_bits(words: Tensor) -> Tensor:
    """32 bits a block as 0 or 16 each."""
    bits = words[..., None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(-2) << 4


def _k_scales(blocks: Tensor) -> tuple[Scales, Scales]:
    """Scale and minimum of eight groups, 6 bits each in 12 bytes, each with a factor of the block."""
    first, second, last = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scale = torch.cat([first & 0x3F, last & 0x0F | first >> 2 & 0x30], -1)
    minimum = torch.cat([second & 0x3F, last >> 4 | second >> 2 & 0x30], -1)
    return (
        Scales(scale.flatten(1), _half(blocks, 0), 8),
        Scales(minimum.flatten(1), -_half(blocks, 2), 8),
    )


def _from_zero(codes: Tensor, bits: int, group_size: int, scale: Scales, minimum: Scales) -> GroupedWeight:
    """Codes that count from 0 on."""
    return GroupedWeight(codes, bits, group_size, scale, torch.zeros(scale.values.shape, dtype=torch.uint8), minimum)
