"""Token sets as bits: bit v % 32 of word v // 32 for token v."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pack(tokens: Iterable[int], vocab_size: int) -> Tensor:
    """int32 [ceil(vocab_size / 32)] with the bits of these tokens set; those outside the vocabulary have none."""
    chosen = np.zeros(-(-vocab_size // 32) * 32, dtype=bool)
    ids = np.fromiter(tokens, dtype=np.int64)
    chosen[ids[(ids >= 0) & (ids < vocab_size)]] = True
    return pack_flags(chosen)


def pack_flags(chosen: NDArray[np.bool_]) -> Tensor:
    """A set's bits from one flag a token."""
    padded = np.zeros(-(-len(chosen) // 32) * 32, dtype=bool)
    padded[: len(chosen)] = chosen
    return torch.from_numpy(np.packbits(padded, bitorder="little").view("<i4").astype(np.int32))


def beyond(vocab_size: int) -> NDArray[np.int32]:
    """Bits of the last word that stand for no token."""
    flags = np.arange(-(-vocab_size // 32) * 32) >= vocab_size
    return pack_flags(flags).numpy()
