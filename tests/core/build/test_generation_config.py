"""Defaults from generation_config.json: which values count, which win, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.generation_config import FIELDS, sampling_defaults
from infer.core.errors import ConfigError, InferError, ModelError
from infer.core.types.params import SamplingParams

QWEN = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.1,
    "eos_token_id": [1, 2],
    "pad_token_id": 1,
}


def model(config: dict[str, Any] | None) -> Callable[[str], dict[str, Any] | None]:
    """A model with this generation_config.json and no other file."""
    return lambda name: config if name == "generation_config.json" else None


@pytest.mark.parametrize(
    ("config", "override", "values"),
    [
        (None, None, {}),
        ({}, None, {}),
        (QWEN, None, {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}),
        (QWEN, {"temperature": 0.2}, {"temperature": 0.2, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}),
        (QWEN, {"temperature": 1.0}, {"top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}),
        (QWEN, {"top_p": None}, {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1}),
        (None, {"temperature": 0.2}, {"temperature": 0.2}),
        (
            {"presence_penalty": 1, "frequency_penalty": -1, "min_p": 0.1},
            {},
            {"presence_penalty": 1, "frequency_penalty": -1, "min_p": 0.1},
        ),
        ({"max_new_tokens": 100}, None, {"max_tokens": 100}),
        ({"max_new_tokens": 100}, {"max_new_tokens": 7}, {"max_tokens": 7}),
        ({"max_length": 20, "num_beams": 4}, None, {}),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "min_p": None}, None, {}),
        ({"top_k": 50.0}, None, {"top_k": 50}),
        ({"do_sample": False}, None, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.6}, None, {"temperature": 0.0}),
        ({"do_sample": False}, {"temperature": 0.6}, {"temperature": 0.6}),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": True}, {"temperature": 0.6}),
        ({"temperature": 0.6}, {"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": None, "temperature": 0.6}, None, {"temperature": 0.6}),
    ],
)
def test_which_values_count(config: dict[str, Any] | None, override: dict[str, Any] | None, values: dict[str, Any]) -> None:
    got, told = sampling_defaults(model(config), override=override)
    assert got == values
    assert bool(told) == bool(values)
    for name, value in values.items():
        assert f"{name} {value}" in told
    assert SamplingParams(**got).validate() is None


def test_every_field_is_a_sampling_parameter() -> None:
    assert set(FIELDS.values()) <= SamplingParams.field_names()


@pytest.mark.parametrize("source", ["none", "vllm"])
def test_without_the_file(source: str) -> None:
    assert sampling_defaults(model(QWEN), source=source) == ({}, "")
    values, told = sampling_defaults(model(QWEN), source=source, override={"top_k": 3})
    assert values == {"top_k": 3}
    assert told == "sampling defaults of override_generation_config: top_k 3"


def test_another_folder(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"top_p": 0.5}))
    values, told = sampling_defaults(model(QWEN), source=str(tmp_path))
    assert values == {"top_p": 0.5}
    assert str(tmp_path) in told


def test_the_sentence_names_both_places() -> None:
    _, told = sampling_defaults(model({"top_p": 0.5}), override={"top_k": 3})
    assert told.startswith("sampling defaults of the model's generation_config.json and override_generation_config: top_k 3, top_p 0.5")


@pytest.mark.parametrize(
    ("config", "more", "error", "message"),
    [
        ({"top_p": 2}, {}, ModelError, r"generation_config.json: top_p must be above 0 and at most 1, not 2 \(generation_config=none"),
        ({"temperature": "hot"}, {}, ModelError, "temperature must be a number"),
        ({"do_sample": "no"}, {}, ModelError, "do_sample must be true or false"),
        ({"max_new_tokens": 0}, {}, ModelError, "max_tokens must be at least 1"),
        ({}, {"override": {"top_p": 2}}, ConfigError, "override_generation_config: top_p must be above 0"),
        ({}, {"override": {"do_sample": 1}}, ConfigError, "override_generation_config: do_sample must be true or false"),
        ({}, {"override": {"temprature": 1}}, ConfigError, "'temprature' has no effect; did you mean 'temperature'"),
        ({}, {"source": "/nowhere"}, ConfigError, "generation_config=/nowhere: .*cannot be read"),
    ],
)
def test_what_is_wrong(config: dict[str, Any], more: dict[str, Any], error: type[InferError], message: str) -> None:
    with pytest.raises(error, match=message):
        sampling_defaults(model(config), **more)


def test_a_folder_with_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": ')
    with pytest.raises(ModelError, match="not valid JSON"):
        sampling_defaults(model(None), source=str(tmp_path))
