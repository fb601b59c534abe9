"""Packers of floats of few bits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .integers import config_of
from .packer import Packed, Packer

#: What a byte of e4m3 says, by its bits: 4 of exponent, 3 of mantissa; without infinities.
_E4M3 = [
    (-1.0 if code & 128 else 1.0) * ((8 + code % 8) * 2.0 ** (code % 128 // 8 - 10) if code % 128 // 8 else code % 8 * 2.0**-9)
    for code in range(256)
]
_FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], np.float32)


def _e4m3(values: Tensor) -> Tensor:
    """What floats of 8 bits mean."""
    return torch.tensor(_E4M3)[values.view(torch.uint8).int()]


def _rounded8(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Floats of 8 bits, and what they mean, with a scale for each weight."""
    values = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    return values, _e4m3(values) * scale


def _by_row(weight: Tensor) -> Tensor:
    return (weight.abs().amax(1, keepdim=True) / 448).bfloat16().float()


def fp8(kind: str, config: dict[str, Any], *, name: str = ".weight_scale", extra: dict[str, Tensor] | None = None) -> Packer:
    """One scale for all ("scalar", "one"), or one an output feature ("rows", "column")."""

    def pack(weight: Tensor) -> Packed:
        scale = _by_row(weight) if kind in ("rows", "column") else weight.abs().max().reshape(1, 1) / 448
        values, means = _rounded8(weight, scale)
        shaped = {
            "scalar": scale.flatten()[:1].reshape(()),
            "one": scale.flatten()[:1],
            "rows": scale.flatten(),
            "column": scale.bfloat16(),
        }
        return Packed({".weight": values, name: shaped[kind], **(extra or {})}, means)

    return Packer(config, pack)


def blocks(
    rows: int, columns: int, config: dict[str, Any], *, name: str = ".weight_scale_inv", deep: bool = False, power: bool = False
) -> Packer:
    """A scale for each block; `deep`: in four dimensions; `power`: exponents of powers of two."""

    def pack(weight: Tensor) -> Packed:
        out, count = weight.shape
        shape = -(-out // rows), -(-count // columns)
        padded = torch.zeros(shape[0] * rows, shape[1] * columns)
        padded[:out, :count] = weight
        scale = padded.view(shape[0], rows, shape[1], columns).abs().amax((1, 3)) / 448
        scale = torch.exp2(scale.log2().ceil()) if power else scale
        wide = scale.repeat_interleave(rows, 0)[:out].repeat_interleave(columns, 1)[:, :count]
        values, means = _rounded8(weight, wide)
        stored = (scale.log2() + 127).to(torch.uint8) if power else scale
        return Packed({".weight": values, name: stored.view(shape[0], 1, shape[1], 1) if deep else stored}, means)

    return Packer(config, pack)


def float_config(form: str, bits: int = 8, *, static: bool = False, **weights: Any) -> dict[str, Any]:
    """A quantization_config of compressed-tensors."""
    activations = {"num_bits": bits, "type": "float", "dynamic": not static}
    return config_of(form, {"num_bits": bits, "type": "float", "symmetric": True, **weights}, activations)


def _rounded4(weight: Tensor, scale: Tensor) -> tuple[np.ndarray, Tensor]:
    """Codes of 4 bits by the nearest number, and what they mean, with a scale for each weight."""
    values = (weight / scale).numpy()
    codes = np.abs(values[:, :, None] - _FP4).argmin(-1)
    return codes.astype(np.uint8), torch.from_numpy(_FP4[codes]) * scale


def _pairs(codes: np.ndarray) -> Tensor:
    """Two codes in a byte, the first in the low bits."""
    return torch.from_numpy(codes[:, ::2] + codes[:, 1::2] * 16)


def nvfp4(config: dict[str, Any], *, modelopt: bool) -> Packer:
    def pack(weight: Tensor) -> Packed:
        largest = weight.abs().max()
        whole = largest / (6 * 448) if modelopt else 6 * 448 / largest
        of_group = weight.view(len(weight), -1, 16).abs().amax(2) / 6
        scale = (of_group / whole if modelopt else of_group * whole).to(torch.float8_e4m3fn)
        means_scale = _e4m3(scale) * whole if modelopt else _e4m3(scale) / whole
        codes, means = _rounded4(weight, means_scale.repeat_interleave(16, 1))
        if modelopt:
            return Packed({".weight": _pairs(codes), ".weight_scale": scale, ".weight_scale_2": whole, ".input_scale": whole}, means)
        tensors = {".weight_packed": _pairs(codes), ".weight_scale": scale, ".weight_global_scale": whole.reshape(1)}
        return Packed(tensors | {".input_global_scale": whole.reshape(1)}, means)

    return Packer(config, pack)


def mxfp4() -> Packer:
    def pack(weight: Tensor) -> Packed:
        scale = torch.exp2((weight.view(len(weight), -1, 32).abs().amax(2) / 6).log2().ceil())
        codes, means = _rounded4(weight, scale.repeat_interleave(32, 1))
        return Packed({".weight_packed": _pairs(codes), ".weight_scale": (scale.log2() + 127).to(torch.uint8)}, means)

    return Packer(float_config("mxfp4-pack-quantized", 4, strategy="group", group_size=32), pack)


def bits4(kind: str, *, nested: bool = False, block: int = 64, storage: torch.dtype = torch.uint8) -> Packer:
    """bitsandbytes' codes. Blocks go over the ends of rows."""
    half = np.sort(np.random.default_rng(3).uniform(0, 1, 7)).astype(np.float32)
    numbers = np.concatenate([[-1.0], -half[::-1], half, [1.0]]).astype(np.float32)

    def pack(weight: Tensor) -> Packed:
        flat = weight.numpy().flatten()
        count = -(-flat.size // block)
        padded = np.pad(flat, (0, count * block - flat.size)).reshape(count, block)
        largest = np.abs(padded).max(1)
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(weight.shape)}
        if nested:
            offset = np.float32(largest.mean())
            of_nested = np.array([np.abs(largest[at : at + 256] - offset).max() for at in range(0, count, 256)], np.float32)
            table = np.linspace(-1, 1, 256).astype(np.float32)
            scale = of_nested[np.arange(count) // 256]
            codes = np.abs(((largest - offset) / scale)[:, None] - table).argmin(1).astype(np.uint8)
            largest = table[codes] * scale + offset
            tensors |= {".weight.absmax": torch.from_numpy(codes), ".weight.nested_absmax": torch.from_numpy(of_nested)}
            tensors[".weight.nested_quant_map"] = torch.from_numpy(table)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
        else:
            tensors[".weight.absmax"] = torch.from_numpy(largest)
        near = np.abs((padded / largest[:, None])[:, :, None] - numbers).argmin(-1)
        means = (numbers[near] * largest[:, None]).flatten()[: flat.size].reshape(weight.shape)
        near = near.flatten()[: flat.size].astype(np.uint8)
        tensors[".weight"] = torch.from_numpy(near[::2] * 16 + near[1::2]).view(storage)[:, None]
        tensors[".weight.quant_map"] = torch.from_numpy(numbers)
        tensors[f".weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return Packed(tensors, torch.from_numpy(means))

    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": kind}
    return Packer(config | {"bnb_4bit_use_double_quant": nested, "llm_int8_skip_modules": None}, pack)


#: What FP8 of transformers and of others is called.
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
STATIC = {"quant_method": "fp8", "activation_scheme": "static"}
