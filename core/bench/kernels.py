"""Benchmark of the operations alone, at a model's shapes, beside the reference backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from infer import kernels
from infer.kernels.grouped import GroupedWeight, Scales
from infer.kernels.ops import ROW_MULTIPLE, AttentionConfig, AttentionMeta, KVCache, Ops, Rotation, SamplingRows, Segments

from ..errors import ModelError
from ..spec.model_spec import ModelSpec
from ..spec.stack import ExpertsSpec, StackSpec
from .peaks import best_of
from .results import rates, rounded
from .timing import TimedOps

#: A model to take shapes from where none is named: those of SmolLM2-135M.
SHAPES: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
#: Token rows of a step: a few sequences, a full batch of them, and a step full of prompts.
ROWS = (16, 64, 256, 2048)
#: Rows beyond this are prompts': no step draws for so many, or has so many sequences.
MOST_SEQUENCES = 256
#: Tokens in the cache of each sequence whose next token is computed.
CONTEXT = 512
#: Rows from which a step is a part of a long prompt too: the last one of a prompt of LONG times as many tokens.
LONG_ROWS, LONG = 1024, 4
#: Tokens of each text that is read in both directions.
TEXT = 128
BLOCK_SIZE = 16
#: Experts whose weights are made, at most.
MOST_EXPERTS = 32
#: Input features that share a scale in weights of 4 bits.
GROUP = 32
#: Seconds spent on each operation, about.
SECONDS = 0.1

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """An operation at one shape; `prepare` makes its inputs in the form a backend wants them."""

    name: str
    prepare: Callable[[Ops], Call]


@torch.inference_mode()
def measure(ops: Ops, spec: ModelSpec, dtype: torch.dtype, device: torch.device, rows: Sequence[int] = ROWS) -> Iterator[dict[str, Any]]:
    """Each operation at each number of rows, rounded up to what backends may assume; JSON of its best call.

    `speedup` is the reference's time over the backend's; None where that is the reference. Raises ModelError.
    """
    reference = kernels.load("reference") if ops.name != "reference" else None
    timed = TimedOps(ops)
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    for number in sorted({-(-n // ROW_MULTIPLE) * ROW_MULTIPLE for n in rows}):
        for case in _Cases(spec.need_stack(), dtype, device, number).all(ops):
            call = case.prepare(cast(Ops, timed))
            timed.times.clear()
            timed.on = True
            call()
            timed.on = False
            (work,) = timed.times.values()
            seconds = best_of(call, SECONDS, wait)
            other = best_of(case.prepare(reference), SECONDS, wait, least=1) if reference is not None else None
            yield {
                "name": case.name,
                "rows": number,
                "us": rounded(1e6 * seconds),
                **rates(work, seconds),
                "reference_us": None if other is None else rounded(1e6 * other),
                "speedup": None if other is None else rounded(other / seconds),
            }


class _Cases:
    def __init__(self, stack: StackSpec, dtype: torch.dtype, device: torch.device, rows: int) -> None:
        found = next(((one.attention, one.feed_forward) for one in stack.layers if one.attention and one.feed_forward), None)
        if found is None:
            raise ModelError("the model has no layer with attention and a feed-forward part, whose operations are measured")
        (self._heads, self._mlp), self._stack = found, stack
        self._dtype = dtype
        self._device = device
        self._rows = rows
        self._dice = torch.Generator(device).manual_seed(0)

    def all(self, ops: Ops) -> Iterator[Case]:
        c, rows, hidden, inner = self._heads, self._rows, self._stack.hidden_size, self._mlp.size
        sequences = rows <= MOST_SEQUENCES
        heads = c.num_heads * c.head_dim
        layers = {
            "qkv": (hidden, heads + 2 * c.num_kv_heads * c.head_dim),
            "out": (heads, hidden),
            "gate_up": (hidden, 2 * inner),
            "down": (inner, hidden),
            **({"lm_head": (hidden, self._stack.vocab_size)} if sequences else {}),
        }
        for name, shape in layers.items():
            yield self._linear(f"linear {name}", *shape)
        if ops.supports_int8():
            for name, shape in layers.items():
                yield self._linear_int8(f"linear_int8 {name}", *shape)
            yield self._plain("quantize", lambda ops, x: lambda: ops.quantize(x), hidden)
        if (experts := next((one.mixture for one in self._stack.layers if one.mixture is not None), None)) is not None:
            for name, shape in (("gate_up", (hidden, 2 * experts.size)), ("down", (experts.size, hidden))):
                yield from self._linear_experts(name, *shape, experts, ops)
        yield self._norm()
        yield self._add_norm()
        yield self._plain("gated_activation", lambda ops, x: lambda: ops.gated_activation(x, "silu"), 2 * inner)
        yield self._plain("activation", lambda ops, x: lambda: ops.activation(x, "gelu"), inner)
        yield self._rope()
        yield self._attention(f"attention, prompt of {rows}", [rows], [rows])
        if rows >= LONG_ROWS:
            yield self._attention(f"attention, end of a prompt of {LONG * rows}", [rows], [LONG * rows])
        yield self._segments(f"segment_attention, texts of {min(rows, TEXT)}")
        if sequences:
            yield self._attention(f"attention, {CONTEXT} before", [1] * rows, [CONTEXT] * rows)
            yield self._sample("sample, greedy", temperature=0.0)
            yield self._sample("sample", temperature=0.8)
            yield self._sample("sample, top_p 0.95, top_k 50", temperature=0.8, top_k=50, top_p=0.95)

    # -- inputs ------------------------------------------------------------------------------------------------------
    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._dice, device=self._device).to(self._dtype)

    def _meta(self, counts: list[int], lens: list[int]) -> AttentionMeta:
        """Sequences side by side in the cache, of which the last `counts` tokens are this step's."""
        per = -(-max(lens) // BLOCK_SIZE)
        tables = torch.arange(1, 1 + per * len(lens)).view(len(lens), per)
        places = [torch.arange(end - count, end) for count, end in zip(counts, lens, strict=True)]
        slots = torch.cat([tables[i, place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE for i, place in enumerate(places)])
        start = torch.tensor([0, *counts]).cumsum(0)
        return AttentionMeta(
            query_start=start.to(torch.int32).to(self._device),
            kv_lens=torch.tensor(lens, dtype=torch.int32, device=self._device),
            block_tables=tables.to(torch.int32).to(self._device),
            slots=slots.to(self._device),
            block_size=BLOCK_SIZE,
        )

    def _cache(self, ops: Ops, meta: AttentionMeta) -> KVCache:
        blocks = meta.block_tables.numel() + 1
        cache = ops.new_kv_cache(blocks, BLOCK_SIZE, self._heads.num_kv_heads, self._heads.head_dim, self._dtype, self._device)
        for part in cache:
            part[1:] = 0.5  # real pages, and no denormal numbers in them
        return cache

    @property
    def _attention_config(self) -> AttentionConfig:
        c = self._heads
        return AttentionConfig(c.num_heads, c.num_kv_heads, c.head_dim, c.head_dim**-0.5)

    # -- operations ----------------------------------------------------------------------------------------------------
    def _plain(self, name: str, bind: Callable[[Ops, Tensor], Call], features: int) -> Case:
        x = self._random(self._rows, features)
        return Case(name, lambda ops: bind(ops, x))

    def _linear(self, name: str, size_in: int, size_out: int) -> Case:
        x, weight = self._random(self._rows, size_in), self._random(size_out, size_in)

        def prepare(ops: Ops) -> Call:
            packed = ops.pack_weight(weight.clone())
            return lambda: ops.linear(x, packed, None)

        return Case(name, prepare)

    def _linear_int8(self, name: str, size_in: int, size_out: int) -> Case:
        x, weight = self._random(self._rows, size_in), self._random(size_out, size_in)

        def prepare(ops: Ops) -> Call:
            packed, rows = ops.pack_int8(weight.clone()), ops.quantize(x)
            return lambda: ops.linear_int8(rows, packed, None, self._dtype)

        return Case(name, prepare)

    def _linear_experts(self, name: str, size_in: int, size_out: int, spec: ExpertsSpec, on: Ops) -> Iterator[Case]:
        """Rows that chose their experts at random, by plain weights, by int8 ones, and by ones of 4 bits where they are multiplied."""
        count, each = min(spec.count, MOST_EXPERTS), min(spec.routing.per_token, spec.count, MOST_EXPERTS)
        chosen = torch.rand(self._rows, count, generator=self._dice, device=self._device).argsort(-1)[:, :each].flatten().sort().values
        starts = torch.searchsorted(chosen, torch.arange(count + 1, device=self._device))
        x, weights = self._random(len(chosen), size_in), [self._random(size_out, size_in) for _ in range(count)]
        label = f"{name}, {each} of {count}"

        def plain(ops: Ops) -> Call:
            packed = [ops.pack_weight(weight.clone()) for weight in weights]
            return lambda: ops.linear_experts(x, packed, starts, None)

        def in_int8(ops: Ops) -> Call:
            packed, rows = [ops.pack_int8(weight.clone()) for weight in weights], ops.quantize(x)
            return lambda: ops.linear_experts_int8(rows, packed, starts, None, self._dtype)

        def in_groups(ops: Ops) -> Call:
            quantize = not ops.grouped_refusal(size_in, GROUP, quantize_input=True)
            packed = [ops.pack_grouped(self._in_groups(weight), self._dtype, quantize_input=quantize) for weight in weights]
            return lambda: ops.linear_experts_grouped(x, packed, starts, None)

        yield Case(f"linear_experts {label}", plain)
        if on.supports_int8():
            yield Case(f"linear_experts_int8 {label}", in_int8)
        if not on.grouped_refusal(size_in, GROUP, quantize_input=False):
            yield Case(f"linear_experts_grouped {label}, 4 bits", in_groups)

    def _in_groups(self, weight: Tensor) -> GroupedWeight:
        """Any codes of 4 bits, with a scale for each group."""
        out, size = weight.shape
        codes = torch.randint(0, 16, (out, size), generator=self._dice, device=self._device, dtype=torch.uint8)
        return GroupedWeight(codes, 4, GROUP, Scales(torch.full((out, -(-size // GROUP)), 0.01, device=self._device)))

    def _norm(self) -> Case:
        weight = self._random(self._stack.hidden_size)
        return self._plain("rms_norm", lambda ops, x: lambda: ops.rms_norm(x, weight, 1e-5), self._stack.hidden_size)

    def _add_norm(self) -> Case:
        weight, residual = self._random(self._stack.hidden_size), self._random(self._rows, self._stack.hidden_size)
        return self._plain("add_rms_norm", lambda ops, x: lambda: ops.add_rms_norm(x, residual, weight, 1e-5), self._stack.hidden_size)

    def _rope(self) -> Case:
        c, config = self._heads, self._attention_config
        qkv = self._random(self._rows, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)
        meta = self._meta([self._rows], [self._rows])
        angles = torch.rand(self._rows, c.head_dim // 2, generator=self._dice, device=self._device)
        rotation = Rotation(torch.arange(self._rows, device=self._device), angles.cos(), angles.sin())

        def prepare(ops: Ops) -> Call:
            cache = self._cache(ops, meta)
            return lambda: ops.rope_and_store(qkv, rotation, None, cache, meta, config)

        return Case("rope_and_store", prepare)

    def _attention(self, name: str, counts: list[int], lens: list[int]) -> Case:
        c, config = self._heads, self._attention_config
        query = self._random(self._rows, c.num_heads, c.head_dim)

        def prepare(ops: Ops) -> Call:
            meta = self._meta(counts, lens)
            cache = self._cache(ops, meta)
            meta.plan = ops.plan_attention(meta, c.num_heads, c.num_kv_heads)
            return lambda: ops.attention(query, cache, meta, config)

        return Case(name, prepare)

    def _segments(self, name: str) -> Case:
        c, config = self._heads, self._attention_config
        qkv = self._random(self._rows, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim)
        starts = torch.tensor([*range(0, self._rows, TEXT), self._rows], dtype=torch.int32, device=self._device)

        def prepare(ops: Ops) -> Call:
            segments = Segments(starts)
            segments.plan = ops.plan_segments(segments, c.num_heads, c.num_kv_heads)
            return lambda: ops.segment_attention(qkv, None, segments, config)

        return Case(name, prepare)

    def _sample(self, name: str, *, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Case:
        def filled(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.full((self._rows,), value, dtype=dtype, device=self._device)

        drawing = SamplingRows(
            temperature=filled(temperature),
            top_k=filled(top_k, torch.int64),
            top_p=filled(top_p),
            min_p=filled(0.0),
            uniform=filled(0.5, torch.float64),
        )
        settings = drawing if temperature else None
        # Logits as spread as a model's: a distribution that is almost even would make the search for a border look hard.
        logits = 3 * self._random(self._rows, self._stack.vocab_size)
        return Case(name, lambda ops: lambda: ops.sample(logits, settings, None))
