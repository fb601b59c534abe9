"""Products of rows with weights, of whatever kind: a part of the contract of a backend, see ops.py, where shapes are explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .fp8 import Fp8Weight
from .grouped import GroupedWeight
from .rows import Rows, ScaledRows


class ProductOps(Protocol):
    """See `ops.Ops`."""

    def pack_weight(self, weight: Tensor) -> Any:
        """A weight [out, in] in the form that `linear` is fastest with. May be the weight itself; else nothing of it is kept."""

    def linear(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        """x [N, in] @ weight [out, in]^T + bias [out] -> [N, out], of a weight that `pack_weight` or `pack_halves` gave."""

    def pack_halves(self, weight: Tensor) -> Any:
        """The same of a weight whose product is for `gated_activation`: in the form that `linear_gated` is fastest with."""

    def linear_gated(self, x: Tensor, weight: Any, bias: Tensor | None, kind: str) -> Tensor:
        """gated_activation(linear(x, weight, bias), kind) [N, out / 2], of a weight that `pack_halves` gave, in the same bits."""

    def any_rows(self, weight: Any) -> bool:
        """True if products with a packed weight, of whatever kind, take any number of rows, and so do this backend's operations that are
        no products: N need not be a multiple of ROW_MULTIPLE then."""

    def most_products(self, kind: str) -> tuple[float, float] | None:
        """(additions and multiplications done, seconds they took) by all threads, of values that never leave the first cache: no product
        of `kind` ("float32", "bfloat16", "int8") is faster. Takes some milliseconds. None where the backend cannot tell."""

    # -- int8 ----------------------------------------------------------------------------------------------------
    def supports_int8(self) -> bool:
        """True if sums of int8 products are exact here: our own kernels' are on every CPU, a library's where they do not saturate."""

    def pack_int8(self, weight: Tensor, *, halves: bool = False) -> Any:
        """A weight [out, in] quantized to int8, one scale an output row (largest magnitude / 127), in `linear_int8`'s form.

        `halves`: in the form that `linear_int8_gated` is fastest with.
        """

    def pack_int8_rows(self, values: Tensor, scale: Tensor, *, halves: bool = False) -> Any:
        """The same of a weight that is quantized already: int8 [out, in], meaning values * scale float32 [out]."""

    def quantize(self, x: Tensor) -> ScaledRows:
        """uint8 round(x / scale) + INT8_ZERO with scale = largest magnitude of the row / 127; a row of zeros has scale 0."""

    def linear_int8(self, x: ScaledRows, weight: Any, bias: Tensor | None, dtype: torch.dtype) -> Rows:
        """x [N, in] @ weight^T + bias -> [N, out] in `dtype`, of a weight that `pack_int8` gave. Integer sums are exact.

        Without a bias: the weight's scales applied, the rows' own passed on. With one, or in float16, whose range the values
        could leave without the rows' scales: plain rows.
        """

    def linear_int8_gated(self, x: ScaledRows, weight: Any, bias: Tensor | None, kind: str, dtype: torch.dtype, *, quantize: bool) -> Rows:
        """gated_activation(linear_int8(x, weight, bias, dtype), kind, quantize=quantize) [N, out / 2], in the same bits."""

    # -- mixtures of experts -------------------------------------------------------------------------------------
    def linear_experts(self, x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
        """Rows of x [P, in], sorted by expert, by the weights [out, in] of their experts -> [P, out]: each as `linear` multiplies it.

        Args:
            weights: of each of E experts, as `pack_weight` gave them; all of a shape and dtype.
            starts: int64 [E + 1], on x's device: expert e has the rows from starts[e] to starts[e + 1], of which there may be none; the
                first is 0, and rows from the last on are nobody's: what they become means nothing.
            biases: [out] of each expert.
        """

    def linear_experts_int8(
        self, x: ScaledRows, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None, dtype: torch.dtype
    ) -> Rows:
        """The same of quantized rows by weights that `pack_int8` gave: each as `linear_int8` multiplies it."""

    def linear_experts_grouped(self, x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
        """The same by weights that `pack_grouped` gave, all for rows of one kind: each as `linear_grouped` multiplies it. Those that do not
        have all their parts in common, as one that has zeros, may be multiplied one by one."""

    # -- weights in groups, see grouped.py -----------------------------------------------------------------------
    def grouped_refusal(self, in_features: int, group_size: int, *, quantize_input: bool) -> str:
        """Why weights [out, in_features] in such groups cannot be multiplied as they are here, or nothing.

        `quantize_input` here and below: by rows quantized to int8 as they come, else by rows in the model's dtype.
        """

    def dequantize_grouped(self, weight: GroupedWeight) -> Tensor:
        """float32 [out, in]: (level - zero) * scale + minimum, each operation rounded."""

    def pack_grouped(self, weight: GroupedWeight, dtype: torch.dtype, *, quantize_input: bool) -> Any:
        """A weight that is not refused in `linear_grouped`'s form, for a model in `dtype`; it tells its `quantize_input`.

        Raises ValueError where its parts do not fit.
        """

    def linear_grouped(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        """x [N, in] @ weight^T + bias [out] -> [N, out] in x's dtype, of a weight that `pack_grouped` gave.

        With `quantize_input` integer sums are exact, and float32 is added up in order of input features, step by step and span by
        span (see `grouped.steps`): the bits are those of the reference. Without: the weight is rounded to `dtype` first.
        """

    # -- weights of 8-bit floats, see fp8.py ----------------------------------------------------------------------
    def fp8_refusal(self, shape: tuple[int, int], block: tuple[int, int], dtype: torch.dtype, *, quantize_input: bool) -> str:
        """Why a weight [out, in] of this shape, with scales by such blocks, cannot be multiplied here in a model of `dtype`, or nothing.

        `quantize_input` here and below: by rows quantized to e4m3 as they come, else by rows in the model's dtype.
        """

    def pack_fp8(self, weight: Fp8Weight, dtype: torch.dtype, *, quantize_input: bool) -> Any:
        """A weight that is not refused in `linear_fp8`'s form; it tells its `quantize_input`. Raises ValueError where its parts do not
        fit."""

    def linear_fp8(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        """x [N, in] @ weight^T + bias [out] -> [N, out] in x's dtype, of a weight that `pack_fp8` gave.

        With `quantize_input` rows are those of `fp8.rounded_rows`, and both sides' scales are applied to sums of values. Without: the
        weight is rounded to `dtype` first.
        """
