"""Language models as embedders and classifiers, against transformers in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from infer.core.errors import ModelError
from infer.core.models.flat_decoder import FlatDecoder
from infer.kernels import usable

from .test_architectures import GEMMA4
from .texts import classify, expected_of, hidden_of, loaded, oracle_of, renamed, texts_of, with_config, with_int8

GROUPED = {"num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.1}
DECODERS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("mistral", {"sliding_window": 12}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    ("lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False}),
    (  # heads of one size in all layers: those that others read must not share their pages
        "gemma4_text",
        {
            **GEMMA4,
            "global_head_dim": 16,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
        },
    ),
]


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), DECODERS, ids=lambda v: v if isinstance(v, str) else "")
def test_hidden_states_equal_transformers(kind: str, changes: dict[str, Any], backend: str, tmp_path: Path) -> None:
    oracle = oracle_of(kind, changes, transformers.AutoModelForCausalLM, **GROUPED)
    oracle.save_pretrained(tmp_path)
    model = loaded(tmp_path, backend)
    assert isinstance(model, FlatDecoder)
    assert model.classifier is None
    assert (model.vocab_size, model.hidden_size, model.num_token_types) == (160, 48, 0)
    for lengths in ((5, 1), (70, 1, 33, 128, 16), (16,), (3, 90)):  # the pages grow, and are used again
        texts = texts_of(*lengths)
        got = hidden_of(model, texts)
        for one, expected in zip(got, expected_of(oracle.model, texts), strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=5e-5)
        rows = torch.tensor(lengths).cumsum(0) - 1
        assert torch.equal(hidden_of(model, texts, rows=rows.tolist())[0], torch.cat(got)[rows])


@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("backend", usable("cpu"))
def test_neighbours_and_old_pages_do_not_change_a_bit(backend: str, int8: bool, tmp_path: Path) -> None:
    oracle_of("qwen3", {"head_dim": 16}, transformers.AutoModelForCausalLM, **GROUPED).save_pretrained(tmp_path)
    backend = with_int8(backend) if int8 else backend
    model = loaded(tmp_path, backend, dtype="bfloat16", quantization="int8" if int8 else None)
    assert isinstance(model, FlatDecoder)
    texts = texts_of(70, 1, 33, 100, 16)
    alone = [hidden_of(model, [text])[0] for text in texts]
    hidden_of(model, texts_of(128, 128, 128))
    ((_, cache),) = model._caches.values()
    with torch.inference_mode():
        for part in cache:
            part[1:] = float("nan")  # what a step before left must never be read into a result
    assert all(torch.equal(a, b) for a, b in zip(hidden_of(model, texts), alone, strict=True))


def test_one_cache_serves_all_layers_and_the_head_is_not_loaded(tmp_path: Path) -> None:
    oracle_of("llama", {}, transformers.AutoModelForCausalLM, **GROUPED).save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert isinstance(model, FlatDecoder)
    hidden_of(model, texts_of(40, 20))
    assert [blocks for blocks, _ in model._caches.values()] == [1 + 3 + 2]
    assert not {"lm_head.weight"} & {part.name for parameter in model.parameters() for part in parameter.parts}
    renamed(tmp_path, lambda name: None if name == "lm_head.weight" else name)
    texts = texts_of(20)
    assert torch.equal(hidden_of(loaded(tmp_path), texts)[0], hidden_of(model, texts)[0])


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_scores_equal_transformers(kind: str, backend: str, tmp_path: Path) -> None:
    oracle = oracle_of(kind, {"num_labels": 3}, transformers.AutoModelForSequenceClassification, **GROUPED)
    oracle.save_pretrained(tmp_path)
    model = loaded(tmp_path, backend, classify("a", "b", "c"))
    texts = texts_of(30, 1, 60)
    pooled = torch.stack([one[-1] for one in hidden_of(model, texts)])
    assert model.classifier is not None
    with torch.inference_mode():
        expected = torch.cat([oracle(input_ids=torch.tensor([text])).logits for text in texts])
        torch.testing.assert_close(model.classifier(pooled), expected, rtol=1e-5, atol=1e-5)


def test_the_base_model_alone_has_no_prefix(tmp_path: Path) -> None:
    oracle = oracle_of("qwen3", {"head_dim": 16}, transformers.AutoModelForCausalLM, **GROUPED)
    oracle.save_pretrained(tmp_path)
    texts = texts_of(20, 40)
    expected = torch.cat(hidden_of(loaded(tmp_path), texts))
    renamed(tmp_path, lambda name: name.removeprefix("model.") if name != "lm_head.weight" else None)
    assert "layers.0.mlp.up_proj.weight" in load_file(tmp_path / "model.safetensors")
    assert torch.equal(torch.cat(hidden_of(loaded(tmp_path), texts)), expected)


def test_a_model_without_a_file_runs_through_transformers(tmp_path: Path) -> None:
    oracle = oracle_of("helium", {"head_dim": 8}, transformers.AutoModelForCausalLM, **GROUPED)
    oracle.save_pretrained(tmp_path)
    for backend in usable("cpu"):
        model = loaded(tmp_path, backend)
        assert isinstance(model, FlatDecoder)
        assert list(model.parameters()) == []
        texts = texts_of(70, 1, 33)
        for got, expected in zip(hidden_of(model, texts), expected_of(oracle.model, texts), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(hidden_of(model, texts, rows=[69, 70, 103])[0], torch.cat(hidden_of(model, texts))[[69, 70, 103]])
    with_config(tmp_path, architectures=["HeliumForSequenceClassification"])
    with pytest.raises(
        ModelError,
        match=r"model_type 'helium' \(HeliumForSequenceClassification\) is a classifier .*; supported to classify: albert, apertus",
    ):
        loaded(tmp_path, recipe=classify("a"))


@pytest.mark.parametrize("change", [{"is_causal": False}, {"use_bidirectional_attention": True}, {"use_bidirectional_attention": "all"}])
def test_decoders_that_look_ahead_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    oracle_of("llama", {}, transformers.AutoModelForCausalLM, **GROUPED).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"looks ahead \(config.json: {next(iter(change))}"):
        loaded(with_config(tmp_path, **change))
    loaded(with_config(tmp_path, is_causal=True, use_bidirectional_attention=False))
