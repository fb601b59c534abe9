"""Swap space: the books of the KV blocks that preempted sequences have in CPU memory.

A preempted sequence goes on from its blocks, or is computed again, whichever takes less time. Knows block ids, lengths and
estimates; never tensors. A CPU block is

    held     in the table of one sequence that waits
    leaving  was held until this step, which reads it
    free
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..types.request import Request, Sequence

#: Supposed until steps and copies are measured: an 8B model's prompts on one GPU, and pinned memory at half of what PCIe 4 x16 gives.
SECONDS_PER_TOKEN = 1 / 10_000
BYTES_PER_SECOND = 12e9
#: Steps of fewer tokens tell nothing of a prompt's: they take as long as reading the weights does.
_TELLING_TOKENS = 64
#: Share of what was measured before in what is believed after the next step or copy.
_MEMORY = 0.9


class _Rate:
    """Seconds per unit over the last measurements, each as heavy as it has units."""

    def __init__(self, seconds_per_unit: float) -> None:
        self._seconds, self._units = seconds_per_unit, 1.0
        self._is_guess = True

    @property
    def seconds_per_unit(self) -> float:
        return self._seconds / self._units

    def measured(self, seconds: float, units: float) -> None:
        memory = 0.0 if self._is_guess else _MEMORY
        self._is_guess = False
        self._seconds = memory * self._seconds + seconds
        self._units = memory * self._units + units


class SwapCosts:
    """Costs of the two ways of coming back, by the times of recent steps and copies.

    Args:
        block_bytes: of a block, over all layers of one rank; ranks copy at the same time.
        clock: seconds.
    """

    def __init__(self, block_bytes: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._block_bytes = block_bytes
        self._token, self._byte = _Rate(SECONDS_PER_TOKEN), _Rate(1 / BYTES_PER_SECOND)
        self._last = 0.0

    def computed(self, num_tokens: int, began: float) -> None:
        """A step of so many tokens, scheduled at `began`, is done. One that was scheduled before another was done took its time
        from then on."""
        now = self.clock()
        seconds, self._last = now - max(began, self._last), now
        if num_tokens >= _TELLING_TOKENS:
            self._token.measured(seconds, num_tokens)

    def copied(self, num_bytes: int, seconds: float) -> None:
        """Blocks of so many bytes were copied, in either direction."""
        if num_bytes and seconds > 0:
            self._byte.measured(seconds, num_bytes)

    def of_computing(self, num_tokens: int) -> float:
        """Seconds to compute so many tokens again."""
        return num_tokens * self._token.seconds_per_unit

    def of_copying(self, num_blocks: int) -> float:
        """Seconds to take so many blocks away and to bring them back."""
        return 2 * num_blocks * self._block_bytes * self._byte.seconds_per_unit


@dataclass(frozen=True, slots=True)
class Stored:
    """The part of a preempted sequence that is in CPU memory."""

    blocks: list[int]
    """CPU blocks, in order of position."""
    num_computed: int
    """Tokens in them."""


#: (source, target) blocks.
Pairs = list[tuple[int, int]]


class SwapSpace:
    """
    Args:
        num_blocks: CPU blocks, counted from 0.
        block_size: tokens a block.
        mode: "swap" or "recompute" whatever it takes; None: what takes less time.
    """

    def __init__(self, num_blocks: int, block_size: int, costs: SwapCosts, mode: str | None = None) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.costs = costs
        self.num_swapped = 0
        """Sequences that were taken out."""
        self._mode = mode
        self._fresh = 0  # the first block that was never used, and so takes no memory yet
        self._free: list[int] = []
        self._leaving: list[int] = []
        self._stored: dict[Sequence, Stored] = {}
        self._out: Pairs = []
        self._in: Pairs = []

    @property
    def num_free(self) -> int:
        return self.num_blocks - self._fresh + len(self._free)

    def suits(self, sequence: Sequence, num_kept: int) -> bool:
        """True if a sequence that is preempted should leave its blocks here, which must have room for them.

        Args:
            num_kept: its first tokens that others keep on the device: they would not be computed again.
        """
        count = self._blocks_for(sequence.num_computed)
        if not count or count > self.num_free or self._mode == "recompute":
            return False
        lost = sequence.num_computed - num_kept
        return self._mode == "swap" or self.costs.of_copying(count) < self.costs.of_computing(lost)

    def take_out(self, sequence: Sequence) -> None:
        """Books the copies of all that a sequence has computed; its blocks on the device may then be freed."""
        targets = [self._take() for _ in range(self._blocks_for(sequence.num_computed))]
        self._out += zip(sequence.blocks, targets, strict=False)
        self._stored[sequence] = Stored(targets, sequence.num_computed)
        self.num_swapped += 1

    def find(self, sequence: Sequence) -> Stored | None:
        """The blocks of a sequence here, if it has any."""
        return self._stored.get(sequence)

    def bring_back(self, sequence: Sequence, num_shared: int) -> bool:
        """Books the copies to a sequence's new blocks on the device, but for the first `num_shared` of them, if what it has here is
        what it is said to have computed; returns whether it is. Forgets what it has here in either case."""
        stored = self._stored.get(sequence)
        goes_on = stored is not None and stored.num_computed == sequence.num_computed
        if stored is not None and goes_on:
            self._in += list(zip(stored.blocks, sequence.blocks, strict=False))[num_shared:]
        self.drop(sequence)
        return goes_on

    def drop(self, sequence: Sequence) -> None:
        """Forgets what a sequence has here, if anything. Its blocks are used again from the next step on."""
        stored = self._stored.pop(sequence, None)
        if stored is not None:
            self._leaving += reversed(stored.blocks)

    def drop_request(self, request: Request) -> None:
        """Forgets what all choices of a request have here."""
        for sequence in [s for s in self._stored if s.request is request]:
            self.drop(sequence)

    def hand_over(self) -> tuple[Pairs, Pairs]:
        """The copies that were booked, for the step that is scheduled now: (device, CPU) and (CPU, device) blocks, to be made in this
        order before anything else."""
        booked = self._out, self._in
        self._out, self._in = [], []
        self._free += self._leaving
        self._leaving = []
        return booked

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._fresh += 1
        return self._fresh - 1

    def check_integrity(self, waiting: Collection[Sequence]) -> None:
        """Proves that the books balance, given every sequence that waits. For tests."""
        assert self._stored.keys() <= {*waiting}, "a sequence that does not wait has CPU blocks"
        held = [block for stored in self._stored.values() for block in stored.blocks]
        known = [*held, *self._leaving, *self._free]
        assert sorted(known) == [*range(self._fresh)], "a CPU block is lost, or there twice"
        assert self._fresh <= self.num_blocks
        for sequence, stored in self._stored.items():
            assert len(stored.blocks) == self._blocks_for(stored.num_computed) > 0
            assert stored.num_computed <= len(sequence.tokens)
