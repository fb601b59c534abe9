"""Token masks: the only tokens that a row may draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from infer.kernels.ops import TokenMask

from ..containment import own_error
from ..errors import RecordError
from ..types.params import SamplingParams
from ..types.request import Sequence
from .token_bits import beyond, pack


class TokenMasks:
    """
    Args:
        vocab_size: of the model's logits.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._allowed: dict[int, tuple[SamplingParams, Tensor]] = {}
        """Bits of `allowed_token_ids`, by the identity of the parameters, of the rows that the last step drew for."""

    def gather(
        self,
        sequences: list[Sequence],
        rows: list[int],
        left: Mapping[int, Tensor],
        failed: dict[int, RecordError],
        due: Mapping[int, int] = MappingProxyType({}),
        *,
        again: bool = False,
    ) -> TokenMask:
        """The masks of `sequences`, where only those at `rows` may have any.

        Args:
            left: row -> bits of the tokens that its logits processors left; only of rows in `rows`.
            failed: takes the rows whose grammars fail; their masks mean nothing.
            due: row -> the only token that it may draw, whatever else it says; only of rows in `rows`.
            again: see `Sampler.begin`.
        """
        words = -(-self.vocab_size // 32)
        bits = torch.full((len(rows), words), -1, dtype=torch.int32)
        table = bits.numpy()  # the same memory: a row of it is written in a tenth of the time
        mask_of_row = np.full(len(sequences), -1, dtype=np.int64)
        allowed_now: dict[int, tuple[SamplingParams, Tensor]] = {}
        for place, row in enumerate(rows):
            sequence = sequences[row]
            params = sequence.request.params
            mask_of_row[row] = place
            if row in due:
                bits[place] = pack((due[row],), self.vocab_size)
                continue
            if sequence.grammar is not None:
                try:
                    sequence.grammar.fill(table, place)
                except BaseException as error:
                    failed[row] = own_error(error, f"request {sequence.request.request_id}")
            if params.allowed_token_ids is not None:
                key = id(params)
                if key not in allowed_now:
                    allowed_now[key] = self._allowed.get(key) or (params, pack(params.allowed_token_ids, self.vocab_size))
                bits[place] &= allowed_now[key][1]
            if row in left:
                bits[place] &= left[row]
        self._allowed = self._allowed | allowed_now if again else allowed_now
        return TokenMask(torch.from_numpy(mask_of_row), bits)

    def leaves_nothing_but(self, tokens: Iterable[int], mask: TokenMask, row: int) -> bool:
        """True if a row that has a mask may draw none but these tokens."""
        others = mask.bits[int(mask.rows[row])].numpy() & ~pack(tokens, self.vocab_size).numpy()
        return not bool((others & ~beyond(self.vocab_size)).any())
