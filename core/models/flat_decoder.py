"""A causal language model as a PoolingModel: whole texts go in, hidden states come out, and nothing is kept between steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from infer.kernels.ops import NULL_BLOCK, AttentionMeta, KVCache, Ops, Segments

from ..layers.classifier import ScoringHead
from ..layers.linear import Linear
from ..layers.mixers import new_pools
from ..spec.stack import KVSpec
from ..weights.parameter import Parameter
from .decoder import Decoder
from .language_model import LanguageModel


class FlatDecoder:
    """Attention is causal and goes through the paged kernels, over pages laid out anew each step.

    One cache serves all layers of a shape: a layer's keys and values are stored and read before the next layer runs, and as texts are
    whole, none is wanted from an earlier step.

    Args:
        dtype: of the cache.
        block_size: tokens of a page.
    """

    num_token_types = 0

    def __init__(self, model: LanguageModel, dtype: torch.dtype, block_size: int, classifier: ScoringHead | None = None) -> None:
        self.model = model
        self.ops: Ops = model.ops
        self.hidden_size, self.vocab_size = model.hidden_size, model.vocab_size
        self.classifier: Callable[[Tensor], Tensor] | None = classifier
        self._head = classifier
        self._dtype = dtype
        self._block_size = block_size
        self._caches: dict[KVSpec, tuple[int, KVCache]] = {}

    def linears(self) -> Iterator[Linear]:
        yield from self.model.linears()

    def parameters(self) -> Iterator[Parameter]:
        """None of transformers' models, which come with their weights; the language model's head is left out."""
        if isinstance(self.model, Decoder):
            yield from self.model.body_parameters()
        if self._head is not None:
            yield from self._head.parameters()

    def beside(self) -> FlatDecoder | None:
        """With pages of its own. Not of transformers' models: what they keep of a batch is theirs to know."""
        if not isinstance(self.model, Decoder):
            return None
        other = copy.copy(self)
        other._caches = {}
        return other

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None, segments: Segments, rows: Tensor | None = None) -> Tensor:
        """See `PoolingModel.forward`."""
        meta, used = self._pages(segments.starts)
        meta.adapters = segments.adapters
        pools: list[tuple[Tensor, ...]] = []
        if self.model.states:
            count = len(meta.kv_lens)
            meta.state_slots = torch.arange(1, count + 1, dtype=torch.int32, device=tokens.device)
            pools = new_pools(self.model.states, count + 1, self._dtype, tokens.device)
        room = {cache: self._room(cache, used + 1, tokens.device) for cache in dict.fromkeys(self.model.caches)}  # NULL_BLOCK is nobody's
        return self.model.forward(tokens, positions, [room[cache] for cache in self.model.caches], meta, rows, pools)

    def _pages(self, starts: Tensor) -> tuple[AttentionMeta, int]:
        """The blocks in which the step's tokens are stored, text after text, and their number."""
        size, device = self._block_size, starts.device
        starts = starts.cpu()
        lengths = starts.diff()
        blocks = (lengths + size - 1) // size
        ends = blocks.cumsum(0, dtype=torch.int32)
        place = torch.arange(int(blocks.max()) if len(blocks) else 0, dtype=torch.int32)
        tables = torch.where(place < blocks[:, None], (ends - blocks)[:, None] + place + NULL_BLOCK + 1, NULL_BLOCK).int()
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        offset = torch.arange(len(owner)) - starts[owner]
        slots = tables[owner, offset // size].long() * size + offset % size
        meta = AttentionMeta(starts.to(device), lengths.int().to(device), tables.to(device), slots.to(device), size)
        return meta, int(blocks.sum())

    def _room(self, spec: KVSpec, num_blocks: int, device: torch.device) -> KVCache:
        """A cache of at least so many blocks; it grows and is kept."""
        have, cache = self._caches.pop(spec, (0, None))
        if cache is None or num_blocks > have:
            cache = None  # not beside the new one
            have = max(num_blocks, 2 * have)
            cache = self.ops.new_kv_cache(have, self._block_size, spec.num_kv_heads, spec.head_dim, self._dtype, device, latent=spec.latent)
        self._caches[spec] = (have, cache)
        return cache
