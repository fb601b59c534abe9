"""A decoder layer in one call, see src/layer.cpp: of thirty layers with one row each, Python took a fifth of the time with a call for
each operation."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from operator import le
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..layer import LayerParts, NormPart, ProductPart
from ..ops import AttentionMeta, KVCache, Rows, ScaledRows
from ..reference.int8 import passes_scale
from .activation import KINDS
from .attention import AttentionItems
from .gemm import Panels
from .int8 import PackedInt8
from .library import CACHE_DTYPES, DTYPES, load

#: Parts of `Pass::run`, by the names of `WholeLayer`.
_PARTS = (
    *("attention_norm", "qkv", "rope_and_store", "attention", "quantize", "out"),
    *("mlp_norm", "up", "activation", "down", "mlp_out_norm"),
)


class _Norm(ctypes.Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("centered", c_int64), ("dtype", c_int64), ("eps", c_double)]


class _Product(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("panels", "bias", "scale", "sums")),
        *((name, c_int64) for name in ("outs", "words", "widened", "bias_dtype", "half", "gate")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm")),
        *((name, _Product) for name in ("qkv", "out", "up", "down")),
        *(("cos", c_void_p), ("sin", c_void_p), ("rotated", c_int64), ("norm_query", c_void_p), ("norm_key", c_void_p)),
        *((name, c_int64) for name in ("head_norm_dtype", "heads", "kv_heads", "head_dim", "window")),
        *((name, c_void_p) for name in ("alibi", "sinks", "distances")),
        *((name, c_int64) for name in ("of_head", "activation", "gated", "hidden", "dtype")),
        *((name, c_double) for name in ("head_eps", "scale", "soft_cap")),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *(("rows", c_int64), ("stored", c_int64), ("positions", c_void_p), ("slots", c_void_p), ("block_size", c_int64)),
        *((name, c_void_p) for name in ("query_start", "kv_lens", "tables", "spans")),
        ("table_stride", c_int64),
        *((name, c_void_p) for name in ("members", "runs", "items")),
        *(("num_items", c_int64), ("heads_together", c_int64)),
        *((name, c_void_p) for name in ("wide", "narrow", "codes", "factors")),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *(("x", c_void_p), ("x_scale", c_void_p), ("adds", c_int64), ("residual", c_void_p)),
        *(("key", c_void_p), ("value", c_void_p), ("cache_dtype", c_int64)),
        *(("wanted", c_void_p), ("num_wanted", c_int64), ("x_out", c_void_p), ("residual_out", c_void_p), ("nanoseconds", c_void_p)),
    ]


class _Widths(NamedTuple):
    """Bytes of a row of each room of a step, see `Step` in src/layer.cpp."""

    wide: int
    narrow: int
    codes: int


class _Prepared:
    """What the layers of a step have in common, for those that need no more room than it has: `most` rows of each of `widths`."""

    def __init__(self, meta: AttentionMeta, positions: Tensor, rows: int, most: int, widths: _Widths) -> None:
        plan: AttentionItems = meta.plan
        self.most, self.widths = most, widths
        self.positions = positions
        self._rooms = [torch.empty(most * width, dtype=torch.uint8) for width in widths]
        self.factors = torch.empty(most if widths.codes else 0)
        self.step = _Step(
            *(rows, len(meta.slots), positions.data_ptr(), meta.slots.data_ptr(), meta.block_size),
            *(_address(tensor) for tensor in (meta.query_start, meta.kv_lens, meta.block_tables, meta.spans)),
            meta.block_tables.stride(0),
            *(_address(tensor) for tensor in (plan.members, plan.runs, plan.items)),
            *(len(plan.items), plan.heads_together, *(room.data_ptr() for room in self._rooms), self.factors.data_ptr()),
        )
        self.address = ctypes.addressof(self.step)

    def fits(self, positions: Tensor, rows: int, most: int, widths: _Widths) -> bool:
        is_same = positions is self.positions and rows == self.step.rows
        return is_same and most <= self.most and all(map(le, widths, self.widths))


class CompiledLayer:
    """See `WholeLayer`."""

    def __init__(self, parts: LayerParts) -> None:
        self.parts = parts  # holds the tensors whose addresses are taken
        c, up, down = parts.config, parts.up, parts.down
        self.dtype, self.hidden = parts.dtype, parts.down.out_features
        cos, sin = parts.tables or (None, None)
        of_query, of_key, head_eps = parts.head_norm or (None, None, 0.0)
        gates = parts.fuses_gate and _panels(up).half > 0
        gate = KINDS[parts.activation] if gates else -1
        self._layer = _Layer(
            *map(_norm, (parts.attention_norm, parts.attention_out_norm, parts.mlp_norm, parts.mlp_out_norm)),
            *(_product(parts.qkv), _product(parts.out), _product(up, gate), _product(down)),
            *(_address(cos), _address(sin), 0 if cos is None else cos.shape[1], _address(of_query), _address(of_key)),
            *(0 if of_query is None else DTYPES[of_query.dtype], c.num_heads, c.num_kv_heads, c.head_dim, c.sliding_window or 0),
            *(_address(tensor) for tensor in (c.alibi_slopes, c.sinks, c.distances)),
            *(0 if c.distances is None else c.distances.shape[1], KINDS[parts.activation], parts.gated, self.hidden, DTYPES[self.dtype]),
            *(head_eps, c.scale, c.soft_cap or 0.0),
        )
        self._address = ctypes.addressof(self._layer)
        # Of `wide` and `narrow`: queries, keys and values, then what attention gives and what `up` gives; queries, and what `down` reads.
        made, queries = 0 if gates else up.out_features, c.num_heads * c.head_dim
        size, of_down = self.dtype.itemsize, down.in_features * (4 if gates and down.quantizes else self.dtype.itemsize)
        quantized = [product.in_features for product in parts.products().values() if product.quantizes]
        self._widths = _Widths(max(parts.qkv.out_features, made) * size, max(queries * size, of_down), max(quantized, default=0))
        self._is_scaled = parts.mlp_out_norm is None and down.quantizes and passes_scale(down.bias, self.dtype)
        self._run = load()["infer_decoder_layer"]
        self._run.argtypes, self._run.restype = [c_void_p, c_void_p, c_void_p], None

    def __call__(
        self,
        x: Rows | None,
        residual: Tensor,
        positions: Tensor,
        cache: KVCache,
        meta: AttentionMeta,
        rows: Tensor | None,
        seconds: dict[str, float] | None = None,
    ) -> tuple[Rows, Tensor]:
        plan, count = meta.plan, len(residual)
        most = count if rows is None else max(count, len(rows))  # a row may be wanted several times, by each of a prompt's samples
        if plan.step is None or not plan.step.fits(positions, count, most, self._widths):
            plan.step = _Prepared(meta, positions, count, most, self._widths)
        residual = residual.contiguous()
        values, scale = x if isinstance(x, ScaledRows) else (x, None)
        adds, made = values is not None, torch.empty_like(residual) if values is None else values.contiguous()
        assert made.shape == residual.shape == (count, self.hidden)
        assert made.dtype == residual.dtype == self.dtype
        key, value = cache
        call = _Call(
            made.data_ptr(), _address(scale), adds, residual.data_ptr(), key.data_ptr(), value.data_ptr(), CACHE_DTYPES[key.dtype], None, -1
        )
        x_out, residual_out = made, residual
        if rows is not None:
            x_out, residual_out = (residual.new_empty((len(rows), self.hidden)) for _ in range(2))
            call.wanted, call.num_wanted = rows.data_ptr(), len(rows)
            call.x_out, call.residual_out = x_out.data_ptr(), residual_out.data_ptr()
        passed = None if seconds is None else torch.zeros(len(_PARTS), dtype=torch.int64)
        call.nanoseconds = _address(passed)
        self._run(self._address, plan.step.address, ctypes.addressof(call))
        if seconds is not None and passed is not None:
            seconds.update(zip(_PARTS, (passed / 1e9).tolist(), strict=True))
        return ScaledRows(x_out, plan.step.factors[: len(x_out)]) if self._is_scaled else x_out, residual_out


def whole_layer(parts: LayerParts) -> CompiledLayer | None:
    """Of weights that our own kernel multiplies, whose rows need not be filled up."""
    weights = [tensor for norm in parts.norms() for tensor in (norm.weight, norm.bias) if tensor is not None]
    if parts.activation not in KINDS or not all(_takes(product, parts.dtype) for product in parts.products().values()):
        return None
    return CompiledLayer(parts) if all(weight.is_contiguous() for weight in weights) else None


def _takes(product: ProductPart, dtype: torch.dtype) -> bool:
    panels = _panels(product)
    if not isinstance(panels, Panels) or dtype == torch.float16:
        return False
    values = 4 if product.quantizes else 2 if panels.widened else 4 // dtype.itemsize
    return panels.row_words * values == product.in_features


def _panels(product: ProductPart) -> Any:
    return product.weight.weight if isinstance(product.weight, PackedInt8) else product.weight


def _norm(part: NormPart | None) -> _Norm:
    if part is None:
        return _Norm()
    return _Norm(_address(part.weight), _address(part.bias), part.centered, DTYPES[part.weight.dtype], part.eps)


def _product(part: ProductPart, gate: int = -1) -> _Product:
    panels, bias = _panels(part), part.bias
    scale, sums = (part.weight.scale, part.weight.offset) if part.quantizes else (None, None)
    bias_dtype = 0 if bias is None else DTYPES[bias.dtype]
    return _Product(
        *map(_address, (panels.words, bias, scale, sums)),
        *(panels.out_features, panels.row_words, panels.widened, bias_dtype, panels.half, gate),
    )


def _address(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.data_ptr()
