"""The running sequences, with what a step needs of all of them in arrays that are kept from step to step.

                 row 0   row 1  ...     oldest first, or as the scheduler orders them
    computed     [ 37    512    ... ]   tokens in the cache
    known        [ 38    530    ... ]   tokens there are; those that are not in the cache are computed next
    newest       [ 998   11     ... ]   the last of them
    num_blocks   [ 3     34     ... ]
    blocks       [ b b b 0 0 0  ... ]   a row's block table, padded with NULL_BLOCK
    state        [ 4     1      ... ]   the slot of its states
    slot         [ 2     0      ... ]   that of its adapter
    border       [ 48    NEVER  ... ]   tokens at which a step has to end for it
    given        [ 0     20     ... ]   tokens up to the last whose embedding is given
    spanned      [ 0     20     ... ]   tokens up to the end of its last span
    encoder_lens [ 70    11     ... ]   tokens of its encoder's input, without what fills their last block
    limit        [ 96    1024   ... ]   tokens at which its length ends it
    traits       [ 0     STOPS  ... ]   what is looked at beside tokens and lengths

A `Sequence` says the same of itself in `num_computed`, `tokens`, `blocks`, `state`, `slot` and `borders`; `check_integrity` compares
the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from ..types.request import Sequence
from .blocks import NULL_BLOCK, BlockManager

#: Rows there are at first, and blocks a row has room for; doubled as there are more.
_ROWS, _WIDTH = 64, 64
#: More tokens than any sequence has.
NEVER = np.iinfo(np.int64).max

#: Bits of `traits`: sequences with stop strings, whose repetitions are counted, with a grammar; with positions in three parts; whose
#: draws are no output; with embeddings that are given, spans, an adapter, an encoder's input.
STOPS, REPEATS, CONSTRAINED, PLACED, SCORED, GIVEN, SPANNED, ADAPTED, ENCODED = (1 << bit for bit in range(9))
#: Those whose every token is looked at.
FOLLOWED = STOPS | REPEATS | CONSTRAINED

_NUMBERS = ("computed", "known", "newest", "num_blocks", "state", "slot", "border", "given", "spanned", "encoder_lens", "limit", "traits")


def traits_of(sequence: Sequence) -> int:
    """The bits of one sequence; the same as long as it runs."""
    request = sequence.request
    return (
        STOPS * bool(request.params.stop)
        | REPEATS * (sequence.repetitions is not None)
        | CONSTRAINED * (request.params.structured_outputs is not None)
        | PLACED * (request.positions is not None)
        | SCORED * (request.continuations is not None)
        | GIVEN * (request.num_given > 0)
        | SPANNED * (request.spans is not None)
        | ADAPTED * (sequence.slot > 0)
        | ENCODED * bool(request.encoder_ids)
    )


class Running:
    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.computed: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.known: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.newest: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.num_blocks: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.blocks: NDArray[np.int32] = np.full((_ROWS, _WIDTH), NULL_BLOCK, dtype=np.int32)
        self.state: NDArray[np.int32] = np.zeros(_ROWS, dtype=np.int32)
        self.slot: NDArray[np.int32] = np.zeros(_ROWS, dtype=np.int32)
        self.border: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.given: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.spanned: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.encoder_lens: NDArray[np.int32] = np.zeros(_ROWS, dtype=np.int32)
        self.limit: NDArray[np.int64] = np.zeros(_ROWS, dtype=np.int64)
        self.traits: NDArray[np.uint16] = np.zeros(_ROWS, dtype=np.uint16)
        self.kinds = 0
        """Bits that some sequence has, or has had."""

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.sequences)

    def __getitem__(self, row: int) -> Sequence:
        return self.sequences[row]

    @property
    def num_left(self) -> int:
        """Tokens that are not computed, of all sequences."""
        size = len(self)
        return int((self.known[:size] - self.computed[:size]).sum())

    # -- coming and going ----------------------------------------------------------------------------------------
    def append(self, sequence: Sequence) -> None:
        """Adds a sequence that has its blocks, as the youngest."""
        row = len(self.sequences)
        if row == len(self.known):
            self._make_room(max(2 * row, _ROWS))
        self.sequences.append(sequence)
        self.computed[row] = sequence.num_computed
        self.known[row] = len(sequence.tokens)
        self.newest[row] = sequence.tokens[-1]
        self.blocks[row] = NULL_BLOCK
        self.state[row] = sequence.state
        self.slot[row] = sequence.slot
        self.border[row] = _next_border(sequence)
        self.given[row] = sequence.request.num_given
        self.spanned[row] = sequence.request.num_spanned
        self.encoder_lens[row] = len(sequence.request.encoder_ids)
        self.limit[row] = sequence.max_length
        self.traits[row] = traits = traits_of(sequence)
        self.kinds |= traits
        self.refresh_blocks(row, 0)

    def _make_room(self, capacity: int) -> None:
        for name in (*_NUMBERS, "blocks"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate((array, np.zeros((capacity - len(array), *array.shape[1:]), array.dtype))))

    def pop(self) -> Sequence:
        """Takes out the last, which is the youngest unless they were reordered."""
        return self.sequences.pop()

    def remove(self, ended: Collection[Sequence]) -> None:
        """Takes out any; the others move up and stay in order."""
        self._take([row for row, sequence in enumerate(self.sequences) if sequence not in ended])

    def reorder(self, order: list[int]) -> None:
        """Puts row `order[i]` in place i; every row is in `order` once."""
        assert len(order) == len(self)
        self._take(order)

    def sort(self, key: Callable[[Sequence], tuple[int, int]]) -> list[int]:
        """Puts the rows in order; returns which of those before are in each place."""
        order = sorted(range(len(self)), key=lambda row: key(self.sequences[row]))
        if order != [*range(len(self))]:
            self._take(order)
        return order

    def _take(self, rows: list[int]) -> None:
        width, taken = self.num_blocks[: len(self)].max(initial=0), np.array(rows, dtype=np.intp)
        stay = int(np.argmax(np.append(taken, -1) != np.arange(len(rows) + 1)))  # so many at the front
        for array in (*(getattr(self, name) for name in _NUMBERS), self.blocks[:, :width]):
            array[stay : len(rows)] = array[taken[stay:]]
        self.sequences = [self.sequences[row] for row in rows]
        self.kinds = int(np.bitwise_or.reduce(self.traits[: len(rows)]))

    # -- going on ------------------------------------------------------------------------------------------------
    def refresh_blocks(self, row: int, first: int) -> None:
        """Takes over what changed in the sequence's block table, which is at place `first` or after."""
        blocks = self.sequences[row].blocks
        self._widen(len(blocks))
        self.blocks[row, first : len(blocks)] = blocks[first:]
        self.num_blocks[row] = len(blocks)

    def grow_by_one(self, rows: NDArray[np.intp], ends: NDArray[np.int64], books: BlockManager) -> bool:
        """Gives the sequences of `rows` [R], which are to have room for `ends` [R] tokens, a block each. False, and nothing is done,
        where that is not all they need: where the last block of one is not full, and so may be shared, where one more is not enough, or
        there are too few."""
        places, size = self.num_blocks[rows], books.block_size
        if len(rows) > books.num_free or (self.computed[rows] != places * size).any() or (ends > (places + 1) * size).any():
            return False
        if len(rows):
            blocks = books.take(len(rows))
            self._widen(int(places.max()) + 1)
            self.blocks[rows, places] = blocks
            self.num_blocks[rows] = places + 1
            for row, block in zip(rows.tolist(), blocks, strict=True):
                self.sequences[row].blocks.append(block)
        return True

    def _widen(self, width: int) -> None:
        have = self.blocks.shape[1]
        if width > have:
            self.blocks = np.pad(self.blocks, ((0, 0), (0, max(width, 2 * have) - have)), constant_values=NULL_BLOCK)

    def share_out(self, budget: int, most: int, limit: int) -> NDArray[np.int64]:
        """[S] the tokens that are left of each sequence up to its border, from the first on while the budget lasts.

        Args:
            budget: as many tokens as the longest span, or more.
            most: sequences that get some.
            limit: most tokens of one sequence, but for a span that is longer; 0 is no limit.
        """
        size = len(self)
        counts = np.minimum(self.known[:size], self.border[:size]) - self.computed[:size]
        if limit:
            counts = np.minimum(counts, limit)
        if size > most:
            counts[np.flatnonzero(counts)[most:]] = 0
        if self.kinds & SPANNED:
            for row in np.flatnonzero(self.spanned[:size] > self.computed[:size]).tolist():
                counts[row] = self._with_spans(row, int(counts[row]), budget)
        if counts.sum() > budget:
            total = np.cumsum(counts)
            last = int(np.searchsorted(total, budget))
            counts = counts[: last + 1]
            counts[last] -= total[last] - budget
            if self.spanned[last] > self.computed[last]:
                counts[last] = self._with_spans(last, int(counts[last]), int(counts[last]))
                counts = counts[: last + bool(counts[last])]
        return counts

    def _with_spans(self, row: int, count: int, most: int) -> int:
        """See `Spans.count`."""
        spans = self.sequences[row].request.spans
        return count if spans is None or not count else spans.count(int(self.computed[row]), count, most)

    def advance(self, counts: NDArray[np.int64], block_size: int) -> list[tuple[Sequence, int]]:
        """Counts `counts` [S] more tokens of the first S sequences as computed; returns the sequences that filled blocks with that,
        and what they had computed before."""
        after = self.computed[: len(counts)]
        before = after.copy()
        after += counts
        for sequence, computed in zip(self.sequences, after.tolist(), strict=False):
            sequence.num_computed = computed
        (rows,) = (before // block_size != after // block_size).nonzero()
        return [(self.sequences[row], start) for row, start in zip(rows.tolist(), before[rows].tolist(), strict=True)]

    def at_border(self, count: int) -> list[int]:
        """Those of the first `count` rows whose sequence stands at its border."""
        return np.flatnonzero(self.border[:count] == self.computed[:count]).tolist()

    def refresh_border(self, row: int) -> None:
        """Takes over the sequence's next border."""
        self.border[row] = _next_border(self.sequences[row])

    def extend(self, rows: NDArray[np.intp], tokens: NDArray[np.int64]) -> list[Sequence]:
        """The sequences of `rows` [R] get one of `tokens` [R] each; returns those that are as long as they may be now."""
        sequences, count = self.sequences, len(self.sequences)
        # In most steps they are all, from the first on.
        where, extended = (slice(0, count), sequences) if len(rows) == count else (rows, [sequences[row] for row in rows.tolist()])
        known = self.known[where] + 1
        self.known[where] = known
        self.newest[where] = tokens
        for sequence, token in zip(extended, tokens.tolist(), strict=True):
            sequence.tokens.append(token)
        (full,) = (known >= self.limit[where]).nonzero()
        return [extended[place] for place in full.tolist()]

    def check_integrity(self) -> None:
        """Proves that arrays and sequences say the same. For tests."""
        assert len(set(self.sequences)) == len(self.sequences) <= len(self.known)
        for row, s in enumerate(self.sequences):
            numbers = (self.computed[row], self.known[row], self.newest[row], self.num_blocks[row])
            assert numbers == (s.num_computed, len(s.tokens), s.tokens[-1], len(s.blocks)), f"row {row}"
            more = (self.state[row], self.slot[row], self.border[row], self.given[row], self.spanned[row], self.encoder_lens[row])
            said = (s.request.num_given, s.request.num_spanned, len(s.request.encoder_ids))
            assert more == (s.state, s.slot, _next_border(s), *said), f"row {row}"
            assert (self.limit[row], self.traits[row]) == (s.max_length, traits_of(s)), f"row {row}"
            assert self.kinds & traits_of(s) == traits_of(s), f"row {row}"
            assert self.blocks[row].tolist() == s.blocks + [NULL_BLOCK] * (self.blocks.shape[1] - len(s.blocks)), f"row {row}"


def _next_border(sequence: Sequence) -> int:
    return sequence.borders[0] if sequence.borders else NEVER
