"""The books of the KV cache: who holds which block, and which blocks can be found again by their content.

Knows block ids, reference counts and hashes; never tensors, never time. A block is

    held    ref > 0, in the block tables of `ref` sequences
    idle    free, and findable: it holds what its hash says and is handed out again when a prompt with that prefix
            comes, until something else needs it; least recently used first
    blank   free, and what it holds is of no use
    fresh   free, and never used: on a CPU its memory is not taken yet
    null    block 0: zeros that masked positions read; never handed out

Content that a running sequence is about to compute is announced, so that another with the same prefix can wait for it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable

from ..types.request import Sequence
from .states import StateSlots

#: Same as kernels.ops.NULL_BLOCK, which cannot be imported here without torch; a test compares them.
NULL_BLOCK = 0


class BlockManager:
    """
    Args:
        num_blocks: blocks of the cache, the null block included.
        block_size: tokens a block.
        prefix_caching: whether content is remembered and found again.
        max_idle: idle blocks beyond so many, and beyond a quarter of the most that were ever held, are used before fresh ones;
            None is no limit. Content is lost a little earlier, and memory that was never needed at a time is not taken.
        states: the books of the states, of a model that keeps some: a sequence has a slot as long as it has blocks, and a prefix is found
            where it ends with a snapshot.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, prefix_caching: bool, max_idle: int | None = None, states: StateSlots | None = None
    ) -> None:
        assert num_blocks > 1, "a cache needs a block besides the null block"
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.states = states
        self.num_usable = num_blocks - 1
        self._max_idle = num_blocks if max_idle is None else max_idle
        self.num_held = 0
        """Blocks that sequences hold."""
        self._refs = [0] * num_blocks
        self._next_fresh = 1
        self._blank: list[int] = []
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._hash_of: dict[int, bytes] = {}
        self._by_hash: dict[bytes, int] = {}
        self._announced: dict[bytes, Sequence] = {}

    @property
    def num_free(self) -> int:
        return self.num_usable - self.num_held

    @property
    def usage(self) -> float:
        """Share of the usable blocks that are held, 0 to 1."""
        return 1 - self.num_free / self.num_usable

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # -- finding ---------------------------------------------------------------------------------------------------
    def cached_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks that hold the longest known prefix of the sequence, as far as that may be read: see `Sequence.most_cached`."""
        found: list[int] = []
        if self.prefix_caching:
            for i in range(sequence.most_cached // self.block_size):
                block = self._by_hash.get(self._hash(sequence, i))
                if block is None:
                    break
                found.append(block)
            if len(found) * self.block_size < sequence.num_encoder:  # the input is read as a whole
                found = []
        if self.states is not None:
            while found and not self.states.has(self._hash(sequence, len(found) - 1)):
                found.pop()
        return found

    def reusable(self, sequence: Sequence) -> tuple[list[int], int]:
        """(blocks, tokens computed in them) that a sequence may start from: of the choice that shares the prompt, or of the cache."""
        source = sequence.source
        if source is not None and source.blocks and source.num_computed >= sequence.num_shared:
            computed = sequence.num_shared
            if self.states is None:
                return source.blocks[: self.blocks_for(computed)], computed
            for count in range(computed // self.block_size, 0, -1):
                if self.states.has(self._hash(sequence, count - 1)):
                    return source.blocks[:count], count * self.block_size
        found = self.cached_prefix(sequence)
        return found, len(found) * self.block_size

    def is_announced(self, sequence: Sequence, num_computed: int) -> bool:
        """True if another sequence is about to compute the block that this one, with `num_computed` tokens found, needs next; with states
        one that is on its way to a snapshot for this one."""
        i = num_computed // self.block_size
        if self.states is not None:
            blocks = range(i, sequence.most_cached // self.block_size) if self.prefix_caching and self.states.has_plans else ()
            return any(self.states.is_planned(self._hash(sequence, block)) for block in blocks)
        return bool(self._announced) and i < sequence.most_cached // self.block_size and self._hash(sequence, i) in self._announced

    def missing(self, shared: list[int], num_computed: int, num_tokens: int) -> int:
        """Blocks beyond the free ones that it takes to start a sequence from `shared` blocks, of which the first
        `num_computed` tokens are valid, with room for `num_tokens`. 0 or less means that there are enough.

        Counts shared blocks that would leave the free list, and a copy if writing starts within a shared block. Without a slot for its
        states there are not enough.
        """
        if self.states is not None and not self.states.num_free:
            return num_tokens
        revived = sum(1 for block in shared if self._refs[block] == 0)
        copied = num_computed // self.block_size < len(shared)
        return revived + copied + self.blocks_for(num_tokens) - len(shared) - self.num_free

    def num_kept(self, sequence: Sequence) -> int:
        """The number of the sequence's first computed tokens that are in blocks which others hold too."""
        count = 0
        for block in sequence.blocks[: sequence.num_computed // self.block_size]:
            if self._refs[block] < 2:
                break
            count += 1
        return count * self.block_size

    # -- holding ---------------------------------------------------------------------------------------------------
    def share(self, sequence: Sequence, blocks: list[int]) -> None:
        """Starts the sequence's empty table with blocks that others may hold too, and its states with their snapshot."""
        if self.states is not None:
            self.states.start(sequence, self._hash(sequence, len(blocks) - 1) if blocks else None)
        self._share(sequence, blocks)

    def fork(self, parent: Sequence, fork: Sequence) -> bool:
        """Starts a sequence with another's past: it shares the blocks, and has a copy of the states. False, and nothing is done, where
        that has no slot left."""
        if self.states is not None and not self.states.fork(parent, fork):
            return False
        self._share(fork, parent.blocks)
        fork.num_computed = parent.num_computed
        return True

    def _share(self, sequence: Sequence, blocks: list[int]) -> None:
        assert not sequence.blocks
        for block in blocks:
            if self._refs[block] == 0:
                del self._idle[block]
                self.num_held += 1
            self._refs[block] += 1
        sequence.blocks = list(blocks)

    def shared_and_written(self, sequence: Sequence) -> list[int]:
        """Places in the sequence's table of blocks that it will write while others hold them too."""
        first = sequence.num_computed // self.block_size
        return [i for i in range(first, len(sequence.blocks)) if self._refs[sequence.blocks[i]] > 1]

    def shortage(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks beyond the free ones that `grow` takes; with 0 or less it succeeds."""
        new = max(0, self.blocks_for(num_tokens) - len(sequence.blocks))
        return new + len(self.shared_and_written(sequence)) - self.num_free

    def grow(self, sequence: Sequence, num_tokens: int) -> list[tuple[int, int]]:
        """Gives the sequence blocks for `num_tokens` and sole ownership of those it will write.

        Returns the (source, target) block copies to make before this step writes anything (copy on write).
        """
        copies = []
        for i in self.shared_and_written(sequence):
            source, target = sequence.blocks[i], self._take()
            self._refs[source] -= 1
            sequence.blocks[i] = target
            copies.append((source, target))
        while len(sequence.blocks) < self.blocks_for(num_tokens):
            sequence.blocks.append(self._take())
        return copies

    def take(self, count: int) -> list[int]:
        """So many blocks for sequences that append them to their tables; there must be as many free ones."""
        return [self._take() for _ in range(count)]

    def free(self, sequence: Sequence) -> None:
        """Gives the sequence's blocks back, its last first, so that prefixes outlive their endings."""
        if self._announced:
            for digest in sequence.hashes:
                self._withdraw(digest, sequence)
        if self.states is not None:
            self.states.end(sequence)
            if not self.prefix_caching:  # the request's other choices have started by now
                self._drop_snapshots(sequence)
        for block in reversed(sequence.blocks):
            self._refs[block] -= 1
            if self._refs[block] == 0:
                self.num_held -= 1
                if block in self._hash_of:
                    self._idle[block] = None
                else:
                    self._blank.append(block)
        sequence.blocks = []

    # -- remembering -----------------------------------------------------------------------------------------------
    def announce(self, sequence: Sequence) -> None:
        """Says which full blocks the sequence is about to compute, until they are remembered or its blocks are freed."""
        if self.prefix_caching:
            for i in range(sequence.num_computed // self.block_size, len(sequence.tokens) // self.block_size):
                digest = self._hash(sequence, i)
                if digest not in self._by_hash:
                    self._announced.setdefault(digest, sequence)

    def remember(self, sequence: Sequence, start: int) -> None:
        """Makes the full blocks between `start` and the last computed token findable."""
        if self.prefix_caching:
            for i in range(start // self.block_size, sequence.num_computed // self.block_size):
                block, digest = sequence.blocks[i], self._hash(sequence, i)
                if self._announced:
                    self._withdraw(digest, sequence)
                if digest not in self._by_hash and block not in self._hash_of:
                    self._by_hash[digest] = block
                    self._hash_of[block] = digest

    def forget(self, sequence: Sequence) -> None:
        """Makes the sequence's blocks unfindable: what they hold is not to be trusted."""
        self._drop_snapshots(sequence)
        for block in sequence.blocks:
            self._drop_hash(block)

    def reset(self) -> None:
        """Forgets all content: the books are as they were when they were opened. No sequence may hold a block."""
        assert self.num_free == self.num_usable, "blocks are held"
        if self.states is not None:
            self.states.reset()
        self._blank += self._idle
        self._idle.clear()
        self._hash_of.clear()
        self._by_hash.clear()

    # -- states ----------------------------------------------------------------------------------------------------
    def plan_snapshots(self, sequence: Sequence, following: Sequence | None) -> None:
        """Chooses where to keep the states of a sequence that was started, if the model has some: at its last full block; where what it
        has in common with known blocks ends, and where what it has in common with the sequence that comes next. Without prefix caching for
        further choices alone."""
        if self.states is None:
            return
        last = self._num_reusable(sequence)
        ends = {last} if self.prefix_caching or sequence.params.num_choices > 1 or sequence.request.continuations else set()
        if self.prefix_caching:
            ends.add(next((i for i in range(last) if self._hash(sequence, i) not in self._by_hash), last))
            if following is not None:
                both = min(last, self._num_reusable(following))
                ends.add(next((i for i in range(both) if self._hash(sequence, i) != self._hash(following, i)), both))
        ahead = {end * self.block_size: self._hash(sequence, end - 1) for end in ends if end * self.block_size > sequence.num_computed}
        self.states.plan(sequence, ahead)

    def keep_states(self, sequence: Sequence) -> None:
        """Keeps the states of a sequence that stands at the next of its borders."""
        assert self.states is not None
        self.states.keep(sequence, self._hash(sequence, sequence.num_computed // self.block_size - 1))

    def _drop_snapshots(self, sequence: Sequence) -> None:
        if self.states is not None:
            for digest in sequence.hashes:
                self.states.drop(digest)

    # -- own -------------------------------------------------------------------------------------------------------
    def _num_reusable(self, sequence: Sequence) -> int:
        return (len(sequence.tokens) - 1) // self.block_size

    def _withdraw(self, digest: bytes, sequence: Sequence) -> None:
        if self._announced.get(digest) is sequence:
            del self._announced[digest]

    def _take(self) -> int:
        if self._blank:
            block = self._blank.pop()
        elif self._next_fresh <= self.num_usable and (not self._idle or len(self._idle) <= self._max_idle):
            block = self._next_fresh
            self._next_fresh += 1
        else:
            block, _ = self._idle.popitem(last=False)
            self._drop_hash(block)
        self._refs[block] = 1
        self.num_held += 1
        if self.num_held > 4 * self._max_idle:
            self._max_idle = self.num_held // 4
        return block

    def _drop_hash(self, block: int) -> None:
        digest = self._hash_of.pop(block, None)
        if digest is not None:
            del self._by_hash[digest]
            if self.states is not None:
                self.states.drop(digest)

    def _hash(self, sequence: Sequence, i: int) -> bytes:
        """Chain hash of block i: of its tokens and media, the hash of all before it and its adapter. 128 bits: no collision to plan for."""
        hashes, size = sequence.hashes, self.block_size
        while len(hashes) <= i:
            start, stop = len(hashes) * size, (len(hashes) + 1) * size
            if start >= sequence.num_prompt:  # of tokens that were drawn, which are all there is to say of it
                content = hashes[-1] + array("q", sequence.tokens[start:stop]).tobytes()
                hashes.append(hashlib.blake2b(content, digest_size=16).digest())
                continue
            if sequence.request.spans is not None:  # what is kept of one of its tokens depends on all of them
                _, stop = sequence.request.spans.around(stop)
            parent = hashes[-1] if hashes else b"" if sequence.adapter is None else sequence.adapter.salt
            if not hashes and sequence.num_encoder:  # what is kept of its first token depends on its last
                parent += b"encoder" + array("q", sequence.request.encoder_ids).tobytes()
            content = array("q", sequence.tokens[start:stop]).tobytes()
            if start < sequence.request.num_virtual:
                assert sequence.request.embeds is not None
                content += sequence.request.embeds.values[start:stop].tobytes()
            for placed in sequence.request.media:
                content += placed.salt(start, stop)
            hashes.append(hashlib.blake2b(parent + content, digest_size=16).digest())
        return hashes[i]

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Proves that the books balance, given every sequence that holds blocks. For tests."""
        held: dict[int, int] = {}
        sequences = list(sequences)
        for sequence in sequences:
            assert len(set(sequence.blocks)) == len(sequence.blocks), "a block stands twice in a table"
            for block in sequence.blocks:
                held[block] = held.get(block, 0) + 1
        assert NULL_BLOCK not in held
        fresh = range(self._next_fresh, self.num_usable + 1)
        assert len(self._blank) + len(self._idle) + len(fresh) == self.num_free
        free = {*self._blank, *self._idle, *fresh}
        assert len(free) == self.num_free, "a block is free twice"
        assert NULL_BLOCK not in free
        assert all((block in self._hash_of) == (block in self._idle) for block in free), "free blocks are idle if they are findable"
        for block, refs in enumerate(self._refs):
            assert refs == held.get(block, 0), f"block {block}: {refs} references, {held.get(block, 0)} holders"
            assert (refs == 0) == (block in free or block == NULL_BLOCK), f"block {block}: {refs} references and free list disagree"
        assert {b: h for h, b in self._by_hash.items()} == self._hash_of
        if self.states is not None:
            self.states.check_integrity(sequences)
        for digest, owner in self._announced.items():
            assert any(owner is s for s in sequences), "announced by a sequence that holds no blocks"
            assert digest in owner.hashes[owner.num_computed // self.block_size :], "announced and already computed"
