"""The books of the states: which sequence has which slot in the pools, and which slots keep the states at a border of blocks.

Knows slots, and the hashes that `BlockManager` has of prefixes; never tensors. A slot is

    held      a running sequence's
    snapshot  the states after a prefix that ends with a block, to be copied to sequences that begin with it; the least recently used
              is given up when a slot is needed
    free
    null      slot 0: of rows that are no sequence's; never handed out

States cannot go back: they are kept, by a copy, at the moment when a sequence stands at the border, which is why steps end there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ..types.request import Sequence

#: Same as kernels.state.NULL_STATE, which cannot be imported here without torch; a test compares them.
NULL_STATE = 0


class StateSlots:
    """
    Args:
        num_slots: usable ones, the null slot not counted.
    """

    def __init__(self, num_slots: int) -> None:
        assert num_slots > 0, "a model with states needs a slot besides the null slot"
        self.num_usable = num_slots
        self._next_fresh = 1
        self._free: list[int] = []
        self._snapshots: OrderedDict[bytes, int] = OrderedDict()
        self._copies: dict[int, int] = {}
        """Source by target, to be made at once before the next step: what is read is what was there before any of them."""
        self._planned: dict[bytes, Sequence] = {}

    @property
    def num_held(self) -> int:
        """Slots of sequences."""
        return self._next_fresh - 1 - len(self._free) - len(self._snapshots)

    @property
    def num_free(self) -> int:
        """Slots that sequences can have, those of snapshots counted."""
        return self.num_usable - self.num_held

    # -- slots -----------------------------------------------------------------------------------------------------
    def start(self, sequence: Sequence, prefix: bytes | None) -> None:
        """Gives a sequence a slot, with the states of a snapshot in it; None: it begins from nothing."""
        assert not sequence.state
        source = None if prefix is None else self._snapshots[prefix]
        if prefix is not None:
            self._snapshots.move_to_end(prefix)
        sequence.state = self._take()
        if source is not None:
            self._copy(source, sequence.state)

    def fork(self, parent: Sequence, fork: Sequence) -> bool:
        """Gives a sequence a slot with another's states in it; False if there is none."""
        if not self.num_free:
            return False
        fork.state = self._take()
        self._copy(parent.state, fork.state)
        return True

    def end(self, sequence: Sequence) -> None:
        """Takes a sequence's slot, if it has one, and what was planned for it."""
        for digest in [digest for digest, owner in self._planned.items() if owner is sequence] if sequence.borders else ():
            del self._planned[digest]
        sequence.borders = []
        if sequence.state:
            self._copies.pop(sequence.state, None)
            self._free.append(sequence.state)
            sequence.state = NULL_STATE

    # -- snapshots -------------------------------------------------------------------------------------------------
    def has(self, digest: bytes) -> bool:
        """True if there is a snapshot after the prefix with this hash."""
        return digest in self._snapshots

    def plan(self, sequence: Sequence, borders: dict[int, bytes]) -> None:
        """Says at which numbers of tokens, all ahead of it, a sequence's states will be kept, and under which hashes."""
        sequence.borders = sorted(borders)
        for digest in borders.values():
            self._planned.setdefault(digest, sequence)

    def is_planned(self, digest: bytes) -> bool:
        """True if a running sequence is on its way to where a snapshot will be made."""
        return digest in self._planned

    @property
    def has_plans(self) -> bool:
        return bool(self._planned)

    def keep(self, sequence: Sequence, digest: bytes) -> None:
        """A sequence stands at the next of its borders: its states are kept, if there is a slot for them."""
        del sequence.borders[0]
        if self._planned.get(digest) is sequence:
            del self._planned[digest]
        if digest in self._snapshots:
            self._snapshots.move_to_end(digest)
        elif self.num_free:
            slot = self._take()
            self._snapshots[digest] = slot
            self._copy(sequence.state, slot)

    def drop(self, digest: bytes) -> None:
        """Forgets a snapshot, if there is one."""
        slot = self._snapshots.pop(digest, None)
        if slot is not None:
            self._copies.pop(slot, None)
            self._free.append(slot)

    def reset(self) -> None:
        """Forgets all snapshots."""
        for digest in [*self._snapshots]:
            self.drop(digest)

    # -- copies ----------------------------------------------------------------------------------------------------
    def hand_over(self) -> list[tuple[int, int]]:
        """(source, target) copies for the step that is scheduled now: to be made before it, all at once."""
        booked = [(source, target) for target, source in self._copies.items()]
        self._copies = {}
        return booked

    def _copy(self, source: int, target: int) -> None:
        source = self._copies.get(source, source)  # what it is about to hold
        if source == target:  # it was the least recently used snapshot that was copied
            self._copies.pop(target, None)
        else:
            self._copies[target] = source

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next_fresh <= self.num_usable:
            self._next_fresh += 1
            return self._next_fresh - 1
        _, slot = self._snapshots.popitem(last=False)
        return slot

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Proves that the books balance, given every sequence that holds a slot. For tests."""
        held = [sequence.state for sequence in sequences]
        assert NULL_STATE not in held, "a running sequence has no slot"
        assert len(held) == self.num_held
        assert sorted([*held, *self._free, *self._snapshots.values()]) == [*range(1, self._next_fresh)], "a slot is lost, or there twice"
        assert self._next_fresh <= self.num_usable + 1
        assert not {*self._copies} & {*self._free}, "a copy to a slot that is nobody's"
        owners = {*sequences}
        for digest, owner in self._planned.items():
            assert owner in owners, "planned by a sequence that does not run"
            assert owner.borders, "planned, and its sequence goes on without a pause"
            assert digest in owner.hashes
        for sequence in owners:
            assert sequence.borders == sorted({*sequence.borders})
            assert all(sequence.num_computed < border < len(sequence.tokens) for border in sequence.borders)
