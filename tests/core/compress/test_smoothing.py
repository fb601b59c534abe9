"""Smoothing and GPTQ by themselves: the model stays the same, errors of outputs become smaller."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer.core import models
from infer.core.compress.gptq import round_with
from infer.core.compress.smoothing import Smoothing
from infer.core.compress.walk import Walk
from infer.core.compress.watched import Inputs, Watched
from infer.core.models.decoder import Decoder
from infer.core.quant.rounding import Form, best_range, codes_of, dequantized
from infer.core.spec.read import read_spec
from infer.kernels.reference import Ops

TEXTS = [[(7 * i + j * j) % 50 for j in range(9 + 8 * i)] for i in range(5)]
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
#: Grouped heads; biases; an offset in norms and norms of what is added; norms of mean and variance with a bias, no gate; one norm for both
#: parts; norms behind the parts alone.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48},
    "cohere": {"layer_norm_eps": 1e-5},
    "olmo2": {},
}


def built(kind: str) -> tuple[Decoder, Ops]:
    """A model with random weights, biases and norms."""
    ops = Ops()
    model = models.build(read_spec({"model_type": kind} | SIZES | KINDS[kind]), ops, choose=lambda _: Watched(ops, torch.float32))
    torch.manual_seed(4)
    for parameter in model.parameters():
        for part in parameter.parts:
            tensor = torch.randn(part.shape) * 0.3 if len(part.shape) == 2 else torch.rand(part.shape) + 0.2
            parameter.fill(part, tensor, torch.float32, torch.device("cpu"))
    return model, ops


def hidden(model: Decoder, ops: Ops) -> torch.Tensor:
    walk = Walk(model, ops, TEXTS)
    for layer in model.layers:
        walk.go(layer)
    return torch.cat([rows[:count] for rows, count in zip(walk.hidden, walk.lengths, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_smoothed_model_is_the_same(kind: str) -> None:
    model, ops = built(kind)
    before = hidden(model, ops)
    walk, smoothing = Walk(model, ops, TEXTS), Smoothing(torch.float32)
    changes = 0
    for layer in model.layers:
        inputs = walk.inputs(layer)
        before_norm = None if layer.attention_norm is None else layer.attention_norm.weight.clone()
        done = smoothing.smooth(layer, inputs)
        assert ("down" in done) == (kind != "gpt2")
        changes += before_norm is not None and not torch.equal(before_norm, layer.attention_norm.weight)
        again = walk.inputs(layer)
        for linear, one in again.items():
            assert torch.allclose(one.largest, inputs[linear].largest, rtol=1e-3, atol=1e-5)
            assert torch.allclose(one.hessian, inputs[linear].hessian, rtol=1e-2, atol=1e-3 * float(one.hessian.abs().max()))
        walk.go(layer)
    assert bool(changes) == (kind != "olmo2")
    after = hidden(model, ops)
    assert (after - before).abs().max() < 1e-4 * max(1, float(before.abs().max()))


def test_walking_is_running_the_model() -> None:
    model, ops = built("llama")
    walk = Walk(model, ops, TEXTS)
    seen = walk.inputs(model.layers[0])[model.layers[0].mlp.down]  # type: ignore[union-attr]
    total = sum(map(len, TEXTS))
    assert len(seen.samples) == total
    assert torch.allclose(seen.hessian, seen.samples.T @ seen.samples, rtol=1e-4, atol=1e-4)
    assert torch.allclose(seen.largest, seen.samples.abs().amax(0))


def test_samples_are_from_all_over() -> None:
    inputs = Inputs(1, 5000)
    for start in range(0, 5000, 100):
        inputs.add(torch.arange(start, start + 100.0)[:, None])
    samples = inputs.samples.flatten().long().tolist()
    assert samples == [*range(0, 5000, 5)]


@pytest.mark.parametrize(
    ("bits", "size", "form"), [(4, 32, Form.ZERO), (4, 64, Form.SYMMETRIC), (8, 192, Form.SYMMETRIC), (4, 192, Form.ZERO)]
)
def test_gptq_makes_up_for_errors(bits: int, size: int, form: Form) -> None:
    torch.manual_seed(1)
    mixing = torch.randn(192, 192) * torch.rand(192)
    x = torch.randn(512, 192) @ mixing
    weight = torch.randn(24, 192)
    hessian = x.T @ x
    ranges = best_range(weight.view(24, -1, size), bits, form)

    def error(codes: torch.Tensor) -> float:
        means = dequantized(codes.view(24, -1, size).float(), ranges).flatten(1)
        return float(((means - weight) @ x.T).square().sum())

    codes = round_with(weight, hessian, ranges, size, bits)
    assert int(codes.max()) < 2**bits
    assert error(codes) < 0.6 * error(codes_of(weight.view(24, -1, size), ranges, bits).flatten(1))


def test_gptq_of_independent_inputs_is_rounding() -> None:
    torch.manual_seed(1)
    weight = torch.randn(8, 64)
    ranges = best_range(weight.view(8, -1, 32), 4, Form.ZERO)
    codes = round_with(weight, torch.diag(torch.rand(64) + 0.5), ranges, 32, 4)
    assert torch.equal(codes.float(), codes_of(weight.view(8, -1, 32), ranges, 4).flatten(1))


def test_features_that_are_never_there() -> None:
    torch.manual_seed(1)
    weight, hessian = torch.randn(8, 64), torch.zeros(64, 64)
    ranges = best_range(weight.view(8, -1, 32), 4, Form.ZERO)
    codes = round_with(weight, hessian, ranges, 32, 4)
    assert torch.equal(codes.float(), codes_of(weight.view(8, -1, 32), ranges, 4).flatten(1))
