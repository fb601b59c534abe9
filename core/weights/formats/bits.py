"""Codes of a few bits, packed densely into 32-bit words, low bits first."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """uint8 [rows, count] of int32 [rows, words]: code i is bits [i * bits, (i + 1) * bits) of its row."""
    rows, num_words = words.shape
    assert num_words * 32 >= count * bits
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        codes = (words[:, :, None] >> shifts) & ((1 << bits) - 1)
        return codes.to(torch.uint8).reshape(rows, -1)[:, :count].contiguous()
    codes = torch.empty(rows, count, dtype=torch.uint8)
    wide = words.long() & 0xFFFFFFFF
    for code in range(min(count, 32)):  # every 32nd lies at the same place of its words
        word, shift = divmod(code * bits, 32)
        found = wide[:, word::bits] >> shift
        if shift + bits > 32:
            after = wide[:, word + 1 :: bits]
            found[:, : after.shape[1]] |= after << (32 - shift)
        of_code = codes[:, code::32]
        of_code[:] = (found & ((1 << bits) - 1))[:, : of_code.shape[1]].to(torch.uint8)
    return codes
