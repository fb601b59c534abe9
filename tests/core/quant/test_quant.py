"""`--quantization`: which layers it changes, and where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import models
from infer.core.build.generating import load_model
from infer.core.errors import ConfigError
from infer.core.models.decoder import Decoder
from infer.core.quant import SCHEMES
from infer.core.quant.int8 import Int8
from infer.core.quant.plain import Plain
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.weights.find import find
from infer.core.weights.formats import METHODS
from infer.kernels import load, usable
from infer.kernels.ops import ScaledRows
from infer.kernels.reference import Ops


def built(folder: Path, **settings: Any) -> Decoder:
    source = find(str(folder))
    hf = source.read_json("config.json")
    assert hf is not None
    config = EngineArgs.from_kwargs(model=str(folder), device="cpu", dtype="float32", kernels="reference", **settings).resolve(
        read_spec(hf)
    )
    return load_model(config, source, load(config.kernels), torch.float32, torch.device("cpu"))


def test_linear_layers_are_quantized_and_the_head_if_asked(tiny_llama: Path) -> None:
    plain = built(tiny_llama)
    assert {type(layer.method) for layer in [*plain.linears(), plain.head]} == {Plain}
    model = built(tiny_llama, quantization="int8")
    assert {type(layer.method) for layer in model.linears()} == {Int8}
    assert len(list(model.linears())) == 4 * len(model.layers)
    assert isinstance(model.head.method, Plain)
    assert isinstance(built(tiny_llama, quantization="int8", quantize_lm_head=True).head.method, Int8)


def test_no_plain_copy_of_a_weight_is_kept(tiny_llama: Path) -> None:
    model = built(tiny_llama, quantization="int8", quantize_lm_head=True)
    for layer in [*model.linears(), model.head]:
        assert all(parameter.tensor.numel() == 0 for parameter in layer.weights)
        floating = [t for t in layer.method.tensors() if t.is_floating_point()]
        assert sum(t.numel() for t in floating) == layer.out_features


@pytest.mark.parametrize("backend", usable("cpu"))
def test_quantization_is_fused_into_what_comes_before(backend: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and activations give quantized rows; only attention's are quantized by a pass of their own."""
    ops = load(backend)
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    given: list[bool] = []

    def watch(name: str) -> None:
        plain = getattr(Int8, name)

        def watched(self: Int8, x: Any, *args: Any, **options: Any) -> Any:
            given.append(isinstance(x, ScaledRows))
            return plain(self, x, *args, **options)

        monkeypatch.setattr(Int8, name, watched)

    watch("apply")
    watch("apply_gated")
    hf = find(str(tiny_llama)).read_json("config.json")
    assert hf is not None
    model = models.build(read_spec(hf), ops, choose=lambda _: Int8(ops))
    layer = model.layers[0]
    for parameter in layer.parameters():
        for part in parameter.parts:
            parameter.fill(part, torch.randn(part.shape), torch.float32, torch.device("cpu"))
    rows = torch.randn(16, model.hidden_size)
    normed = layer.attention_norm(rows, quantize=layer.attention.qkv.method.quantizes_input)
    layer.attention.qkv(normed)
    layer.mlp(normed)
    layer.attention.out(torch.randn(16, layer.attention.out.in_features))
    assert given == [True, True, True, False]


def test_int8_is_refused_where_it_is_not_exact(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ops, "supports_int8", staticmethod(lambda: False))
    with pytest.raises(ConfigError, match=r"quantization=int8: the int8 sums of this torch's oneDNN are not exact on this CPU"):
        built(tiny_llama, quantization="int8")
    built(tiny_llama)


def test_settings() -> None:
    choices = EngineArgs.settings()["quantization"].choices
    assert choices is not None
    assert set(choices) == set(SCHEMES) | set(METHODS)
    with pytest.raises(ConfigError, match=r"quantization.*gptq_marlin.*not supported yet"):
        EngineArgs(quantization="gptq_marlin")
    with pytest.raises(ConfigError, match=r"quantization.*int9"):
        EngineArgs(quantization="int9")
    config = EngineArgs(model="m", device="cpu", quantize_lm_head=True).resolve(read_spec({"max_position_embeddings": 64}))
    assert "quantize_lm_head has no effect without quantization" in config.notes
