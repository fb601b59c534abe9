"""One packer of each form that is read."""

from __future__ import annotations

import torch

from .floats import FP8, STATIC, bits4, blocks, float_config, fp8, mxfp4, nvfp4
from .integers import auto_round, auto_round_by_layer, awq, by_targets, compressed, gptq, llm_int8, w8, w8a8
from .packer import Packer

_SCALE = {".input_scale": torch.tensor(0.5)}
_MODELOPT = {"quant_method": "modelopt", "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.40"}}

#: Names are those of tests.
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
    "w8a8-tensor": w8a8(tensor=True),
    "w8a8-half": w8a8(bits=4),
    "w8-tensor": w8(8, None),
    "w8-channel": w8(8, -1),
    "w8-groups": w8(8, 32, symmetric=False),
    "w4-bytes": w8(4, 32),
    "by-targets": by_targets(),
    "awq": awq(32),
    "awq-columns": awq(-1, w_bit=4, q_group_size=-1),
    "awq-symmetric": awq(32, zero_point=False),
    "auto-round": auto_round(None, gptq(4, 32)),
    "auto-round-gptq": auto_round("auto_round:auto_gptq", gptq(4, 32)),
    "auto-round-raw": auto_round("auto_round", gptq(4, 32, v2=True), quant_method="auto_round"),
    "auto-round-gptqmodel": auto_round("auto_round:gptqmodel", gptq(3, 32, v2=True), bits=3, quant_method="intel/auto-round"),
    "auto-round-awq": auto_round("auto_round:auto_awq", awq(32)),
    "auto-round-layers": auto_round_by_layer(),
    "fp8": fp8("scalar", STATIC, extra=_SCALE),
    "fp8-rows": fp8("column", {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "fp8-inverse": fp8("scalar", FP8 | {"weight_block_size": None}, name=".weight_scale_inv"),
    "fp8-blocks": blocks(128, 128, FP8 | {"weight_block_size": [128, 128]}),
    "fp8-small-blocks": blocks(48, 40, FP8 | {"weight_block_size": [48, 40]}),
    "fp8-powers": blocks(32, 32, FP8 | {"weight_block_size": [32, 32], "scale_fmt": "ue8m0"}, power=True),
    "compressed-fp8": fp8("one", float_config("float-quantized", strategy="tensor", static=True), extra=_SCALE),
    "compressed-fp8-channel": fp8("column", float_config("float-quantized", strategy="channel")),
    "compressed-fp8-naive": fp8("column", float_config("naive-quantized", strategy="channel")),
    "compressed-fp8-blocks": blocks(
        32, 64, float_config("float-quantized", strategy="block", block_structure=[32, 64]), name=".weight_scale"
    ),
    "compressed-fp8-groups": blocks(1, 32, float_config("naive-quantized", group_size=32), name=".weight_scale"),
    "compressed-mxfp8": blocks(1, 32, float_config("mxfp8-quantized", group_size=32), name=".weight_scale", power=True),
    "compressed-nvfp4": nvfp4(float_config("nvfp4-pack-quantized", 4, strategy="tensor_group", group_size=16), modelopt=False),
    "compressed-mxfp4": mxfp4(),
    "modelopt-fp8": fp8("scalar", _MODELOPT | {"quant_algo": "FP8", "kv_cache_scheme": None}, extra=_SCALE),
    "modelopt-fp8-rows": fp8("rows", _MODELOPT | {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
    "modelopt-fp8-blocks": blocks(128, 128, _MODELOPT | {"quant_algo": "FP8_PB_WO"}, name=".weight_scale", deep=True),
    "modelopt-mxfp8": blocks(1, 32, _MODELOPT | {"quant_algo": "MXFP8"}, name=".weight_scale", power=True),
    "modelopt-nvfp4": nvfp4(_MODELOPT | {"quant_algo": "NVFP4"}, modelopt=True),
    "nf4": bits4("nf4"),
    "nf4-nested": bits4("nf4", nested=True),
    "nf4-in-bfloat16": bits4("nf4", storage=torch.bfloat16),
    "fp4": bits4("fp4", block=128),
    "llm-int8": llm_int8(),
    "llm-int8-format": llm_int8(row_format=True),
}
