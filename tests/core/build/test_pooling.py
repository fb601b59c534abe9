"""Pooling models made of a folder: dtypes, quantization, dummy weights, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from infer.core.build import pooling as loading
from infer.core.build.pooling import load_pooling_model
from infer.core.errors import ConfigError, ModelError
from infer.core.layers.classifier import Classifier
from infer.core.layers.linear import Linear
from infer.core.models.encoder import Encoder
from infer.core.quant.int8 import Int8
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.weights.folder import FolderSource
from infer.kernels import load as load_kernels
from infer.kernels import usable

from ..models.texts import EMBED, classify, expected_of, hidden_of, loaded, oracle_of, texts_of, with_config, with_int8


def test_an_encoder_of_nobody_s_is_named(tmp_path: Path) -> None:
    oracle_of("mobilebert").save_pretrained(tmp_path)
    with pytest.raises(
        ModelError,
        match=r"model_type 'mobilebert' \(MobileBertModel\) reads texts in both directions, which is not.*to embed: albert",
    ):
        loaded(tmp_path)


@pytest.mark.parametrize("backend", usable("cpu"))
def test_encoders_load_from_a_folder(backend: str, tmp_path: Path) -> None:
    oracle = oracle_of("bert", {"num_labels": 2}, transformers.AutoModelForSequenceClassification)
    oracle.save_pretrained(tmp_path)
    texts = texts_of(70, 20)
    expected = torch.cat(expected_of(oracle.bert, texts))
    model = loaded(tmp_path, backend)
    assert isinstance(model, Encoder)
    assert model.classifier is None
    torch.testing.assert_close(torch.cat(hidden_of(model, texts)), expected, rtol=1e-5, atol=1e-5)

    half = loaded(tmp_path, with_int8(backend), classify("no", "yes", pooling="cls"), dtype="bfloat16", quantization="int8")
    assert {type(layer.method) for layer in half.linears()} == {Int8}
    hidden = torch.cat(hidden_of(half, texts))
    assert hidden.dtype == torch.bfloat16
    assert 0 < (hidden.float() - expected).norm() / expected.norm() < 0.1
    assert half.classifier is not None
    with torch.inference_mode():
        scores = half.classifier(expected[:3].clone())
        pooled = torch.tanh(oracle.bert.pooler.dense(expected[:3]))
        torch.testing.assert_close(scores, oracle.classifier(pooled), rtol=1e-5, atol=1e-5)

    dummy = loaded(tmp_path, backend, load_format="dummy")
    random = torch.cat(hidden_of(dummy, texts))
    assert random.isfinite().all()
    assert not torch.allclose(random, expected)
    assert torch.equal(random, torch.cat(hidden_of(loaded(tmp_path, backend, load_format="dummy"), texts)))


def test_settings_an_encoder_cannot_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle_of("roberta", {"pad_token_id": 1}).save_pretrained(tmp_path)
    loaded(tmp_path, max_model_len=158)
    monkeypatch.setenv("INFER_ALLOW_LONG_MAX_MODEL_LEN", "1")
    with pytest.raises(ConfigError, match="has only 158 learned positions"):
        loaded(tmp_path, max_model_len=159)
    with pytest.raises(ConfigError, match="model_impl=transformers"):
        loaded(tmp_path, model_impl="transformers")


def test_what_lacks_is_told_by_name(tmp_path: Path) -> None:
    oracle_of("roberta").save_pretrained(tmp_path)
    with_config(tmp_path, architectures=["RobertaForSequenceClassification"])
    with pytest.raises(ModelError, match=r"missing: classifier\.dense\.weight, .*classifier\.out_proj"):
        loaded(tmp_path, recipe=classify("a", "b"))
    config = EngineArgs.from_kwargs(model=str(tmp_path), device="cpu", dtype="float32", kernels="reference").resolve(read_spec({}))
    (tmp_path / "config.json").unlink()
    source = FolderSource("tiny", tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_pooling_model(config, source, load_kernels("reference"), EMBED, torch.float32, torch.device("cpu"))


def test_a_classifier_whose_rows_are_not_alike_goes_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle_of("bert", {"num_labels": 2}, transformers.AutoModelForSequenceClassification).save_pretrained(tmp_path)
    tried: list[tuple[int, int]] = []

    def alike(layer: Linear, dtype: torch.dtype, device: torch.device) -> bool:
        assert dtype == torch.float32
        tried.append((layer.in_features, layer.out_features))
        return layer.out_features != 2

    monkeypatch.setattr(loading, "rows_are_alike", alike)
    head = loaded(tmp_path, recipe=classify("a", "b", pooling="cls"), dtype="bfloat16").classifier
    assert isinstance(head, Classifier)
    assert head.one_by_one
    assert tried == [(48, 48), (48, 2)]
