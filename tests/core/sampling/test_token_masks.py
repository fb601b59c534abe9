"""Bits of the tokens that rows may draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.core.sampling.token_bits import pack, pack_flags
from infer.core.sampling.token_masks import TokenMasks
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

SIZES = [1, 31, 32, 33, 64, 100, 49152]


class Allowing:
    def __init__(self, tokens: set[int], vocabulary: int) -> None:
        self.bits = pack(tokens, vocabulary)
        self.fills = 0

    def fill(self, bits: NDArray[np.int32], place: int) -> None:
        self.fills += 1
        bits[place] = self.bits.numpy()


def sequence_of(params: SamplingParams, grammar: Any = None) -> Sequence:
    sequence = Sequence.of(Request("a", [3], params, 0), 0, 0, 4096)
    sequence.grammar = grammar
    return sequence


def tokens_in(bits: Tensor, vocabulary: int) -> set[int]:
    return {t for t in range(vocabulary) if int(bits[t // 32]) >> t % 32 & 1}


@pytest.mark.parametrize("vocabulary", SIZES)
def test_packing(vocabulary: int) -> None:
    chosen = {t for t in (0, 5, 30, 31, 32, 63, 99, 31000, vocabulary - 1) if t < vocabulary}
    bits = pack([*chosen, vocabulary, vocabulary + 40, -1], vocabulary)
    assert (bits.dtype, tuple(bits.shape)) == (torch.int32, (-(-vocabulary // 32),))
    assert tokens_in(bits, len(bits) * 32) == chosen
    flags = np.isin(np.arange(vocabulary), list(chosen))
    assert torch.equal(pack_flags(flags), bits)


@pytest.mark.parametrize("vocabulary", SIZES[1:])
def test_each_row_has_its_own(vocabulary: int) -> None:
    some, few = SamplingParams(allowed_token_ids=[1, 5, 30]), SamplingParams(allowed_token_ids=[5])
    odd = Allowing(set(range(1, vocabulary, 2)), vocabulary)
    sequences = [
        sequence_of(SamplingParams()),
        sequence_of(some),
        sequence_of(SamplingParams(), odd),
        sequence_of(some, odd),
        sequence_of(few),
        sequence_of(SamplingParams()),
    ]
    masks = TokenMasks(vocabulary)
    left = {4: pack([6], vocabulary), 5: pack([6, 7], vocabulary)}
    mask = masks.gather(sequences, [1, 2, 3, 4, 5], left, {})
    assert mask.rows.dtype == torch.int64
    assert mask.bits.is_contiguous()
    assert int(mask.rows[0]) == -1
    found = [tokens_in(mask.bits[int(mask.rows[row])], vocabulary) for row in range(1, 6)]
    assert found == [{1, 5, 30}, set(range(1, vocabulary, 2)), {1, 5}, set(), {6, 7}]
    assert odd.fills == 2


def test_allowed_tokens_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [SamplingParams(allowed_token_ids=[i]) for i in range(3)]
    masks = TokenMasks(64)
    masks.gather([sequence_of(p) for p in params], [0, 1, 2], {}, {})
    kept = {key: bits for key, (_, bits) in masks._allowed.items()}
    masks.gather([sequence_of(p) for p in params[:2]], [0, 1], {}, {})
    assert masks._allowed.keys() == {id(p) for p in params[:2]}  # those of the last step alone
    assert all(masks._allowed[key][1] is kept[key] for key in masks._allowed)


@pytest.mark.parametrize("vocabulary", [33, 64, 100])
@pytest.mark.parametrize(
    ("allowed", "tokens", "only"),
    [({1, 2}, {1, 2, 3}, True), ({1, 2}, {1}, False), ({32}, {32}, True), ({1, 32}, {1}, False), (set(), {1}, True), ({5}, set(), False)],
)
def test_nothing_but(vocabulary: int, allowed: set[int], tokens: set[int], only: bool) -> None:
    """Bits beyond the vocabulary are no tokens."""
    grammar = Allowing(allowed, vocabulary)
    grammar.bits |= pack(range(vocabulary, -(-vocabulary // 32) * 32), -(-vocabulary // 32) * 32)
    masks = TokenMasks(vocabulary)
    mask = masks.gather([sequence_of(SamplingParams()), sequence_of(SamplingParams(), grammar)], [1], {}, {})
    assert masks.leaves_nothing_but(tokens, mask, 1) == only
