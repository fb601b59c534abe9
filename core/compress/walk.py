"""A model run layer by layer over calibration texts: between two layers only one hidden state a token is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, Ops

from ..layers.linear import Linear
from ..memory import kv_cache
from ..memory.kv_cache import KVShape
from ..models.decoder import Decoder
from ..models.decoder_layer import DecoderLayer, LayerMemory
from .watched import Inputs, Watched

_CPU = torch.device("cpu")
_BLOCK_SIZE = 16


class Walk:
    """
    Args:
        texts: token ids of each.
    """

    def __init__(self, model: Decoder, ops: Ops, texts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ops = ops
        self.lengths = [len(ids) for ids in texts]
        model.allocate(max(self.lengths), _CPU)
        self.hidden: list[Tensor] = []
        """float32 [N, size] of each text, N padded to ROW_MULTIPLE: what the next layer gets."""
        for ids in texts:
            tokens = F.pad(torch.tensor(ids), (0, -len(ids) % ROW_MULTIPLE))
            self.hidden.append(model.embedded(tokens, self._positions(len(ids))))

    def inputs(self, layer: DecoderLayer) -> dict[Linear, Inputs]:
        """The inputs of each linear layer of the next layer."""
        found = {linear: Inputs(linear.in_features, sum(self.lengths)) for linear in layer.linears()}
        for linear, inputs in found.items():
            assert isinstance(linear.method, Watched)
            linear.method.listener = lambda rows, inputs=inputs: inputs.add(rows[: self._count])
        for _ in self._through(layer):
            pass
        for linear in found:
            assert isinstance(linear.method, Watched)
            linear.method.listener = None
        return found

    def go(self, layer: DecoderLayer) -> None:
        """Past the next layer, as it is now."""
        self.hidden = [*self._through(layer)]

    def _through(self, layer: DecoderLayer) -> Iterator[Tensor]:
        assert layer.attention is not None, "hybrids are refused before"
        config = layer.attention.config
        blocks = -(-max(self.lengths) // _BLOCK_SIZE)
        (cache,) = kv_cache.allocate(self.ops, KVShape((layer.attention.cache,), torch.float32), blocks, _BLOCK_SIZE, _CPU)
        for count, hidden in zip(self.lengths, self.hidden, strict=True):
            self._count = count
            meta = AttentionMeta(
                query_start=torch.tensor([0, count], dtype=torch.int32),
                kv_lens=torch.tensor([count], dtype=torch.int32),
                block_tables=torch.arange(1, blocks + 1, dtype=torch.int32)[None],
                slots=_BLOCK_SIZE + torch.arange(count),
                block_size=_BLOCK_SIZE,
            )
            meta.plan = self.ops.plan_attention(meta, config.num_heads, config.num_kv_heads)
            x, residual = layer(None, hidden.clone(), self._positions(count), LayerMemory(cache), meta, None)
            assert isinstance(x, Tensor), "nothing is quantized"
            yield residual + x

    @staticmethod
    def _positions(count: int) -> Tensor:
        return F.pad(torch.arange(count), (0, -count % ROW_MULTIPLE))
