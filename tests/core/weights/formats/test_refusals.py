"""Faults of quantized checkpoints: told in one sentence, by infer check and by the run alike."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.core import LLM
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError, ModelError
from infer.core.settings.args import EngineArgs
from infer.core.weights.formats import METHODS, method_of

from .folders import write
from .packers import PACKERS

LAYER = "model.layers.0.mlp.down_proj"
STATE = ".weight.quant_state.bitsandbytes__nf4"


def _changed(packer: str, **weights: Any) -> dict[str, Any]:
    """The packer's config with other weights in its one group of layers."""
    config = PACKERS[packer].config
    group = config["config_groups"]["group_0"]
    return config | {"config_groups": {"group_0": group | {"weights": group["weights"] | weights}}}


def _stated(**changes: Any) -> Callable[[Tensor], Tensor]:
    """Another state of bitsandbytes' codes."""
    return lambda state: _text(json.dumps(json.loads(bytes(state.tolist())) | changes))


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def plan(folder: Path, **settings: Any) -> None:
    make_plan(EngineArgs.from_kwargs(model=str(folder), device="cpu", skip_tokenizer_init=True, **settings))


@pytest.mark.parametrize(
    ("packer", "config", "said"),
    [
        ("gptq-4", {"quant_method": "squeezellm"}, r"is quantized \('squeezellm'; config.json: quantization_config\), .*supported: .*gptq"),
        ("gptq-4", {"bits": 4}, "is quantized .by a method that is not named"),
        ("gptq-4", {"quant_method": ["gptq"]}, "is quantized"),
        ("gptq-4", {"quant_method": "gptq", "bits": 5}, r"quantization_config\.bits is 5, which must be one of 2, 3, 4, 8"),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "group_size": 0}, r"group_size is 0"),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "group_size": 1e9}, r"group_size is 1000000000\.0, which must be a whole number"),
        (
            "gptq-4",
            {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": "no"},
            "desc_act is 'no', which must be",
        ),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "is quantized by GPTQ in the format 'marlin'"),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "dynamic": {"-:(": {}}}, "a pattern that is not a regular expression"),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "group_size": 16}, r"down_proj\.qzeros is I32 \[3, 8\]; .* must be .* \[6, 8\]"),
        ("gptq-4", {"quant_method": "gptq", "bits": 8, "group_size": 32}, r"qzeros is I32 .* must be"),
        ("w4a16", {"quant_method": "compressed-tensors"}, "has no config_groups"),
        ("w4a16", PACKERS["w4a16"].config | {"sparsity_config": {"format": "x"}}, "is quantized by compressed-tensors and sparse"),
        ("w4a16", PACKERS["w4a16"].config | {"format": "marlin-24"}, "is quantized by compressed-tensors with format marlin-24"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": "lm_head"}, "ignore is not a list of names"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": ["re:*"]}, "not a regular expression"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": ["re:.*down_proj"]}, "is quantized .its weights have .*down_proj"),
        ("w4a16", PACKERS["w4a16"].config | {"transform_config": {"config_groups": {"u": {}}}}, "and with transforms .transform_config"),
        ("w4a16", _changed("w4a16", num_bits=3), "is quantized by compressed-tensors with format pack-quantized, type int, num_bits 3"),
        ("w4a16", _changed("w4a16", group_size=0), "group_size is 0, which must be a whole number from 1 on"),
        ("compressed-fp8-blocks", _changed("compressed-fp8-blocks", block_structure=[0, 64]), r"block_structure is \[0, 64\]"),
        ("compressed-fp8-blocks", _changed("compressed-fp8-blocks", block_structure=None), "a strategy of blocks without block_structure"),
        ("compressed-nvfp4", _changed("compressed-nvfp4", group_size=32), "format nvfp4-pack-quantized, .*group_size 32"),
        ("awq", PACKERS["awq"].config | {"version": "gemv"}, "is quantized by AWQ in the version 'gemv', .*known: gemm"),
        ("awq", PACKERS["awq"].config | {"bits": 8}, r"quantization_config\.bits is 8, which must be one of 4"),
        ("awq", PACKERS["awq"].config | {"group_size": 0}, r"quantization_config\.group_size is 0"),
        ("awq", PACKERS["awq"].config | {"group_size": 64}, r"down_proj\.qweight of shape \[96, 8\] is not a weight quantized by AWQ"),
        ("awq", PACKERS["awq"].config | {"group_size": 16}, r"qzeros is I32 .* must be I32 or U32 \[6, 8\]"),
        ("awq", PACKERS["awq"].config | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert is not a list of names"),
        (
            "auto-round",
            PACKERS["auto-round"].config | {"packing_format": "auto_round:mlx"},
            "by AutoRound with packing_format 'auto_round:mlx'",
        ),
        ("auto-round", PACKERS["auto-round"].config | {"data_type": "mx_fp"}, "by AutoRound with .*data_type 'mx_fp'"),
        ("auto-round", PACKERS["auto-round"].config | {"act_bits": 8}, "by AutoRound with .*act_bits 8"),
        ("auto-round", PACKERS["auto-round"].config | {"rotation_config": {"a": 1}}, "by AutoRound with rotations"),
        ("auto-round", PACKERS["auto-round"].config | {"extra_config": {"lm_head": 4}}, "extra_config is not an object of objects"),
        ("auto-round", PACKERS["auto-round"].config | {"bits": 16}, r"bits is 16, which must be one of 2, 3, 4, 8"),
        ("auto-round", PACKERS["auto-round"].config | {"extra_config": {"(": {"bits": 8}}}, "not a regular expression"),
        ("fp8-blocks", PACKERS["fp8-blocks"].config | {"weight_block_size": [128]}, r"weight_block_size is \[128\], which must be two"),
        ("fp8-blocks", PACKERS["fp8-blocks"].config | {"weight_block_size": [16, 64]}, r"weight_scale_inv is F32 .* must be .*\[4, 2\]"),
        ("fp8", PACKERS["fp8"].config | {"weight_block_size": [1 << 40, 1]}, "weight_block_size is"),
        ("modelopt-fp8", {"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, "by ModelOpt with quant_algo 'NVFP4_AWQ', .*known: FP8"),
        ("modelopt-fp8", {"quant_method": "modelopt"}, "by ModelOpt with quant_algo None"),
        ("nf4", PACKERS["nf4"].config | {"load_in_8bit": True}, "load_in_4bit True and load_in_8bit True; one must be true"),
        ("nf4", PACKERS["nf4"].config | {"load_in_4bit": "yes"}, "load_in_4bit is 'yes', which must be true or false"),
        ("llm-int8", PACKERS["nf4"].config, "is quantized by bitsandbytes, but has 0 states"),
        ("fp8", PACKERS["nf4"].config, "down_proj.weight is quantized by bitsandbytes"),
    ],
)
def test_configs(tmp_path: Path, packer: str, config: dict[str, Any], said: str) -> None:
    write(tmp_path, PACKERS[packer], config=config)
    with pytest.raises(ModelError, match=said):
        plan(tmp_path)


def _without(suffix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(LAYER + suffix)


def _with(suffix: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({LAYER + suffix: value(tensors[LAYER + suffix])})


def _beside(suffix: str, other: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    """A tensor more, of the shape of one that is there."""
    return lambda tensors: tensors.update({LAYER + other: torch.full(tensors[LAYER + suffix].shape, value).to(torch.int8)})


@pytest.mark.parametrize(
    ("packer", "changed", "said"),
    [
        ("gptq-4", _without(".scales"), r"is quantized \(gptq, 4 bits, groups of 32\), but .*down_proj has no scales"),
        ("gptq-desc_act", _without(".g_idx"), "has no g_idx"),
        ("gptq-4", _with(".qweight", lambda t: t[:-1]), "qweight|qzeros"),
        ("gptq-4", _with(".scales", lambda t: t.to(torch.float64)), r"scales is F64 .* must be BF16 or F16 or F32"),
        ("w4a16", _without(".weight_scale"), "has no weight_scale"),
        ("w4a16", _with(".weight_packed", lambda t: t[:, :-4]), "weight_scale is F16"),
        ("w8a8", _without(".weight_scale"), "has no weight_scale"),
        ("w8a8", _with(".weight_scale", lambda t: t[:, 0]), "weight_scale is BF16"),
        ("w8a8-tensor", _with(".weight_scale", lambda t: t.expand(64, 1)), r"must be .* \[1\] or \[\] or \[1, 1\]"),
        ("w8-groups", _without(".weight_zero_point"), "has no weight_zero_point"),
        ("awq", _without(".scales"), r"is quantized \(awq, 4 bits, groups of 32\), but .*down_proj has no scales"),
        ("awq", _without(".qzeros"), "has no qzeros"),
        ("awq", _with(".scales", lambda t: t[:-1]), r"scales is F16 \[2, 64\]; .* must be .* \[3, 64\]"),
        ("auto-round-awq", _without(".qzeros"), "is quantized .auto-round, .*has no qzeros"),
        ("fp8", _without(".weight_scale"), r"is quantized \(fp8, FP8\), but .*down_proj has no weight_scale"),
        ("fp8-blocks", _without(".weight_scale_inv"), "is quantized .* has no weight_scale"),
        ("fp8-blocks", _with(".weight_scale_inv", lambda t: t.repeat(2, 1)), r"weight_scale_inv is F32 \[2, 1\]; .* must be .*\[1, 1\]"),
        ("fp8-powers", _with(".weight_scale_inv", lambda t: t.to(torch.int32)), "weight_scale_inv is I32"),
        ("fp8-rows", _with(".weight_scale", lambda t: t[:-1]), r"weight_scale is BF16 \[63, 1\]"),
        ("fp8", _with(".weight", lambda t: t.view(torch.int8)), "down_proj.weight of shape .64, 96. is not a weight quantized by FP8"),
        ("compressed-nvfp4", _without(".weight_global_scale"), "has no weight_global_scale"),
        ("compressed-nvfp4", _with(".weight_packed", lambda t: t[:, :-1]), "is not a weight quantized by NVFP4"),
        ("compressed-mxfp4", _with(".weight_scale", lambda t: t[:, 1:]), r"weight_scale is U8 \[64, 2\]"),
        ("modelopt-nvfp4", _without(".weight_scale_2"), "has no weight_scale_2"),
        ("nf4", _without(".weight.absmax"), "is quantized .bitsandbytes, nf4., but .*down_proj has no weight.absmax"),
        ("nf4-nested", _without(".weight.nested_absmax"), "has no weight.nested_absmax"),
        ("nf4", _without(STATE), "down_proj.weight is quantized by bitsandbytes, but has 0 states"),
        ("nf4", _with(".weight.absmax", lambda t: t[1:]), r"absmax is F32 \[95\]; .* must be .* \[96\]"),
        ("nf4", _with(STATE, lambda t: t[:-1]), "bitsandbytes__nf4 is not JSON"),
        ("nf4", _with(STATE, lambda t: _text("[" * 9000)), "bitsandbytes__nf4 is not JSON"),
        ("nf4", _with(STATE, lambda t: torch.zeros(1 << 20, dtype=torch.uint8)), "which is not a state of bitsandbytes"),
        ("nf4", _with(STATE, lambda t: t.int()), "is I32 .* which is not a state of bitsandbytes"),
        ("nf4", _with(STATE, lambda t: _text("[1]")), "says .1., which no weight has"),
        *(
            ("nf4", _with(STATE, _stated(**state)), "says .*, which no weight has")
            for state in (
                *({"shape": shape} for shape in ([64], [64, -96], "64", [64, 96.0], [64, 95], None)),
                *({"blocksize": size} for size in (0, -64, 63, 1 << 60, "64", True, 64.0)),
                *({"nested_blocksize": 256, "nested_offset": offset} for offset in ("0", float("nan"), 1e300, None)),
                {"nested_blocksize": [256]},
            )
        ),
        ("nf4", _with(STATE, _stated(shape=[96, 1 << 62])), r"weight is U8 \[3072, 1\]; .* must be"),
        ("nf4", _with(STATE, _stated(shape=[96, 64])), r"down_proj.weight has shape \(96, 64\), config.json makes it \(64, 96\)"),
        ("nf4", _with(STATE, _stated(blocksize=32)), r"absmax is F32 \[96\]; .* must be .* \[192\]"),
        ("llm-int8", _without(".SCB"), "is quantized .bitsandbytes, int8., but .*down_proj has no SCB"),
    ],
)
def test_headers(tmp_path: Path, packer: str, changed: Callable[[dict[str, Tensor]], object], said: str) -> None:
    write(tmp_path, PACKERS[packer], changed=changed)
    with pytest.raises(ModelError, match=said):
        plan(tmp_path)


@pytest.mark.parametrize(
    ("packer", "changed", "said"),
    [
        ("gptq-4", _with(".scales", lambda t: t.fill_(float("nan"))), r"down_proj\.scales holds numbers that are not finite"),
        ("gptq-desc_act", _with(".g_idx", lambda t: t + 2), r"down_proj: a g_idx names groups from 2 to 4; there are 3"),
        ("w4a16", _with(".weight_shape", lambda t: t + 1), r"a weight_shape says \[65, 97\]"),
        ("w4a16-actorder", _with(".weight_g_idx", lambda t: t * 0), "a weight_g_idx does not fill the groups"),
        ("awq", _with(".scales", lambda t: t.fill_(float("inf"))), r"down_proj\.scales holds numbers that are not finite"),
        ("fp8", _with(".weight_scale", lambda t: t * float("nan")), r"down_proj\.weight_scale holds numbers that are not finite"),
        ("fp8-powers", _with(".weight_scale_inv", lambda t: t.fill_(255)), "down_proj: a scale is not a number"),
        ("compressed-mxfp4", _with(".weight_scale", lambda t: t.fill_(255)), "down_proj: a scale is not a number"),
        ("compressed-nvfp4", _with(".weight_scale", lambda t: t.view(torch.uint8).fill_(127).view(t.dtype)), "weight_scale holds numbers"),
        ("compressed-nvfp4", _with(".weight_global_scale", lambda t: t * 0), "its weight_global_scale is 0"),
        ("w8a8", _beside(".weight_scale", ".weight_zero_point", 1), r"down_proj\.weight_zero_point is not zero, and W8A8 has no"),
        ("compressed-fp8-channel", _beside(".weight_scale", ".weight_zero_point", 1), "weight_zero_point is not zero, and FP8 has no"),
        ("gptq-4", _with(".g_idx", lambda t: t + 2), r"down_proj: a g_idx names groups from 2 to 4; there are 3"),
        ("nf4", _with(".weight.absmax", lambda t: t / 0), r"down_proj\.weight\.absmax holds numbers that are not finite"),
        ("llm-int8-format", _with(".weight_format", lambda t: t + 1), "its values are not in rows"),
    ],
)
def test_values(tmp_path: Path, packer: str, changed: Callable[[dict[str, Tensor]], object], said: str) -> None:
    made = write(tmp_path, PACKERS[packer], changed=changed)
    with pytest.raises(ModelError, match=said):
        LLM(str(made.folder), device="cpu", skip_tokenizer_init=True)


def test_the_flag_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "quantized", PACKERS["gptq-4"])
    plan(tmp_path / "quantized", quantization="gptq")
    for asked in ("int8", "compressed-tensors"):
        with pytest.raises(ConfigError, match=rf"quantization={asked}: .* are quantized already \(gptq, 4 bits, groups of 32\)"):
            plan(tmp_path / "quantized", quantization=asked)
    made = write(tmp_path / "plain", PACKERS["gptq-4"], is_packed=lambda layer: False, config={})
    with pytest.raises(ConfigError, match=r"quantization=gptq: the weights of .* are not quantized so"):
        plan(made.folder, quantization="gptq")


ODD: list[Any] = [None, True, 0, -1, 1.5, float("nan"), 10**30, "x", "re:(", [], [1], [[1]], [None], ["re:("], {}, {"a": 1}, {"a": {}}]
#: Keys that no packer here writes.
RARE = (
    "dynamic",
    "extra_config",
    "rotation_config",
    "transform_config",
    "sparsity_config",
    "checkpoint_format",
    "scale_fmt",
    "quantization",
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from _places(inner, (*place, key))


@pytest.mark.parametrize("packer", ["gptq-4", "awq", "auto-round-layers", "by-targets", "compressed-fp8-blocks", "fp8-blocks", "nf4"])
def test_a_config_with_any_value_in_any_place_is_read_or_refused(packer: str) -> None:
    base = dict.fromkeys(RARE) | PACKERS[packer].config
    for *way, last in _places(base):
        for value in ODD:
            config = copy.deepcopy(base)
            place = config
            for key in way:
                place = place[key]
            place[last] = value
            method = method_of(config)
            with contextlib.suppress(ModelError):
                if method in METHODS:
                    METHODS[method](config).choose(LAYER)


def test_overrides_do_not_say_how_weights_are_stored(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["gptq-4"])
    with pytest.raises(ConfigError, match="hf_overrides: quantization_config tells how weights are quantized"):
        plan(made.folder, hf_overrides={"quantization_config": PACKERS["awq"].config})


def test_layers_may_differ(tmp_path: Path) -> None:
    """Some of what is stacked is plain, as GPTQ's `dynamic` and compressed-tensors' `ignore` allow."""
    config = PACKERS["gptq-4"].config | {"dynamic": {r"-:.*\.k_proj": {}, r"+:.*down_proj": {"desc_act": True}}}
    made = write(tmp_path, PACKERS["gptq-4"], config=config, is_packed=lambda layer: ".layers." in layer and "k_proj" not in layer)
    LLM(str(made.folder), device="cpu", dtype="float32", skip_tokenizer_init=True)


def test_a_quantization_that_is_not_there(tmp_path: Path) -> None:
    said = r"is said to be quantized \(gptq, 4 bits, groups of 32\), but none of its weights is"
    made = write(tmp_path / "said", PACKERS["gptq-4"], is_packed=lambda layer: False)
    with pytest.raises(ModelError, match=said):
        plan(made.folder)
