"""Encoders that transformers has no code for, against formulas written down here: "new" (gte) and JinaBERT."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infer.core import models
from infer.core.errors import ModelError
from infer.core.spec.read import read_spec
from infer.core.spec.tensors import tensors
from infer.kernels import load as load_kernels
from infer.kernels import usable

from .texts import TINY, encoder_of, hidden_of, texts_of, types_of

HEADS, SIZE, INNER = 6, 48, 80
NEW = {**TINY, "model_type": "new", "rope_theta": 500.0, "rope_scaling": {"type": "ntk", "factor": 8.0}, "type_vocab_size": 2}
JINA = {**TINY, "model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "geglu", "emb_pooler": "mean"}


def checkpoint(hf: dict[str, Any]) -> dict[str, Tensor]:
    """Random tensors under the names in the published files."""
    stack, dice = read_spec(hf).stack, torch.Generator().manual_seed(1)
    assert stack is not None
    found = {}
    for name, shape in tensors(stack, head=False).items():
        is_norm = name.endswith("weight") and len(shape) == 1
        found[f"new.{name}"] = torch.randn(shape, generator=dice) * (0.3 if len(shape) == 1 else 0.2) + is_norm
    for layer in range(TINY["num_hidden_layers"] if hf is not JINA else 0):
        parts = [found.pop(f"new.encoder.layer.{layer}.mlp.{part}_proj.weight") for part in ("up", "gate")]
        found[f"new.encoder.layer.{layer}.mlp.up_gate_proj.weight"] = torch.cat(parts)
    return {name.removeprefix("new.") if hf is JINA else name: tensor for name, tensor in found.items()}


def expected(hf: dict[str, Any], w: dict[str, Tensor], ids: list[int], types: list[int]) -> Tensor:
    w = {name.removeprefix("new."): tensor.double() for name, tensor in w.items()}
    n, dim, jina = len(ids), SIZE // HEADS, hf is JINA

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (SIZE,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][types]
    x = norm(x, "embeddings.LayerNorm")
    places = torch.arange(n)
    for index in range(TINY["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        if jina:
            q, k, v = (linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        else:
            q, k, v = linear(x, f"{layer}.attention.qkv_proj").split(SIZE, dim=1)
        q, k, v = (part.view(n, HEADS, dim).transpose(0, 1) for part in (q, k, v))
        if jina:  # slopes of a number of heads that is no power of two: those of 4, and every second one of 8
            slopes = torch.tensor([2.0 ** (-2 * i) for i in range(1, 5)] + [2.0**-1, 2.0**-3]).double()
            bias = -slopes[:, None, None] * (places[:, None] - places).abs()
        else:  # NTK: a larger base, and all of it slower
            bases = (hf["rope_theta"] * 8.0) ** (torch.arange(0, dim, 2).double() / dim)
            angles = torch.outer(places.double(), 1 / bases / 8.0 ** (2 / dim))
            cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
            q, k = (part * cos + torch.cat([-part[..., dim // 2 :], part[..., : dim // 2]], -1) * sin for part in (q, k))
            bias = torch.zeros(1, dtype=torch.float64)
        seen = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(dim) + bias, -1) @ v
        out, after = ("attention.output.dense", "attention.output.LayerNorm") if jina else ("attention.o_proj", "attn_ln")
        x = norm(x + linear(seen.transpose(0, 1).reshape(n, SIZE), f"{layer}.{out}"), f"{layer}.{after}")
        both = linear(x, f"{layer}.mlp.gated_layers" if jina else f"{layer}.mlp.up_gate_proj").split(INNER, dim=1)
        gate, up = both if jina else both[::-1]
        down, after = ("mlp.wo", "mlp.layernorm") if jina else ("mlp.down_proj", "mlp_ln")
        x = norm(x + linear(F.gelu(gate) * up, f"{layer}.{down}"), f"{layer}.{after}")
    return x.float()


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("hf", [NEW, JINA], ids=["new", "jina"])
def test_hidden_states_are_those_of_the_formula(hf: dict[str, Any], backend: str) -> None:
    weights, texts = checkpoint(hf), texts_of(70, 1, 33)
    model = encoder_of(None, backend, hf=hf, weights=weights)
    types = types_of(texts)
    together = hidden_of(model, texts, types)
    for i, got in enumerate(together):
        torch.testing.assert_close(got, expected(hf, weights, texts[i], types[i]), rtol=2e-5, atol=2e-5)
        assert torch.equal(hidden_of(model, [texts[i]], [types[i]])[0], got)


def test_lengths_are_those_that_are_stated() -> None:
    """gte's max_position_embeddings are those after scaling."""
    assert read_spec(NEW).max_length == 160
    assert read_spec(JINA).max_length == 160


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        ({**NEW, "layer_norm_type": "rms_norm"}, "layer_norm_type 'rms_norm'"),
        ({**NEW, "logn_attention_scale": True}, "logn_attention_scale True"),
        ({**NEW, "position_embedding_type": "alibi"}, "position_embedding_type 'alibi' is not supported for new"),
        ({**NEW, "rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "no mixed_b"),
        ({**JINA, "feed_forward_type": "reglu"}, "feed_forward_type 'reglu'"),
    ],
)
def test_what_is_not_supported_is_named(hf: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.build_encoder(read_spec(hf), load_kernels("reference"))
