"""Dense modules of sentence-transformers are read from their folders, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.pooling.dense import Dense
from infer.core.pooling.dense_files import check_dense
from infer.core.pooling.recipe import DenseSpec
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.weights.folder import FolderSource
from infer.core.weights.formats.base import Layers
from infer.core.weights.quantized import QuantizedSource
from infer.core.weights.source import ModelSource
from infer.kernels import load

SPEC = DenseSpec("2_Dense", 6, 10, True, "tanh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "2_Dense").mkdir()
    return tmp_path


def read(folder: Path, config: EngineConfig, spec: DenseSpec = SPEC) -> Dense:
    return Dense.load(spec, config, FolderSource("model", folder), load("reference"), torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_are_read_as_float32(folder: Path, make_config: Callable[..., EngineConfig], dtype: torch.dtype, bias: bool) -> None:
    weights = {"linear.weight": torch.randn(10, 6).to(dtype), "linear.bias": torch.randn(10).to(dtype)}
    if not bias:
        del weights["linear.bias"]
    save_file(weights, str(folder / "2_Dense/model.safetensors"))
    dense = read(folder, make_config(), DenseSpec("2_Dense", 6, 10, bias, "tanh"))
    x = torch.randn(16, 6)
    wanted = torch.nn.functional.linear(x, weights["linear.weight"].float(), weights["linear.bias"].float() if bias else None).tanh()
    torch.testing.assert_close(dense(x), wanted)


def test_what_does_not_fit_is_told(folder: Path, make_config: Callable[..., EngineConfig]) -> None:
    save_file({"linear.weight": torch.randn(10, 7)}, str(folder / "2_Dense/model.safetensors"))
    with pytest.raises(ModelError, match=r"linear\.bias.*\(10, 7\)"):
        read(folder, make_config())
    with pytest.raises(ModelError, match=r"model/2_Dense do not fit .*linear\.bias.*\(10, 7\)"):
        check_dense(SPEC, FolderSource("model", folder))


def test_a_plan_looks_at_them_before_anything_is_read(tiny_bert: Path, tmp_path: Path) -> None:
    """So `infer check` finds what a run would."""
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    listed = json.loads((folder / "modules.json").read_text())
    listed.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | {"matryoshka_dimensions": None}))
    (folder / "2_Dense").mkdir()
    says = {"in_features": 32, "out_features": 8, "bias": False, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense/config.json").write_text(json.dumps(says))
    args = EngineArgs(str(folder), device="cpu", kernels="reference")
    with pytest.raises(ModelError, match=r"2_Dense has no model\.safetensors"):
        make_plan(args)
    for weights, said in (({"linear.weight": torch.ones(8, 31)}, r"\(8, 31\)"), ({"linear.weight": torch.ones(8, 32).long()}, "I64")):
        save_file(weights, str(folder / "2_Dense/model.safetensors"))
        with pytest.raises(ModelError, match=said):
            make_plan(args)
    save_file({"linear.weight": torch.ones(8, 32)}, str(folder / "2_Dense/model.safetensors"))
    make_plan(args)


def test_beside_quantized_weights(folder: Path) -> None:
    """The folder has modules, however its model is stored."""
    save_file({"linear.weight": torch.randn(10, 6), "linear.bias": torch.randn(10)}, str(folder / "2_Dense/model.safetensors"))
    whole = FolderSource("model", folder)
    check_dense(SPEC, QuantizedSource("model", folder, whole, Layers("gptq", lambda layer: None, frozenset())))


def test_pickles_are_refused(folder: Path, make_config: Callable[..., EngineConfig]) -> None:
    with pytest.raises(ModelError, match=r"2_Dense has no model\.safetensors: fetch the model again"):
        read(folder, make_config())
    torch.save({"linear.weight": torch.randn(10, 6)}, folder / "2_Dense/pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, and pickle files can run code .* refused"):
        read(folder, make_config())


def test_dummy_weights_need_no_file(folder: Path, make_config: Callable[..., EngineConfig]) -> None:
    dense = read(folder, make_config(load_format="dummy"))
    assert torch.isfinite(dense(torch.randn(16, 6))).all()


def test_a_single_file_has_no_modules(folder: Path, make_config: Callable[..., EngineConfig]) -> None:
    class File(ModelSource):
        def read(self, filename: str) -> bytes | None:
            return None

        def tensors(self) -> Any:
            return {}

        def stream(self, cuts: Any = None) -> Any:
            return iter(())

    with pytest.raises(ModelError, match=r"model\.gguf is one file"):
        Dense.load(SPEC, make_config(), File("model.gguf", folder / "model.gguf"), load("reference"), torch.device("cpu"))
