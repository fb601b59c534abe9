"""Quantized checkpoints that say what they are in another place or in other words, and tensors that no architecture of ours has yet."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from infer.core import LLM
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.weights.cut import Cut
from infer.core.weights.find import find
from infer.core.weights.formats.values import QuantizedWeight
from infer.core.weights.quantized import QuantizedSource, as_stored

from .floats import FP8
from .folders import Made, write
from .packers import PACKERS


def _same(made: Made) -> None:
    wanted = made.model.state_dict()
    for name, value in as_stored(find(str(made.folder))).stream():
        assert torch.equal(value.dense() if isinstance(value, QuantizedWeight) else value, wanted[name]), name


@pytest.mark.parametrize(
    ("packer", "file", "config"),
    [
        ("gptq-4", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": True, "model_name_or_path": None}),
        ("awq", "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
        ("modelopt-fp8", "hf_quant_config.json", {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}),
    ],
)
def test_a_file_beside_config_json_says_it_where_that_does_not(tmp_path: Path, packer: str, file: str, config: dict[str, Any]) -> None:
    made = write(tmp_path, PACKERS[packer], config={})
    (tmp_path / file).write_text(json.dumps(config))
    _same(made)


@pytest.mark.parametrize(
    ("packer", "config"),
    [
        ("nf4", {"load_in_4bit": True}),
        ("llm-int8", {"load_in_8bit": True}),
        ("modelopt-nvfp4", {"quant_algo": "NVFP4"}),
        ("gptq-4", PACKERS["gptq-4"].config | {"lm_head": True, "modules_in_block_to_quantize": [["self_attn.k_proj"]]}),
    ],
)
def test_other_words(tmp_path: Path, packer: str, config: dict[str, Any]) -> None:
    _same(write(tmp_path, PACKERS[packer], config=config))


@pytest.mark.parametrize("packer", ["gptq-4", "awq", "fp8-blocks", "nf4"])
def test_the_head_may_be_quantized_too(tmp_path: Path, packer: str) -> None:
    made = write(tmp_path, PACKERS[packer], is_packed=lambda layer: True, vocab_size=256)
    _same(made)
    assert made.num_packed == 15
    LLM(str(made.folder), device="cpu", dtype="float32", skip_tokenizer_init=True)


def test_stated_scales_of_activations_are_said_not_to_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for form, count in (("compressed-fp8", 1), ("fp8", 1), ("compressed-fp8-channel", 0)):
        made = write(tmp_path / form, PACKERS[form])
        caplog.clear()
        with caplog.at_level(logging.INFO, "infer"):
            LLM(str(made.folder), device="cpu", dtype="float32", skip_tokenizer_init=True)
        assert sum("scales of activations" in record.getMessage() for record in caplog.records) == count


@pytest.mark.parametrize("form", ["awq", "fp8", "fp8-rows", "fp8-small-blocks", "compressed-nvfp4", "modelopt-nvfp4", "nf4", "w8a8-tensor"])
def test_parts_are_those_of_what_the_weights_mean(tmp_path: Path, form: str) -> None:
    made = write(tmp_path, PACKERS[form])
    name = "model.layers.0.mlp.down_proj.weight"
    wanted = made.model.state_dict()[name]
    source = as_stored(find(str(made.folder)))
    for cut in (Cut(0, 16, 48), Cut(0, 48, 80), Cut(1, 0, 32), Cut(1, 32, 96), Cut(1, 40, 80), Cut(1, 33, 50), Cut(1, 80, 112)):
        value = dict(source.stream({name: cut}))[name]
        assert torch.equal(value.dense() if isinstance(value, QuantizedWeight) else value, cut.of(wanted)), cut


@pytest.mark.parametrize("form", ["compressed-nvfp4", "modelopt-nvfp4", "compressed-mxfp4", "nf4"])
def test_weights_of_a_kind_are_stacked(tmp_path: Path, form: str) -> None:
    values = dict(as_stored(find(str(write(tmp_path, PACKERS[form]).folder))).stream())
    parts = [values[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"]
    weights = [part for part in parts if isinstance(part, QuantizedWeight)]
    assert len({part.kind for part in weights}) == 1
    assert torch.equal(type(weights[0]).stacked(weights).dense(), torch.cat([part.dense() for part in weights]))


def _experts(folder: Path, **config: Any) -> dict[str, torch.Tensor]:
    """A folder with experts as gpt-oss has them."""
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{name}_blocks": torch.randint(0, 256, (3, 10, 2, 16), dtype=torch.uint8, generator=generator),
        f"{name}_scales": torch.randint(110, 130, (3, 10, 2), dtype=torch.uint8, generator=generator),
        f"{name}_bias": torch.randn(3, 10, generator=generator),
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_oss", "quantization_config": quantization} | config))
    return tensors


def test_experts_in_mxfp4_mean_what_transformers_makes_of_them(tmp_path: Path) -> None:
    stored = _experts(tmp_path)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    theirs = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"], dtype=torch.float32)
    source = as_stored(find(str(tmp_path)))
    assert {one: tuple(info.shape) for one, info in source.tensors().items()} == {name: (30, 64), f"{name}_bias": (3, 10)}
    found = dict(source.stream())
    weight = found[name]
    assert isinstance(weight, QuantizedWeight)
    assert torch.equal(weight.dense().view(3, 10, 64), theirs.transpose(1, 2))
    assert torch.equal(found[f"{name}_bias"], stored[f"{name}_bias"])


def test_experts_of_another_shape(tmp_path: Path) -> None:
    stored = _experts(tmp_path)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    for changes, said in (
        ({f"{name}_blocks": stored[f"{name}_blocks"][..., :8]}, "is not a weight quantized by MXFP4"),
        ({f"{name}_scales": stored[f"{name}_scales"][1:]}, r"_scales is U8 \[2, 10, 2\]; .* must be .* \[3, 10, 2\]"),
    ):
        save_file({one: tensor.contiguous() for one, tensor in (stored | changes).items()}, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=said):
            as_stored(find(str(tmp_path))).tensors()


def test_floats_of_8_bits_without_a_word_in_config_json(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["fp8"], config={})
    with pytest.raises(ModelError, match="is quantized"):
        make_plan(EngineArgs.from_kwargs(model=str(made.folder), device="cpu", skip_tokenizer_init=True))


def test_plain_layers_in_a_quantized_checkpoint(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["fp8-blocks"], config=FP8 | {"weight_block_size": [128, 128]}, is_packed=lambda layer: "mlp" in layer)
    assert isinstance(as_stored(find(str(made.folder))), QuantizedSource)
    _same(made)


def test_a_description_beside_plain_weights_is_left_from_elsewhere(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["gptq-4"], is_packed=lambda layer: False, config={})
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32}))
    source = find(str(made.folder))
    assert as_stored(source) is source
