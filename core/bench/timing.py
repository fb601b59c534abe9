"""Timed operations: counts, seconds, arithmetic and memory traffic of a backend's operations.

Traffic is the least there can be: every input and output once. For measuring only; a run without it has plain operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.layer import LayerParts, WholeLayer
from infer.kernels.ops import AttentionConfig, AttentionMeta, KVCache, Ops, PairBias, Rotation, Rows, ScaledRows, Segments

from ..quant.packed import tensors_of

M = TypeVar("M", AttentionMeta, Segments)


@dataclass(slots=True)
class OpTime:
    """Totals of one operation at one shape."""

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    """Additions and multiplications, of matrix multiplications and both attentions alone."""
    bytes: int = 0
    """Weights (linear layers), keys and values (attention), or rows in and out (the rest)."""


class OpKey(NamedTuple):
    """An operation, and (input, output) features where it multiplies with a weight.

    Args:
        in_int8: its products are of integers of 8 bits.
    """

    name: str
    features: tuple[int, int] | None = None
    in_int8: bool = False


class Work(NamedTuple):
    key: OpKey
    flops: int
    bytes: int


class TimedOps:
    """`ops`, with every call counted while `on`.

    Args:
        synchronize: waits until the device has done all it was given; called around each operation.
    """

    def __init__(self, ops: Ops, *, synchronize: Callable[[], None] | None = None) -> None:
        self.plain = ops
        self.on = False
        self.times: dict[OpKey, OpTime] = {}
        self._synchronize = synchronize
        self._reach = Reach()

    # Found out and set while the model is loaded, see `Ops`.
    row_chunk = property(lambda self: self.plain.row_chunk, lambda self, value: setattr(self.plain, "row_chunk", value))
    deterministic = property(lambda self: self.plain.deterministic, lambda self, value: setattr(self.plain, "deterministic", value))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if callable(found):
            found = self._timed(name, found)
            self.__dict__[name] = found  # the next look-up does not come here
        return found

    def _timed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return operation(*args, **kwargs)
            if self._synchronize is not None:
                self._synchronize()
            started = perf_counter()
            result = operation(*args, **kwargs)
            if self._synchronize is not None:
                self._synchronize()
            seconds = perf_counter() - started
            self._count(self._work(name, args, result), seconds)
            return result

        return call

    def _count(self, work: Work, seconds: float) -> None:
        time = self.times.setdefault(work.key, OpTime())
        time.calls += 1
        time.seconds += seconds
        time.flops += work.flops
        time.bytes += work.bytes

    def whole_layer(self, parts: LayerParts) -> WholeLayer | None:
        """Its parts are counted as the operations that they are."""
        layer = self.plain.whole_layer(parts)
        if layer is None:
            return None

        def call(
            x: Rows | None,
            residual: Tensor,
            positions: Tensor,
            cache: KVCache,
            meta: AttentionMeta,
            rows: Tensor | None,
            seconds: dict[str, float] | None = None,
        ) -> tuple[Rows, Tensor]:
            if not self.on:
                return layer(x, residual, positions, cache, meta, rows)
            took: dict[str, float] = {}
            result = layer(x, residual, positions, cache, meta, rows, took)
            attention = self._reach.attention_work(residual, cache, meta, parts.config)
            for name, work in {**layer_work(parts, len(residual), len(result[1])), "attention": attention}.items():
                self._count(work, took[name])
            return result

        return call

    def _work(self, name: str, args: tuple[Any, ...], result: Any) -> Work:
        if name in ("linear", "linear_int8"):
            return linear_work(name, args[0], result)
        if name in ("linear_gated", "linear_int8_gated"):
            return gated_work(name, args[0], result)
        if name in ("linear_experts", "linear_experts_int8"):
            return experts_work(name, args[0], args[2], result)
        if name == "linear_experts_grouped":
            return packed_experts_work(name, args[0], args[1], args[2], result)
        if name in ("linear_grouped", "linear_fp8"):
            return packed_work(name, args[0], args[1], result)
        if name == "attention":
            return self._reach.attention_work(*args)
        if name == "segment_attention":
            return self._reach.segments_work(*args)
        return Work(OpKey(name), 0, row_bytes(args) + row_bytes(result))


def linear_work(name: str, x: Tensor | ScaledRows, result: Tensor | ScaledRows) -> Work:
    """x [N, in] -> result [N, out]; the bytes are the weight's."""
    x, result = _values(x), _values(result)
    (rows, size_in), size_out = x.shape, result.shape[-1]
    key = OpKey(name, (size_in, size_out), in_int8=name == "linear_int8")
    return Work(key, 2 * rows * size_in * size_out, size_in * size_out * x.element_size())


def gated_work(name: str, x: Tensor | ScaledRows, result: Tensor | ScaledRows) -> Work:
    """The same of a product twice as wide as the result, whose halves become one; the activation is not counted."""
    x, result = _values(x), _values(result)
    (rows, size_in), size_out = x.shape, 2 * result.shape[-1]
    key = OpKey(name, (size_in, size_out), in_int8=name == "linear_int8_gated")
    return Work(key, 2 * rows * size_in * size_out, size_in * size_out * x.element_size())


def experts_work(name: str, x: Tensor | ScaledRows, starts: Tensor, result: Tensor | ScaledRows) -> Work:
    """The same of rows sorted by expert; the bytes are those of the weights that have rows."""
    x, result = _values(x), _values(result)
    (rows, size_in), size_out = x.shape, result.shape[-1]
    key = OpKey(name, (size_in, size_out), in_int8=name.endswith("int8"))
    return Work(key, 2 * rows * size_in * size_out, int((starts.diff() > 0).sum()) * size_in * size_out * x.element_size())


def packed_work(name: str, x: Tensor, weight: Any, result: Tensor) -> Work:
    """The same of a weight that `pack_grouped` or `pack_fp8` gave; the bytes are those of codes, scales and zeros as they lie in memory."""
    (rows, size_in), size_out = x.shape, result.shape[-1]
    key = OpKey(name, (size_in, size_out), in_int8=weight.quantize_input and name == "linear_grouped")
    return Work(key, 2 * rows * size_in * size_out, sum(tensor.nbytes for tensor in tensors_of(weight)))


def packed_experts_work(name: str, x: Tensor, weights: Sequence[Any], starts: Tensor, result: Tensor) -> Work:
    """The same of rows sorted by expert; the bytes are those of the weights that have rows."""
    work = packed_work(name, x, weights[0], result)
    used = [weight for weight, rows in zip(weights, starts.diff().tolist(), strict=True) if rows]
    key = work.key._replace(in_int8=weights[0].quantize_input)
    return Work(key, work.flops, sum(tensor.nbytes for weight in used for tensor in tensors_of(weight)))


def layer_work(parts: LayerParts, rows: int, wanted: int) -> dict[str, Work]:
    """The work of each part of a layer but attention, by name. Parts before attention have `rows` rows, later ones `wanted`."""
    size, norm = parts.dtype.itemsize, "add_layer_norm" if parts.attention_norm.centered else "add_rms_norm"
    works = {}
    for name, product in parts.products().items():
        count, features = rows if name == "qkv" else wanted, (product.in_features, product.out_features)
        operation = ("linear_int8" if product.quantizes else "linear") + ("_gated" if name == "up" and parts.fuses_gate else "")
        key, weight_size = OpKey(operation, features, in_int8=product.quantizes), 1 if product.quantizes else size
        works[name] = Work(key, 2 * count * features[0] * features[1], features[0] * features[1] * weight_size)
    hidden, queries = parts.down.out_features, parts.out.in_features
    works["attention_norm"] = Work(OpKey(norm), 0, 4 * rows * hidden * size)
    works["mlp_norm"] = Work(OpKey(norm), 0, 4 * wanted * hidden * size)
    works["rope_and_store"] = Work(OpKey("rope_and_store"), 0, rows * (parts.qkv.out_features + queries) * size)
    if parts.mlp_out_norm is not None:
        works["mlp_out_norm"] = Work(OpKey(norm.removeprefix("add_")), 0, 2 * wanted * hidden * size)
    if parts.out.quantizes:
        works["quantize"] = Work(OpKey("quantize"), 0, wanted * queries * (size + 1))
    made, read = parts.up.out_features, parts.down.in_features
    if not parts.fuses_gate:
        operation = "gated_activation" if parts.gated else "activation"
        works["activation"] = Work(OpKey(operation), 0, wanted * (made * size + read * (1 if parts.down.quantizes else size)))
    elif parts.down.quantizes:
        works["activation"] = Work(OpKey("quantize"), 0, wanted * read * (4 + 1))
    return works


def row_bytes(values: Any) -> int:
    """Bytes of tensors, and of those in tuples of them; a cache and other settings count for nothing."""
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, ScaledRows) or type(values) is tuple:
        return sum(map(row_bytes, values))
    return 0


class Reach:
    """The tokens that attention looks at in a step, counted once for all layers that look alike."""

    def __init__(self) -> None:
        self._meta: AttentionMeta | Segments | None = None
        self._seen: dict[int | None, tuple[int, int]] = {}

    def attention_work(self, query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Work:
        """Each sequence's visible keys and values read once; a score and a weighted value for each pair of query and key."""
        tokens, pairs = self._of(meta, config.sliding_window, _tokens_and_pairs)
        token_bytes = sum(part[0].nbytes for part in cache) // meta.block_size
        flops = 2 * pairs * config.num_heads * (config.head_dim + config.value_dim)
        return Work(OpKey("attention"), flops, tokens * token_bytes)

    def segments_work(
        self, qkv: Rows, rotation: Rotation | None, segments: Segments, config: AttentionConfig, bias: PairBias | None = None
    ) -> Work:
        """Each text's keys and values read once; two multiplications for each pair of tokens of a text that see each other."""
        tokens, pairs = self._of(segments, config.sliding_window, _texts_and_pairs)
        token_bytes = 2 * config.num_kv_heads * config.head_dim * _values(qkv).element_size()
        return Work(OpKey("segment_attention"), 4 * pairs * config.num_heads * config.head_dim, tokens * token_bytes)

    def _of(self, meta: M, window: int | None, count: Callable[[M, int | None], tuple[int, int]]) -> tuple[int, int]:
        if meta is not self._meta:
            self._meta, self._seen = meta, {}
        if window not in self._seen:
            self._seen[window] = count(meta, window)
        return self._seen[window]


def _tokens_and_pairs(meta: AttentionMeta, window: int | None) -> tuple[int, int]:
    """The number of cached tokens that the step reads, and of (query, key) pairs that it computes for a head."""
    start = meta.query_start.cpu().numpy().astype(np.int64)
    lens = meta.kv_lens.cpu().numpy().astype(np.int64)
    counts = np.diff(start)
    # A token sees itself and all before it: its place in its sequence, plus one.
    sees = np.arange(start[-1]) - np.repeat(start[:-1] - (lens - counts), counts) + 1
    if window is not None:
        lens, sees = np.minimum(lens, window + counts - 1), np.minimum(sees, window)
    return int(lens.sum()), int(sees.sum())


def _texts_and_pairs(segments: Segments, window: int | None) -> tuple[int, int]:
    """The number of tokens of the texts, and of pairs that see each other: those less than `window` apart, in both directions."""
    starts: NDArray[np.int64] = segments.starts.cpu().numpy().astype(np.int64)
    lens = starts[1:] - starts[:-1]
    # L pairs of a token with itself, and for each distance d below `reach` L - d pairs in either direction.
    reach = lens if window is None else np.minimum(lens, window)
    return int(lens.sum()), int((reach * (2 * lens - reach + 1) - lens).sum())


def _values(rows: Tensor | ScaledRows) -> Tensor:
    return rows.values if isinstance(rows, ScaledRows) else rows
