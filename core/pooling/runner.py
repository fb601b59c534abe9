"""The pooling runner: computes one step on one device, a batch of ints in, pooled float32 vectors out.

Knows no requests or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import PairBias, Segments

from ..adapters.installed import Installed
from ..models.pooling_model import PoolingModel
from ..sampling.transfers import to_device
from ..types.pooling_request import TextIds
from .batch import Bags, TextBatch, bags, pack, single_rows


class Runner:
    """
    Args:
        pooling: how the tokens of a text become one vector, one of POOLINGS.
    """

    def __init__(self, model: PoolingModel, pooling: str, device: torch.device) -> None:
        self.model = model
        self.pooling = pooling
        self.device = device
        self.adapters: Installed | None = None
        """Those of LoRA, where texts may have some."""
        self._kept: Tensor | None = None

    def beside(self) -> Runner | None:
        """Another one, for steps that are computed at the same time as this one's; None where the model computes one at a time."""
        model = self.model.beside() if self.device.type == "cpu" else None
        if model is None:
            return None
        runner = Runner(model, self.pooling, self.device)
        runner.adapters = self.adapters
        return runner

    def pack(self, texts: Sequence[TextIds]) -> TextBatch:
        """The batch of texts, whose token types are left out where the model knows none."""
        batch = pack(texts)
        if batch.types is None or self.model.num_token_types > 1:
            return batch
        return TextBatch(batch.tokens, batch.positions, None, batch.starts, batch.unseen)

    @torch.inference_mode()
    def tokens(self, batch: TextBatch, rows: NDArray[np.int64] | None = None, slot: int = 0) -> Tensor:
        """Hidden states of all tokens, float32 [N, hidden_size]; from T on they mean nothing. Or of these rows alone.

        `slot` here and below: that of the adapter that reads the texts; 0: none.
        """
        return self._forward(batch, None if rows is None else self._tensor(rows), slot).float()

    @torch.inference_mode()
    def pooled(self, texts: Sequence[TextIds], batch: TextBatch, slot: int = 0) -> Tensor:
        """One vector a text, float32 [R, hidden_size], R a multiple of ROW_MULTIPLE; from S on they mean nothing.

        The mean is that of sentence-transformers: the sum, in float32 and in the order of the tokens, by their number.
        """
        if self.pooling != "mean":
            return self._forward(batch, self._tensor(single_rows(batch, self.pooling)), slot).float()
        return mean(self._floats(self._forward(batch, None, slot)), bags(texts, batch))

    def _floats(self, hidden: Tensor) -> Tensor:
        """hidden in float32, good until the next step: memory that is kept costs no page faults, a fifth of a millisecond a step."""
        if hidden.dtype == torch.float32:
            return hidden
        if self._kept is None or len(self._kept) < len(hidden):
            self._kept = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
        return self._kept[: len(hidden)].copy_(hidden)

    def _forward(self, batch: TextBatch, rows: Tensor | None, slot: int) -> Tensor:
        types = None if batch.types is None else self._tensor(batch.types)
        segments = Segments(self._tensor(batch.starts))
        if batch.unseen is not None:
            places = np.zeros((len(batch.starts) - 1, 3), dtype=np.int64)
            places[:, 0] = batch.starts[:-1]
            segments.unseen = PairBias(self._tensor(batch.unseen), self._tensor(places))
        if slot:
            segments.adapters = AdapterRows.all(slot, len(batch.tokens), self.device, None if rows is None else len(rows))
        return self.model.forward(self._tensor(batch.tokens), self._tensor(batch.positions), types, segments, rows)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """The array itself on a CPU, a copy elsewhere."""
        return to_device(torch.from_numpy(array), self.device)


def mean(hidden: Tensor, which: Bags) -> Tensor:
    """Means [R, hidden_size] of some of the rows of hidden [N, hidden_size], both float32; 0 of none.

    `embedding_bag` adds up rows one after the other for each bag, so what comes out depends on the bag alone (its neighbours and
    the number of threads change how torch's sums are ordered); and it takes an eighth of the time of a sum for each text.
    """
    rows, offsets, counts = (to_device(torch.from_numpy(a), hidden.device) for a in (which.rows, which.offsets, which.counts))
    return F.embedding_bag(rows, hidden, offsets, mode="sum") / counts.clamp_min(1e-9)
