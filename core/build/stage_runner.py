"""The runner of one stage of a pipeline: hidden states come from the stage before and go to the next; the last one has the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infer.kernels.ops import AttentionMeta, KVCache, Ops, ScaledRows

from ..engine.batch import Batch
from ..engine.runner import Runner, TakePiece
from ..layers.embedding import GivenEmbeds
from ..models.decoder import Decoder
from ..models.decoder_layer import Hidden
from ..models.language_model import LanguageModel
from ..parallel.channel import Channel


class StageRunner(Runner):
    """
    Args:
        before, after: channels from the stage before and to the next one, if there is such. Steps go through all in one order.
    """

    def __init__(
        self,
        model: LanguageModel,
        ops: Ops,
        caches: list[KVCache],
        block_size: int,
        device: torch.device,
        pools: Sequence[Sequence[Tensor]] = (),
        before: Channel | None = None,
        after: Channel | None = None,
    ) -> None:
        super().__init__(model, ops, caches, block_size, device, pools)
        self.before, self.after = before, after

    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> Tensor:
        """As of `Runner`; before the last stage nothing comes back."""
        if self.after is None:
            return super().run(batch, take_prompt)
        with torch.inference_mode():
            self.compute(batch)
        return torch.empty(0)

    def through(self, tokens: Tensor, positions: Tensor, meta: AttentionMeta, rows: Tensor, given: GivenEmbeds | None) -> Tensor:
        if self.before is None and self.after is None:
            return super().through(tokens, positions, meta, rows, given)
        assert isinstance(self.model, Decoder), "`check_stages` refuses others"
        hidden = None if self.before is None else _hidden(self.before.receive())
        made = self.model.through(hidden, tokens, positions, self.caches, meta, rows, self.pools, given)
        if self.after is None:
            return self.model.normed(made, meta, rows)
        self.after.send(_tensors(made))
        return made.residual


def _tensors(hidden: Hidden) -> list[Tensor]:
    if hidden.x is None:
        return [hidden.residual]
    return [hidden.residual, *hidden.x] if isinstance(hidden.x, ScaledRows) else [hidden.residual, hidden.x]


def _hidden(tensors: Sequence[Tensor]) -> Hidden:
    """The hidden states that `_tensors` made these tensors of."""
    residual, *x = tensors
    return Hidden(None if not x else x[0] if len(x) == 1 else ScaledRows(*x), residual)
