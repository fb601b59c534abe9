"""What is wrong with a quantized checkpoint is told in one sentence, by infer check and by the run alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.core import LLM
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError, ModelError
from infer.core.settings.args import EngineArgs

from .folders import write
from .packers import PACKERS

LAYER = "model.layers.0.mlp.down_proj"


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
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "dynamic": {"-:(": {}}}, "a pattern that is no regular expression"),
        ("gptq-4", {"quant_method": "gptq", "bits": 4, "group_size": 16}, r"down_proj\.qzeros is I32 \[3, 8\]; .* must be .* \[6, 8\]"),
        ("gptq-4", {"quant_method": "gptq", "bits": 8, "group_size": 32}, r"qzeros is I32 .* must be"),
        ("w4a16", {"quant_method": "compressed-tensors"}, "has no config_groups"),
        ("w4a16", PACKERS["w4a16"].config | {"sparsity_config": {"format": "x"}}, "is quantized by compressed-tensors and sparse"),
        ("w4a16", PACKERS["w4a16"].config | {"format": "marlin-24"}, "is quantized by compressed-tensors with format marlin-24"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": "lm_head"}, "ignore is no list of names"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": ["re:*"]}, "no regular expression"),
        ("w4a16", PACKERS["w4a16"].config | {"ignore": ["re:.*down_proj"]}, "is quantized .its weights have .*down_proj"),
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


def test_layers_may_differ(tmp_path: Path) -> None:
    """Some of what is stacked is plain, as GPTQ's `dynamic` and compressed-tensors' `ignore` allow."""
    config = PACKERS["gptq-4"].config | {"dynamic": {r"-:.*\.k_proj": {}, r"+:.*down_proj": {"desc_act": True}}}
    made = write(tmp_path, PACKERS["gptq-4"], config=config, is_packed=lambda layer: ".layers." in layer and "k_proj" not in layer)
    LLM(str(made.folder), device="cpu", dtype="float32", skip_tokenizer_init=True)
