"""Recorded steps of decodes: a GPU is given one thing to do instead of hundreds.

What is recorded is the model's forward pass up to the hidden states; logits are computed as ever, of the rows that are wanted. Where
a step is larger than the sizes, or longer, or has prompts in it, it runs as it would without graphs.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from infer.kernels.ops import KVCache

from ..errors import EngineError
from ..models.language_model import LanguageModel
from ..sampling.transfers import to_device
from .batch import Batch
from .static_inputs import StaticInputs

log = logging.getLogger(__name__)

#: The largest batch that is recorded.
MOST = 256
#: From here on sizes are multiples of this.
STEP = 8


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


class DecodeGraphs:
    """
    Args:
        sizes: of batches, rising.
        caches: one for each layer that attends, which stay where they are.
        pools: one for each layer that keeps states; likewise.

    Making it records all sizes, largest first. Where ranks share the model they must do so together, and then take the same batches.
    Raises EngineError if memory runs out.
    """

    def __init__(
        self,
        model: LanguageModel,
        caches: list[KVCache],
        inputs: StaticInputs,
        sizes: Sequence[int],
        recorder: Recorder,
        pools: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.sizes = sizes
        self._model = model
        self._caches = caches
        self._pools = pools
        self._inputs = inputs
        self._hidden: Tensor | None = None
        """[rows of the largest size, hidden_size]: what all recordings write."""
        self._replays: dict[int, Callable[[], None]] = {}
        started = time.monotonic()
        try:
            with torch.inference_mode():
                for size in reversed(sizes):
                    self._replays[size] = recorder.record(self._compute(size))
        except torch.OutOfMemoryError as error:
            raise EngineError("no GPU memory for CUDA graphs; lower --gpu-memory-utilization, or try --enforce-eager") from error
        except RuntimeError as error:
            raise EngineError(f"CUDA graphs cannot be recorded: {str(error).splitlines()[0]}; try --enforce-eager") from error
        log.info("CUDA graphs: %d batch sizes up to %d in %.1f s", len(sizes), sizes[-1], time.monotonic() - started)

    def take(self, batch: Batch) -> bool:
        """True if `run` can compute it. Depends on nothing but the batch."""
        count = len(batch.kv_lens)
        return (
            len(batch.slots) == count <= self.sizes[-1]
            and not batch.num_prompt_logits
            and not len(batch.virtual_rows)
            and not len(batch.grid)
            and not len(batch.adapters)  # whose rows are grouped anew in each step
            and int(batch.kv_lens.max()) <= self._inputs.max_context
        )

    def run(self, batch: Batch, complete: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Hidden states [W, hidden_size] of the batch's `logit_rows`; in memory that the next step writes to.

        Args:
            complete: makes the token ids int64 [N] of those in the batch, on the device.
        """
        assert self._hidden is not None
        size = self.sizes[bisect_left(self.sizes, len(batch.kv_lens))]
        self._inputs.fill(batch, size)
        if complete is not None:
            tokens = self._inputs.tokens(size)
            completed = complete(tokens)
            if completed is not tokens:
                tokens.copy_(completed)
        self._replays[size]()
        if batch.num_logits == len(batch.kv_lens):  # all draw: the rows wanted are the first ones
            return self._hidden[: len(batch.logit_rows)]
        return self._hidden[to_device(torch.from_numpy(batch.logit_rows), self._hidden.device)]

    def _compute(self, size: int) -> Callable[[], None]:
        tokens, positions, meta = self._inputs.tokens(size), self._inputs.positions(size), self._inputs.meta(size)

        def compute() -> None:
            hidden = self._model.forward(tokens, positions, self._caches, meta, pools=self._pools)
            if self._hidden is None:  # the largest batch comes first, and runs before it is recorded
                self._hidden = torch.empty_like(hidden)
            self._hidden[: len(hidden)].copy_(hidden)

        return compute


def graph_sizes(max_num_seqs: int) -> list[int]:
    """1, 2, 4, 8, 16, 24 and so on by eights, up to the first that `max_num_seqs` fits, or MOST."""
    sizes = [1, 2, 4, *range(STEP, MOST + 1, STEP)]
    return sizes[: bisect_left(sizes, max_num_seqs) + 1]
