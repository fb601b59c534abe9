"""An encoder and the decoder that attends to what it gives, as one language model.

A sequence of the engine begins with the tokens of its encoder input, which fill whole blocks, and the decoder's tokens follow:

    tokens    [ e e e e e e . . | d d d d d ]       . what the last block of the input has left, which nobody reads
    blocks    [ b0    | b1      | b2    | b3 ]

In the step that begins a sequence all of its input is encoded, alone or beside others', and each layer's keys and values of it are
stored in these blocks. So they are counted, shared, swapped and freed as all blocks are, and found again by the next sequence with the
same input. Positions of the decoder count from its first token.

Of a model that reads sound the input is a window of it, and its tokens stand for what a tower has made of that (`GivenEmbeds`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import NULL_BLOCK, ROW_MULTIPLE, AttentionMeta, KVCache, Ops, Segments

from ..layers.embedding import GivenEmbeds
from ..layers.linear import Linear
from ..spec.mixers import StateSpec
from ..spec.stack import KVSpec, StackSpec
from ..weights.parameter import Parameter
from .decoder import Decoder
from .encoder import Encoder

#: Finite in float16 too: logits that are not finite are an error.
_LOWEST = -6e4


class EncoderDecoder:
    """A LanguageModel. Weights are filled by `weights.loader`."""

    def __init__(self, stack: StackSpec, ops: Ops) -> None:
        assert stack.encoder is not None or stack.tower_positions, "its spec has one"
        self.stack, self.ops = stack, ops
        self.decoder = Decoder(stack, ops)
        self.encoder = None if stack.encoder is None else Encoder(stack.encoder, ops)
        """None: a tower gives what the decoder attends to."""
        if self.encoder is not None and self.encoder.stack.names.words == stack.names.words:  # held once
            self.encoder.embedding.words = self.decoder.embedding
        self.forbidden: Tensor | None = None
        """int64 [any number]: tokens that are never written."""
        self.head, self.ropes = self.decoder.head, self.decoder.ropes
        self.vocab_size, self.hidden_size = self.decoder.vocab_size, self.decoder.hidden_size

    @property
    def caches(self) -> tuple[KVSpec, ...]:
        return self.decoder.caches

    @property
    def states(self) -> tuple[tuple[StateSpec, ...], ...]:
        return ()

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for inputs, and outputs, of so many tokens."""
        if self.encoder is not None:
            self.encoder.allocate(num_positions, device)
        self.decoder.allocate(num_positions, device)

    def linears(self) -> Iterator[Linear]:
        if self.encoder is not None:
            yield from self.encoder.linears()
        yield from self.decoder.linears()

    def parameters(self) -> Iterator[Parameter]:
        own = () if self.encoder is None else self.encoder.parameters()
        yield from dict.fromkeys([*own, *self.decoder.parameters()])

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        caches: list[KVCache],
        meta: AttentionMeta,
        rows: Tensor | None = None,
        pools: Sequence[Sequence[Tensor]] = (),
        given: GivenEmbeds | None = None,
    ) -> Tensor:
        """See `Decoder.forward`; `rows`, which are given, are of the decoder's tokens."""
        assert rows is not None, "not all rows are of the decoder"
        assert meta.encoder_lens is not None, "the engine says what is the encoder's"
        size, device, total = meta.block_size, tokens.device, len(meta.slots)
        lens, ends = meta.encoder_lens.long(), meta.kv_lens.long()
        counts = meta.query_start.diff().long()
        blocks = (lens + size - 1) // size
        begins = blocks * size  # where each sequence's decoder begins
        owner = torch.repeat_interleave(torch.arange(len(lens), device=device), counts, output_size=total)
        place = positions[:total]
        encoded = place < begins[owner]
        is_new = ends == counts
        if bool(encoded.any()):
            read = (place < lens[owner]).nonzero()[:, 0]
            starts = F.pad(lens[is_new].cumsum(0), (1, 0)).int()
            if self.encoder is None:
                hidden = self._given(read, given)
            else:
                hidden = self.encoder.forward(_padded(tokens[read]), _padded(place[read]), None, Segments(starts))
            self._store(hidden, meta.slots[read], caches, meta)
        mine = (~encoded).nonzero()[:, 0]
        counts = counts - begins * is_new
        own = AttentionMeta(
            query_start=F.pad(counts.cumsum(0), (1, 0)).int(),
            kv_lens=(ends - begins).int(),
            block_tables=_shifted(meta.block_tables, blocks),
            slots=meta.slots[mine],
            block_size=size,
        )
        owner, place = owner[mine], (place - begins[owner])[mine]
        own.cross = AttentionMeta(
            query_start=torch.arange(len(mine) + 1, dtype=torch.int32, device=device),
            kv_lens=meta.encoder_lens[owner],
            block_tables=meta.block_tables[owner],
            slots=own.slots,
            block_size=size,
        )
        crossing = self.decoder.layers[0].cross
        assert crossing is not None, "its layers attend to the encoder"
        own.cross.plan = self.ops.plan_attention(own.cross, crossing.config.num_heads, crossing.config.num_kv_heads)
        wanted = torch.searchsorted(mine, rows).clamp_(max=max(0, len(mine) - 1))  # of padding, any
        return self.decoder.forward(_padded(tokens[mine]), _padded(place), caches, own, wanted)

    def _given(self, read: Tensor, given: GivenEmbeds | None) -> Tensor:
        """What a tower gave for these token rows; of a batch that is only tried out zeros."""
        hidden = torch.zeros(len(read), self.hidden_size, dtype=self.decoder.embedding.table.dtype, device=read.device)
        if given is not None:
            assert torch.equal(given.rows, read), "each token of an input stands for a part of a medium"
            hidden.copy_(given.values)
        return _padded(hidden)

    def _store(self, hidden: Tensor, slots: Tensor, caches: list[KVCache], meta: AttentionMeta) -> None:
        """Stores each layer's keys and values of encoded tokens at `slots`."""
        stored = AttentionMeta(meta.query_start, meta.kv_lens, meta.block_tables, slots, meta.block_size)
        for layer, cache in zip(self.decoder.layers, caches, strict=True):
            assert layer.cross is not None, "all layers attend to the encoder"
            layer.cross.store(self.ops.quantize(hidden) if layer.cross.kv.method.quantizes_input else hidden, cache, stored)

    def logits(self, hidden: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """See `Decoder.logits`; those of forbidden tokens are as low as every dtype can tell."""
        logits = self.decoder.logits(hidden, adapters)
        return logits if self.forbidden is None else logits.index_fill_(1, self.forbidden, _LOWEST)


def _padded(rows: Tensor) -> Tensor:
    """With zeros up to a multiple of ROW_MULTIPLE."""
    return F.pad(rows, (*[0] * (2 * rows.dim() - 1), -len(rows) % ROW_MULTIPLE))


def _shifted(tables: Tensor, by: Tensor) -> Tensor:
    """Block tables [S, most blocks] without the first `by` [S] of each."""
    places = by[:, None] + torch.arange(tables.shape[1], device=tables.device)
    return tables.gather(1, places.clamp(max=tables.shape[1] - 1)).where(places < tables.shape[1], NULL_BLOCK).int()
