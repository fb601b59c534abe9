"""The books of LoRA adapters: which are in which slot, and whose turn it is. No torch.

A step has at most `max_active` different ones. A sequence whose adapter would be one too many waits, while others go on; once so many of
them have gone before it as are patience, one of the adapters that run gets no more sequences, so that a place becomes free. An adapter is
read when its first sequence starts; of those that nobody uses the one that was used longest ago makes room.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from ..errors import AdapterError, RecordError
from ..spec.stack import StackSpec
from ..types.adapters import AdapterKey, LoRARequest
from ..types.request import Sequence
from .adapter import CONFIG, WEIGHTS, expanded, read_config
from .fit import check_fit

#: Adapters whose files have been looked at, and what was found.
_MOST_KNOWN = 4096


class Registry:
    """Adapters that requests name: each is looked at once, as long as its files stay as they are.

    Args:
        head, unread: see `check_fit`.
    """

    def __init__(self, stack: StackSpec, max_rank: int, *, head: bool = True, unread: bool = False) -> None:
        self._stack, self._max_rank, self._head, self._unread = stack, max_rank, head, unread
        self._known: OrderedDict[AdapterKey, RecordError | None] = OrderedDict()

    def key_of(self, lora: LoRARequest) -> AdapterKey:
        """Raises RecordError (adapter_not_found, adapter_invalid)."""
        key = stamped(lora.lora_path)
        if key not in self._known:
            try:
                check_fit(read_config(key.path, max_rank=self._max_rank), self._stack, head=self._head, unread=self._unread)
                self._known[key] = None
            except AdapterError as error:
                self._known[key] = error.of_record()
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        if (wrong := self._known[key]) is not None:
            raise RecordError(wrong.code, wrong.message, param=wrong.param)
        return key


def stamped(path: str) -> AdapterKey:
    """The adapter in a folder, as its files are now; without those that are not there."""
    folder = expanded(path)
    stamp: list[int] = []
    for name in (CONFIG, WEIGHTS):
        try:
            status = (folder / name).stat()
            stamp += [status.st_mtime_ns, status.st_size]
        except (OSError, ValueError):  # a path that none can be
            stamp += [0, -1]
    return AdapterKey(os.path.abspath(folder), tuple(stamp))  # noqa: PTH100 (links are left as they are: what they lead to may change)


class AdapterBooks:
    """
    Args:
        num_slots: adapters that are kept ready.
        max_active: most adapters of running sequences.
        load: reads an adapter into a slot, in place of what was there. Raises AdapterError.
        patience: sequences that may go before one that waits for its adapter's turn.
    """

    def __init__(self, num_slots: int, max_active: int, load: Callable[[int, AdapterKey], None], *, patience: int = 256) -> None:
        assert num_slots >= max_active > 0
        self.max_active, self.patience = max_active, patience
        self.refused: dict[Sequence, RecordError] = {}
        """Sequences whose adapter could not be read, until they are taken."""
        self._load = load
        self._free = [*range(num_slots, 0, -1)]
        self._slots: OrderedDict[AdapterKey, int] = OrderedDict()
        """Those that are ready, the one used longest ago first."""
        self._active: Counter[AdapterKey] = Counter()
        self._passed: dict[AdapterKey, int] = {}
        """Adapters that sequences wait for, and the sequences that went before them since."""
        self._closing: AdapterKey | None = None

    def begin(self, running: Iterable[Sequence]) -> None:
        """Sequences are about to be admitted beside these."""
        self._active = Counter(s.adapter for s in running if s.adapter is not None)
        if self._closing not in self._active:
            self._closing = None

    def admit(self, sequence: Sequence) -> bool:
        """Gives a sequence its adapter's slot. False: it cannot start now, or at all (`refused`)."""
        key = sequence.adapter
        if key is None:
            return True
        if key not in self._active and len(self._active) >= self.max_active:
            self._wait(key)
            return False
        if key == self._closing:
            return False
        try:
            slot = self.slot_of(key)
        except AdapterError as error:
            self.refused[sequence] = error.of_record()
            return False
        self._passed.pop(key, None)
        for other in self._passed:
            self._passed[other] += 1
        self._active[key] += 1
        sequence.slot = slot
        return True

    def is_ready(self, key: AdapterKey) -> bool:
        """True if an adapter has a slot, so that asking for it changes none."""
        return key in self._slots

    def slot_of(self, key: AdapterKey) -> int:
        """The slot of an adapter, which is read if need be. Raises AdapterError."""
        if key not in self._slots:
            self._make_ready(key)
        self._slots.move_to_end(key)
        return self._slots[key]

    def take_refused(self) -> dict[Sequence, RecordError]:
        """What there is of `refused`, which is empty then."""
        refused, self.refused = self.refused, {}
        return refused

    def forget(self) -> None:
        """No request is left: nobody waits."""
        self._passed.clear()

    def _wait(self, key: AdapterKey) -> None:
        waited = self._passed.setdefault(key, 0)
        if waited >= self.patience and self._closing is None:
            self._closing = min(self._active, key=lambda one: self._active[one])  # the first of equals: those of the oldest sequence

    def _make_ready(self, key: AdapterKey) -> None:
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._slots.pop(next(one for one in self._slots if one not in self._active))
        try:
            self._load(slot, key)
        except AdapterError:
            self._free.append(slot)
            raise
        self._slots[key] = slot

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Proves that running sequences have the slots of their adapters. For tests."""
        own = [s for s in running if s.adapter is not None]
        assert len({s.adapter for s in own}) <= self.max_active
        assert all(s.adapter is not None and self._slots[s.adapter] == s.slot for s in own)
        taken = [*self._slots.values(), *self._free]
        assert len(set(taken)) == len(taken)
