"""The tensors that a spec names are those that its model asks for: `infer check` and the run refuse the same checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infer.core import models
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.layers.classifier import Classifier
from infer.core.settings.args import EngineArgs
from infer.core.spec.decoder import SCORE
from infer.core.spec.read import read_spec
from infer.core.spec.tensors import tensors
from infer.kernels import load as load_kernels

from ..models.test_architectures import ARCHITECTURES, reference_model
from ..models.test_encoders import OPTIONS, PLAIN
from ..models.texts import oracle_of


def asked_by(parameters: Any) -> dict[str, tuple[int, ...]]:
    return {part.name: part.shape for parameter in parameters for part in parameter.parts}


@pytest.mark.parametrize(("kind", "changes"), ARCHITECTURES, ids=str)
def test_of_decoders(kind: str, changes: dict[str, Any]) -> None:
    spec, ops = read_spec(reference_model(kind, changes).config.to_dict()), load_kernels("reference")
    stack, model = spec.need_stack(), models.build(spec, ops)
    assert tensors(stack, head=True) | tensors(stack, head=False) == asked_by(model.parameters())
    labelled = Classifier(ops, stack.output_size, 3, SCORE, stack.norm)
    assert tensors(stack, head=False, classifier=SCORE, labels=3) == asked_by([*model.body_parameters(), *labelled.parameters()])


@pytest.mark.parametrize(("kind", "changes"), [*PLAIN, *OPTIONS], ids=str)
@pytest.mark.parametrize("labels", [0, 3])
def test_of_encoders(kind: str, changes: dict[str, Any], labels: int) -> None:
    spec = read_spec(oracle_of(kind, changes).config.to_dict())
    stack = spec.need_stack()
    if labels and stack.classifier is None:
        with pytest.raises(ModelError, match=r"classifier .* is not supported"):
            models.build_encoder(spec, load_kernels("reference"), labels=labels)
        return
    model = models.build_encoder(spec, load_kernels("reference"), labels=labels)
    classifier = stack.classifier if labels else None
    assert tensors(stack, head=False, classifier=classifier, labels=labels) == asked_by(model.parameters())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"hidden_size": 32}, "has shape"),
        ({"intermediate_size": 120}, r"gate_proj.weight has shape \(128, 64\), config.json makes it \(120, 64\)"),
        ({"num_key_value_heads": 4}, r"k_proj.weight has shape \(32, 64\), config.json makes it \(64, 64\)"),
        ({"head_dim": 32}, "q_proj.weight has shape"),
        ({"num_hidden_layers": 1}, "unexpected: model.layers.1"),
        ({"num_hidden_layers": 3}, "missing: model.layers.2"),
        ({"attention_bias": True}, "missing: model.layers.0.self_attn.q_proj.bias"),
        ({"model_type": "qwen3"}, "missing: .*q_norm"),
        ({"vocab_size": 250}, r"embed_tokens.weight has shape"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_the_plan(tiny_llama: Path, tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "head_dim": None, **edit}))
    with pytest.raises(ModelError, match=rf"do not fit its config.json: .*{message}"):
        make_plan(EngineArgs.from_kwargs(model=str(tmp_path), device="cpu"), compile_kernels=False)


def test_layers_that_an_override_leaves_out_may_stay(tiny_llama: Path) -> None:
    plan = make_plan(
        EngineArgs.from_kwargs(model=str(tiny_llama), device="cpu", hf_overrides={"num_hidden_layers": 1}), compile_kernels=False
    )
    assert len(plan.spec.need_stack().layers) == 1


def test_a_tie_with_both_weights_is_none(tiny_llama: Path, tmp_path: Path) -> None:
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    args = EngineArgs.from_kwargs(model=str(tmp_path), device="cpu")
    make_plan(args, compile_kernels=False)
    weights = load_file(tiny_llama / "model.safetensors")
    weights["lm_head.weight"] = torch.zeros(3, 3)
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lm_head.weight has shape \(3, 3\)"):
        make_plan(args, compile_kernels=False)
