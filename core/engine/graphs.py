"""Recorded steps: a GPU is given one thing to do instead of hundreds.

Two kinds are recorded: steps of decodes alone, by their sequences, and mixed ones, which have prompts or drafts in them, by their
tokens. The kernels' grids depend on shapes alone, so a step that is padded to the shapes of a recorded one is computed by replaying it.

What is recorded is the model's forward pass up to the hidden states of the rows that are wanted; logits are computed as ever. Where a
step is larger than the sizes, or longer, or has embeddings or adapters in it, it runs as it would without graphs.

All these are recorded before the first step. Two more kinds are recorded later, once a job has shown that it has many steps of them:
mixed steps of few sequences, whose decodes are cut into pieces (a recording's launches are as its size says, and the size of every other
mixed step has room for all sequences); and steps whose decodes have prefixes in common, which are read once for several of them. Neither
costs the other steps anything. With `--deterministic` a row has the same bits in each of them; otherwise its bits hang on how its keys
are shared out, as they do without graphs.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from infer.kernels.ops import DecodeLaunch, KVCache

from ..errors import EngineError
from ..memory.prefixes import PrefixGroups, prefix_groups
from ..models.language_model import LanguageModel
from .batch import Batch
from .static_inputs import MOST_GROUPS, StaticInputs, StepSize

log = logging.getLogger(__name__)

#: Most sequences of a recorded step, and most tokens of a mixed one: with more of them a GPU has more to do than a host can give it in
#: that time.
MOST_SEQUENCES, MOST_TOKENS = 1024, 2048
#: The fewest tokens of a mixed step.
LEAST_TOKENS = 16
#: Times that a step is met for which there is a size for later, before that is recorded: recording takes as long as some tens of steps, and
#: spares a small part of each. Reckoned, not measured.
PATIENCE = 32
#: Most recordings that are made later: their memory is kept free.
MOST_LATER = 32
#: Keys of a decode that it pays to share out among programs, for which a second kernel has to be launched. Likewise.
LONG = 512
_NEVER_CUT = DecodeLaunch(0, joins=False)
#: Decodes are recorded by so many sequences, up to as many: eights up to 256, and so on.
_DECODE_STEPS = ((8, 256), (32, 512), (64, MOST_SEQUENCES))


class Recorder(Protocol):
    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Runs `compute` once as it is and once to record what it gives the device; returns what does that again.

        `compute` reads nothing from the device, and all it reads or writes there stays where it is.
        """


class CudaRecorder:
    """CUDA graphs that share one pool of memory: of what they compute in between, one is alive at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            compute()  # kernels are compiled and loaded, and workspaces taken, when they are first met
        here.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that watches NCCL, may ask the device for something meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            compute()
        return graph.replay


class StepSizes:
    """The sizes of steps that are recorded, each kind rising.

    Args:
        decodes, mixed: recorded before the first step.
        launch: what sizes mean to decodes; it tells which more there are, to be recorded later.
    """

    def __init__(self, decodes: Sequence[StepSize], mixed: Sequence[StepSize], launch: DecodeLaunch = _NEVER_CUT) -> None:
        self.decodes, self.mixed = decodes, mixed
        self.launch = launch

    @classmethod
    def choose(cls, max_num_seqs: int, max_num_batched_tokens: int, launch: DecodeLaunch = _NEVER_CUT) -> StepSizes:
        """Those that steps of so many sequences and tokens fit, as far as it pays to record them."""
        most = min(max_num_seqs, MOST_SEQUENCES)
        decodes = [StepSize(size, size) for size in decode_sizes(most)]
        return cls(decodes, [StepSize(size, min(size - 1, most + 1)) for size in mixed_sizes(max_num_batched_tokens)], launch)

    @property
    def first(self) -> list[StepSize]:
        """Those recorded before the first step."""
        return [*self.decodes, *self.mixed]

    @property
    def later(self) -> list[StepSize]:
        """Those that may be recorded later."""
        found = [later(size) for size in self.first for later in (self.of_few, self.joined)]
        return [size for size in found if size is not None]

    @property
    def largest(self) -> StepSize:
        """As many tokens, sequences and groups as any has."""
        return StepSize(*map(max, zip(*self.first, *self.later, strict=True)))

    def of(self, num_tokens: int, num_sequences: int) -> StepSize | None:
        """The least that a step of so many fits, of those recorded before the first step; None if it fits none."""
        sizes = self.decodes if num_tokens == num_sequences else self.mixed
        place = bisect_left(sizes, num_tokens, key=lambda size: size.tokens)
        if place == len(sizes):
            return None
        size = sizes[place]
        # Tokens that are too many are given to a sequence of nobody's.
        return size if num_sequences + (num_tokens < size.tokens) <= size.sequences else None

    def of_few(self, size: StepSize) -> StepSize | None:
        """Of a mixed size the one with as many tokens and few sequences: half of those with which decodes are whole, so that their
        pieces are shared out among several programs. None where decodes of this size are cut anyway, or never."""
        few = self.launch.whole // 2
        return StepSize(size.tokens, few) if few > 2 and not size.decodes_alone and size.sequences >= self.launch.whole else None

    def joined(self, size: StepSize) -> StepSize | None:
        """The one for steps that fit `size` and whose decodes have something in common; None where it would not be looked at."""
        joins = self.launch.joins and size.sequences >= self.launch.whole
        return size._replace(groups=MOST_GROUPS) if joins else None


class StepGraphs:
    """
    Args:
        sizes: of steps.
        caches: one for each layer that attends, which stay where they are.
        pools: one for each layer that keeps states; likewise.
        alone: no other ranks share the model.

    Making it records all sizes but those for later, largest first. Where ranks share the model they must do so together, and then take
    the same batches. Raises EngineError if memory runs out.
    """

    def __init__(
        self,
        model: LanguageModel,
        caches: list[KVCache],
        inputs: StaticInputs,
        sizes: StepSizes,
        recorder: Recorder,
        pools: Sequence[Sequence[Tensor]] = (),
        *,
        alone: bool = True,
    ) -> None:
        self.sizes = sizes
        self._model = model
        self._caches = caches
        self._pools = pools
        self._inputs = inputs
        self._recorder = recorder
        self._alone = alone
        self._hidden: Tensor | None = None
        """[rows of the largest size, hidden_size]: what all recordings write, of the rows that are wanted the first."""
        self._replays: dict[StepSize, Callable[[], None]] = {}
        self._met: Counter[StepSize] = Counter()
        """Steps met so far for which there is a size for later that is not recorded, by that size."""
        self._left = MOST_LATER
        """Recordings that may still be made."""
        for size in sorted(sizes.first, key=lambda size: (size.rows, size.tokens), reverse=True):
            self.record(size)

    def record(self, size: StepSize) -> None:
        """Records a step of this size that is all nobody's. Raises EngineError."""
        try:
            with torch.inference_mode():
                self._inputs.prepare(size)
                self._replays[size] = self._recorder.record(self._compute(size))
        except torch.OutOfMemoryError as error:
            raise EngineError("no GPU memory for CUDA graphs; lower --gpu-memory-utilization, or try --enforce-eager") from error
        except RuntimeError as error:
            raise EngineError(f"CUDA graphs cannot be recorded: {str(error).splitlines()[0]}; try --enforce-eager") from error

    def size_of(self, batch: Batch) -> StepSize | None:
        """The size, of those recorded before the first step, that can compute it, if one can. Depends on nothing but the batch."""
        if batch.num_prompt_logits or len(batch.virtual_rows) or len(batch.grid) or len(batch.encoder_lens) or len(batch.spans):
            return None
        if len(batch.adapters):  # whose rows are grouped anew in each step
            return None
        if int(batch.kv_lens.max()) > self._inputs.max_context:
            return None
        size = self.sizes.of(len(batch.slots), len(batch.kv_lens))
        if size is None or size.decodes_alone:
            return size
        num_prompts = np.count_nonzero(np.diff(batch.query_start) > 1) + (len(batch.slots) < size.tokens)
        return size if num_prompts <= size.prompts else None

    def run(self, batch: Batch, size: StepSize, complete: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Hidden states [W, hidden_size] of the batch's `logit_rows`; in memory that the next step writes to.

        Args:
            size: the batch's `size_of`. Another is replayed where that is better and recorded by now.
            complete: makes the token ids int64 [N] of those in the batch, on the device.

        Raises EngineError where ranks share the model and one of them cannot record.
        """
        assert self._hidden is not None
        size, prefixes = self._better(batch, size)
        self._inputs.fill(batch, size, prefixes)
        if complete is not None:
            tokens = self._inputs.tokens(size)
            completed = complete(tokens)
            if completed is not tokens:
                tokens.copy_(completed)
        self._replays[size]()
        return self._hidden[: len(batch.logit_rows)]

    def _better(self, batch: Batch, size: StepSize) -> tuple[StepSize, PrefixGroups | None]:
        """The size to replay for a batch that fits `size`, and what its decodes have in common if the size is one for that."""
        few = self.sizes.of_few(size)
        if few is not None and len(batch.kv_lens) < few.sequences:  # so that there is one of nobody's
            is_long = (np.diff(batch.query_start) == 1) & (batch.kv_lens > LONG)
            return (few if is_long.any() and self._is_recorded(few) else size), None
        joined = self.sizes.joined(size)
        if joined is None:
            return size, None
        found = prefix_groups(batch.block_tables, batch.kv_lens, batch.query_start, self._inputs.block_size, most=joined.groups)
        return (size, None) if found is None or not self._is_recorded(joined) else (joined, found)

    def _is_recorded(self, size: StepSize) -> bool:
        """True if a size for later is recorded, now at the latest. Depends on the batches up to now, which all ranks have had."""
        if size in self._replays:
            return True
        self._met[size] += 1
        if self._met[size] < PATIENCE or not self._left:
            return False
        self._left -= 1
        try:
            self.record(size)
        except EngineError as error:
            if not self._alone:  # others may have recorded it
                raise
            log.warning("%s; this run goes on with the CUDA graphs that it has", error)
            self._left = 0
            return False
        log.debug("CUDA graph recorded: %s", size)
        return True

    def _compute(self, size: StepSize) -> Callable[[], None]:
        tokens, positions, meta = self._inputs.tokens(size), self._inputs.positions(size), self._inputs.meta(size)
        rows = self._inputs.logit_rows(size)

        def compute() -> None:
            hidden = self._model.forward(tokens, positions, self._caches, meta, pools=self._pools)
            if self._hidden is None:  # the largest step comes first, and runs before it is recorded
                self._hidden = torch.empty_like(hidden)
            torch.index_select(hidden, 0, rows, out=self._hidden[: len(rows)])

        return compute


def decode_sizes(max_num_seqs: int) -> list[int]:
    """1, 2, 4, 8, 16, 24 and so on, up to the first that `max_num_seqs` fits, or MOST_SEQUENCES."""
    sizes, least = [1, 2, 4], 0
    for step, most in _DECODE_STEPS:
        sizes += range(least + step, most + 1, step)
        least = most
    return sizes[: bisect_left(sizes, max_num_seqs) + 1]


def mixed_sizes(max_num_batched_tokens: int) -> list[int]:
    """16, 32, 48 and so on: from 256 on by eighths, up to the first that `max_num_batched_tokens` fits, or MOST_TOKENS."""
    sizes = [LEAST_TOKENS]
    while sizes[-1] < min(max_num_batched_tokens, MOST_TOKENS):
        sizes.append(sizes[-1] + max(LEAST_TOKENS, 1 << (sizes[-1].bit_length() - 4)))
    return sizes
