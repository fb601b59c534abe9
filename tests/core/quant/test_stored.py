"""Weights as a checkpoint stores them: what is kept of each, where, and what rows it is multiplied by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infer.core.build.files import find_model
from infer.core.build.plan import make_plan
from infer.core.jobs.fingerprint import VERIFIED, fingerprint
from infer.core.quant.grouped import InGroups
from infer.core.quant.int8 import Int8
from infer.core.quant.plain import Plain
from infer.core.quant.stored import Stored
from infer.core.settings.args import EngineArgs
from infer.core.weights.cut import Cut
from infer.core.weights.formats.values import Grouped, Int8Rows
from infer.core.weights.parameter import Value
from infer.kernels.reference import Ops

from ..weights.formats.folders import write
from ..weights.formats.packers import PACKERS

IN = 64
CPU = torch.device("cpu")


class NoGroups(Ops):
    """A backend that multiplies by groups in the given ways only."""

    def __init__(self, *ways: bool) -> None:
        super().__init__()
        self.ways = ways

    def grouped_refusal(self, in_features: int, group_size: int, *, quantize_input: bool) -> str:
        return "" if quantize_input in self.ways else "it has none"

    def supports_int8(self) -> bool:
        return False


def in_groups(rows: int = 16) -> Grouped:
    return Grouped.of(torch.randint(16, (rows, IN), dtype=torch.uint8), 4, 32, torch.rand(rows, 2) + 0.5)


def in_rows(rows: int = 16) -> Int8Rows:
    return Int8Rows(torch.randint(-127, 128, (rows, IN), dtype=torch.int8), torch.rand(rows) + 0.5)


def stored(values: list[Value], ops: Ops, dtype: torch.dtype = torch.bfloat16, rows: str = "auto", device: torch.device = CPU) -> Stored:
    method = Stored(ops, dtype, rows=rows)
    (parameter,) = method.declare([str(i) for i in range(len(values))], [value.shape[0] for value in values], IN, None)
    for part, value in zip(parameter.parts, values, strict=True):
        parameter.fill(part, value, dtype, device)
    return method


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ["auto", "int8", "model"])
def test_rows_are_what_the_checkpoint_and_the_setting_say(rows: str, dtype: torch.dtype) -> None:
    """Int8 with scales for rows of int8 is a statement on rows; packed weights are none."""
    (packed,) = stored([in_groups()], Ops(), dtype, rows)._methods
    assert isinstance(packed, InGroups)
    assert packed.quantize_input == (rows == "int8" or (rows == "auto" and dtype == torch.bfloat16))
    (eight,) = stored([in_rows()], Ops(), dtype, rows)._methods
    assert isinstance(eight, Plain if rows == "model" else Int8)


def test_a_backend_keeps_what_it_multiplies_by() -> None:
    for ways, rows, kept in [((True,), "auto", True), ((False,), "auto", False), ((False,), "int8", False), ((), "int8", None)]:
        (method,) = stored([in_groups()], NoGroups(*ways), rows=rows)._methods
        assert isinstance(method, Plain) if kept is None else isinstance(method, InGroups) and method.quantize_input == kept
    (method,) = stored([in_rows()], NoGroups(True))._methods
    assert isinstance(method, Plain)


def test_features_stay_in_their_order() -> None:
    torch.manual_seed(1)
    values: list[Value] = [in_groups(), torch.randn(5, IN), in_rows(), in_rows(8), in_groups(3)]
    method = stored(values, Ops(), torch.float32, "model")
    dense = torch.cat([value if isinstance(value, Tensor) else value.dense() for value in values])
    x, bias = torch.randn(7, IN), torch.randn(len(dense))
    got = method.apply(x, bias)
    assert isinstance(got, Tensor)
    assert torch.allclose(got, x @ dense.T + bias, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("form", ["compressed-mxfp4", "compressed-nvfp4", "modelopt-nvfp4"])
def test_floats_of_4_bits_stay_packed(tmp_path: Path, form: str) -> None:
    source = find_model(
        EngineArgs.from_kwargs(
            model=str(write(tmp_path, PACKERS[form]).folder), device="cpu", kernels="reference", skip_tokenizer_init=True
        )
    )
    weights = [value for _, value in source.stream() if not isinstance(value, Tensor)]
    for weight in weights:
        (method,) = stored([weight], Ops())._methods
        assert isinstance(method, InGroups)
        half = weight.cut(Cut(1, 0, 32))
        assert isinstance(half, Grouped)
        assert torch.equal(half.dense(), weight.dense()[:, :32])
    assert weights


@pytest.mark.parametrize("rows", ["auto", "model"])
def test_weights_go_to_the_device(rows: str) -> None:
    method = stored([in_groups(), in_rows(), torch.randn(5, IN)], Ops(), rows=rows, device=torch.device("meta"))
    assert {tensor.device.type for tensor in method.tensors()} == {"meta"}


def test_offloading_takes_them_too() -> None:
    method = Stored(Ops(), torch.float32, rows="auto")
    seen: list[Tensor] = []

    def place(tensors: list[Tensor]) -> list[Tensor]:
        seen.extend(tensors)
        return [tensor.clone() for tensor in tensors]

    method.place = place
    (parameter,) = method.declare(["a", "b"], [16, 16], IN, None)
    for part, value in zip(parameter.parts, (in_groups(), in_rows()), strict=True):
        parameter.fill(part, value, torch.float32, CPU)
    now = method.tensors()
    assert len(seen) == len(now) > 3
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in zip(seen, now, strict=True))


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_a_setting_without_effect_is_told(tiny_llama: Path, quantization: str | None) -> None:
    args = EngineArgs.from_kwargs(
        model=str(tiny_llama), device="cpu", kernels="reference", activation_dtype="int8", quantization=quantization
    )
    assert any("activation_dtype has no effect" in note for note in make_plan(args).config.notes)


@pytest.mark.parametrize("quantization", [None, "int4"])
def test_a_setting_with_effect_is_not(tmp_path: Path, quantization: str | None) -> None:
    folder = write(tmp_path, PACKERS["w4a16"], **({"is_packed": lambda _: False, "config": {}} if quantization else {})).folder
    settings = {"kernels": "reference", "activation_dtype": "int8", "skip_tokenizer_init": True, "quantization": quantization}
    args = EngineArgs.from_kwargs(model=str(folder), device="cpu", **settings)
    assert not any("activation_dtype" in note for note in make_plan(args).config.notes)


@pytest.mark.parametrize("verify", [False, True])
def test_scales_in_a_file_of_their_own_count(tmp_path: Path, verify: bool) -> None:
    """All that a weight is made of may lie in several files: any other is another model."""
    folder = write(tmp_path, PACKERS["gptq-4"]).folder
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {"scales": {name: one for name, one in tensors.items() if name.endswith((".scales", ".qzeros"))}}
    shards["others"] = {name: one for name, one in tensors.items() if name not in shards["scales"]}
    index = {name: f"{shard}.safetensors" for shard, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = []
    for factor in (1, 2):
        shards["scales"] = {name: one * factor if name.endswith(".scales") else one for name, one in shards["scales"].items()}
        for shard, part in shards.items():
            save_file(part, folder / f"{shard}.safetensors")
        args = EngineArgs.from_kwargs(model=str(folder), device="cpu", kernels="reference", skip_tokenizer_init=True)
        source = find_model(args)
        found.append(fingerprint(make_plan(args, source).config, source, source, {}, verify=verify))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {"model's weights", *([VERIFIED] if verify else [])}


def test_a_file_beside_the_config_counts(tmp_path: Path) -> None:
    """What describes the quantization may lie in quantize_config.json: another one is another model."""
    folder = write(tmp_path, PACKERS["gptq-4"]).folder
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    found = []
    for more in ({}, {"damp_percent": 0.1}):
        (folder / "quantize_config.json").write_text(json.dumps(quantization | more))
        args = EngineArgs.from_kwargs(model=str(folder), device="cpu", kernels="reference", skip_tokenizer_init=True)
        source = find_model(args)
        plan = make_plan(args, source)
        found.append(fingerprint(plan.config, source, source, {}))
    differing = {name for name in found[0] if found[0][name] != found[1][name]}
    assert differing == {"model's quantize_config.json"}
