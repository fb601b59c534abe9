"""Which speculation the settings ask for."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ConfigError
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec

CONFIG = {"method": "ngram", "num_speculative_tokens": 3}


def resolved(**given: Any) -> EngineConfig:
    args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", **given)
    return args.resolve(read_spec({"model_type": "llama", "max_position_embeddings": 64}))


@pytest.mark.parametrize(
    ("given", "way", "number"),
    [
        ({}, "auto", None),
        ({"num_speculative_tokens": 2}, "auto", 2),
        ({"speculation": "off"}, "off", None),
        ({"speculative_config": CONFIG}, "ngram", 3),
        ({"speculative_config": {**CONFIG, "method": "suffix"}, "speculation": "ngram"}, "ngram", 3),
        ({"speculative_model": "other"}, "draft", None),
        ({"speculative_config": {"method": "draft_model", "model": "other"}}, "draft", None),
        ({"tensor_parallel_size": 2}, "off", None),
        ({"model_impl": "transformers"}, "off", None),
    ],
)
def test_way(given: dict[str, Any], way: str, number: int | None) -> None:
    config = resolved(**given)
    assert (config.speculation, config.num_speculative_tokens) == (way, number)
    assert not any("speculati" in str(note) for note in config.notes)


@pytest.mark.parametrize(
    "given",
    [
        {"speculation": "off", "num_speculative_tokens": 2},
        {"speculation": "off", "speculative_model": "other"},
        {"speculation": "ngram", "speculative_model": "other"},
        {"tensor_parallel_size": 2, "num_speculative_tokens": 2},
    ],
)
def test_what_has_no_effect_is_said(given: dict[str, Any]) -> None:
    assert any("has no effect" in str(note) for note in resolved(**given).notes)


@pytest.mark.parametrize(
    "given",
    [
        {"speculation": "off", "speculative_config": CONFIG},
        {"speculation": "draft", "speculative_config": CONFIG},
        {"speculation": "draft"},
        {"speculative_config": CONFIG, "num_speculative_tokens": 4},
        {"speculative_model": "other", "speculative_config": {"method": "draft_model", "model": "another"}},
        {"speculative_model": "other", "tensor_parallel_size": 2},
    ],
)
def test_contradictions(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="specul"):
        resolved(**given)
