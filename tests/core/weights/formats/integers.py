"""Packers of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .packer import Packed, Packer, rounded, words


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
    return Packer(config_of("pack-quantized", weights, None), pack)


def w8a8(*, static: bool = False, tensor: bool = False, bits: int = 8) -> Packer:
    most = (1 << (bits - 1)) - 1

    def pack(weight: Tensor) -> Packed:
        scale = (weight.abs().max().reshape(1) / most if tensor else weight.abs().amax(1, keepdim=True) / most).bfloat16()
        values = (weight / scale.float()).round().clamp(-most, most).to(torch.int8)
        tensors = {".weight": values, ".weight_scale": scale} | ({".input_scale": torch.tensor([0.1])} if static else {})
        return Packed(tensors, values.float() * scale.float())

    weights = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "tensor" if tensor else "channel"}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": not static, "strategy": "tensor" if static else "token"}
    return Packer(config_of("int-quantized", weights, activations), pack)


def config_of(form: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }


def w8(bits: int, size: int | None, *, symmetric: bool = True) -> Packer:
    """Integers in bytes, activations as they are; without `size` one scale for all."""

    def pack(weight: Tensor) -> Packed:
        if size is None:
            scale = (weight.abs().max() / 127).reshape(1)
            values = (weight / scale).round().to(torch.int8)
            return Packed({".weight": values, ".weight_scale": scale}, values.float() * scale)
        made = rounded(weight, bits, size, symmetric=symmetric)
        middle = 1 << (bits - 1)
        tensors = {
            ".weight": torch.from_numpy((made.codes - middle).astype(np.int8)),
            ".weight_scale": torch.from_numpy(made.scale),
        }
        if not symmetric:
            tensors[".weight_zero_point"] = torch.from_numpy((made.zero - middle).astype(np.int8))
        return Packed(tensors, made.means)

    groups: dict[str, Any] = {"strategy": "tensor"} if size is None else {"strategy": "channel"} if size < 0 else {"group_size": size}
    return Packer(config_of("naive-quantized", {"num_bits": bits, "type": "int", "symmetric": symmetric, **groups}, None), pack)


def awq(size: int, *, zero_point: bool = True, **keys: Any) -> Packer:
    def in_order(codes: np.ndarray) -> Tensor:
        rows, columns = codes.shape
        return words(codes.reshape(rows, columns // 8, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(rows, columns), 4)

    def pack(weight: Tensor) -> Packed:
        made = rounded(weight, 4, size, symmetric=not zero_point)
        tensors = {".qweight": in_order(made.codes.T), ".scales": torch.from_numpy(made.scale.T.copy())}
        return Packed(tensors | ({".qzeros": in_order(made.zero.T)} if zero_point else {}), made.means)

    config = {"quant_method": "awq", "zero_point": zero_point, "version": "gemm", "modules_to_not_convert": ["proj"]}
    return Packer(config | (keys or {"bits": 4, "group_size": size}), pack)


def auto_round(packing: str | None, inner: Packer, **keys: Any) -> Packer:
    """What another packer makes, under AutoRound's names."""
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False, "data_type": "int", "iters": 200}
    if packing is not None:
        config["packing_format"] = packing
    return Packer(config | keys, inner.pack)


def auto_round_by_layer() -> Packer:
    usual = gptq(4, 32)
    extra = {
        "model.layers.0.self_attn.k_proj": {"bits": 8, "group_size": -1},
        r".*\.down_proj.*": {"bits": 2},
        "model.layers.1.mlp.up_proj": {"bits": 16, "data_type": "float"},
    }
    others = {"0.self_attn.k_proj": gptq(8, -1).pack, "down_proj": gptq(2, 32).pack, "1.mlp.up_proj": None}
    return Packer(auto_round("auto_round:auto_gptq", usual, extra_config=extra).config, usual.pack, others)


def by_targets() -> Packer:
    """Several config_groups: a name goes before a pattern, and that before the class."""
    plain, fours, eights = w8a8(), compressed(4, 32), compressed(8, 32)
    groups = {
        "group_0": plain.config["config_groups"]["group_0"] | {"format": "int-quantized"},
        "group_1": fours.config["config_groups"]["group_0"] | {"targets": [r"re:.*mlp\..*"], "format": "pack-quantized"},
        "group_2": eights.config["config_groups"]["group_0"] | {"targets": ["model.layers.1.mlp.up_proj"], "format": "pack-quantized"},
    }
    config = plain.config | {"format": "mixed-precision", "config_groups": groups, "ignore": ["lm_head", "re:.*0.self_attn.k_proj"]}
    return Packer(config, plain.pack, {"1.mlp.up_proj": eights.pack, "mlp": fours.pack, "0.self_attn.k_proj": None})


def llm_int8(*, row_format: bool = False) -> Packer:
    def pack(weight: Tensor) -> Packed:
        largest = weight.abs().amax(1)
        values = (weight * 127 / largest[:, None]).round().to(torch.int8)
        tensors = {".weight": values, ".SCB": largest} | ({".weight_format": torch.tensor(0, dtype=torch.uint8)} if row_format else {})
        return Packed(tensors, values.float() * (largest / 127)[:, None])

    config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_skip_modules": ["lm_head"]}
    return Packer(config | {"_load_in_8bit": True, "llm_int8_threshold": 6.0}, pack)
