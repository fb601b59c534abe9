"""Packers: dense weights to the tensors of a quantized checkpoint, and what these mean exactly, by other code than what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """The tensors of one layer by suffix, and what they mean in float32 [out, in]."""

    tensors: dict[str, Tensor]
    means: Tensor


@dataclass(frozen=True)
class Packer:
    """A quantization_config, and how a layer's weight [out, in] is packed under it."""

    config: dict[str, Any]
    pack: Callable[[Tensor], Packed]


def words(codes: np.ndarray, bits: int) -> Tensor:
    """int32 [rows, ceil(count * bits / 32)] of codes [rows, count], densely, low bits first."""
    rows, count = codes.shape
    flat = (codes[:, :, None].astype(np.int64) >> np.arange(bits)) & 1
    flat = flat.reshape(rows, count * bits)
    flat = np.pad(flat, ((0, 0), (0, -count * bits % 32))).astype(np.uint8)
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little").view("<i4").copy())


@dataclass(frozen=True)
class Rounded:
    """Codes [out, in] with the scale, zero and group of each: (codes - zero) * scale."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    groups: np.ndarray

    @property
    def means(self) -> Tensor:
        values = (self.codes - self.zero[:, self.groups]).astype(np.float64) * self.scale.astype(np.float64)[:, self.groups]
        return torch.from_numpy(values.astype(np.float32))


def rounded(weight: Tensor, bits: int, size: int, *, symmetric: bool = False, shuffled: bool = False, uneven: bool = False) -> Rounded:
    """A weight rounded to `bits` by groups of `size` features (-1: all), in order or not; scales in float16."""
    values = weight.double().numpy()
    count = values.shape[1]
    groups = np.arange(count) // (count if size < 0 else size)
    if shuffled:
        groups = np.random.default_rng(0).permutation(groups)
    if uneven:
        groups[groups == 1] = 0
    num_groups = -(-count // (count if size < 0 else size))
    most = (1 << bits) - 1
    scale, zero = np.ones((len(values), num_groups), np.float16), np.zeros((len(values), num_groups), np.int64)
    for group in range(num_groups):
        part = values[:, groups == group]
        if not part.size:
            continue
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scale[:, group] = np.abs(part).max(1) / (most / 2)
            zero[:, group] = 1 << (bits - 1)
        else:
            scale[:, group] = (high - low) / most
            zero[:, group] = np.clip(np.rint(-low / np.maximum(scale[:, group].astype(np.float64), 1e-9)), 0, most)
    codes = np.rint(values / scale.astype(np.float64)[:, groups]) + zero[:, groups]
    return Rounded(np.clip(codes, 0, most).astype(np.int64), scale, zero, groups)


def gptq(bits: int, size: int, *, desc_act: bool = False, v2: bool = False, symmetric: bool = False, uneven: bool = False) -> Packer:
    def pack(weight: Tensor) -> Packed:
        made = rounded(weight, bits, size, symmetric=symmetric, shuffled=desc_act, uneven=uneven)
        stored = made.zero if v2 else (made.zero - 1) & ((1 << bits) - 1)
        tensors = {
            ".qweight": words(made.codes, bits).t().contiguous(),
            ".qzeros": words(stored.T, bits),
            ".scales": torch.from_numpy(made.scale.T.copy()),
            ".g_idx": torch.from_numpy(made.groups.astype(np.int32)),
        }
        return Packed(tensors, made.means)

    config: dict[str, Any] = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": desc_act, "sym": symmetric}
    if v2:
        config["checkpoint_format"] = "gptq_v2"
    return Packer(config, pack)


def compressed(bits: int, size: int, *, symmetric: bool = True, actorder: bool = False) -> Packer:
    def pack(weight: Tensor) -> Packed:
        made = rounded(weight, bits, size, symmetric=symmetric, shuffled=actorder)
        tensors = {
            ".weight_packed": words(made.codes, bits),
            ".weight_scale": torch.from_numpy(made.scale),
            ".weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            tensors[".weight_zero_point"] = words(made.zero.T, bits).t().contiguous()
        if actorder:
            tensors[".weight_g_idx"] = torch.from_numpy(made.groups.astype(np.int32))
        return Packed(tensors, made.means)

    strategy: dict[str, Any] = {"strategy": "channel"} if size < 0 else {"strategy": "group", "group_size": size}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "actorder": "group" if actorder else None, **strategy}
    return Packer(_compressed("pack-quantized", weights, None), pack)


def w8a8(*, static: bool = False) -> Packer:
    def pack(weight: Tensor) -> Packed:
        scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
        values = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        tensors = {".weight": values, ".weight_scale": scale} | ({".input_scale": torch.tensor([0.1])} if static else {})
        return Packed(tensors, values.float() * scale.float())

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": not static, "strategy": "tensor" if static else "token"}
    return Packer(_compressed("int-quantized", weights, activations), pack)


def _compressed(form: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


#: One of each form that is read. Names are those of tests.
PACKERS: dict[str, Packer] = {
    **{f"gptq-{bits}": gptq(bits, 32) for bits in (2, 3, 4, 8)},
    "gptq-columns": gptq(4, -1),
    "gptq-desc_act": gptq(4, 32, desc_act=True),
    "gptq-desc_act-3": gptq(3, 32, desc_act=True, symmetric=True),
    "gptq-uneven": gptq(4, 32, desc_act=True, uneven=True),
    "gptq-v2": gptq(4, 32, v2=True),
    "gptq-sym": gptq(4, 32, symmetric=True),
    "w4a16": compressed(4, 32),
    "w4a16-asymmetric": compressed(4, 32, symmetric=False),
    "w4a16-actorder": compressed(4, 32, actorder=True),
    "w4a16-channel": compressed(4, -1),
    "w8a16": compressed(8, 32),
    "w8a8": w8a8(),
    "w8a8-static": w8a8(static=True),
}
