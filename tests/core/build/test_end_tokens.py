"""End tokens of an output, by the model's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infer.core.build.end_tokens import end_tokens_of
from infer.core.engine.stopping import EndTokens
from infer.core.errors import ConfigError, ModelError
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.types.params import SamplingParams
from infer.core.weights.source import ModelSource, TensorInfo


@dataclass(frozen=True)
class Files(ModelSource):
    """A model of small files alone."""

    found: dict[str, Any]

    def read(self, filename: str) -> bytes | None:
        return json.dumps(self.found[filename]).encode() if filename in self.found else None

    def tensors(self) -> dict[str, TensorInfo]:
        return {}

    def stream(self, cuts: object = None) -> Iterator[Any]:
        yield from ()


def ends(generation: Any, config: Any, tokenizer: int | None, setting: str = "auto", **overrides: Any) -> EndTokens:
    """`...` is no such file, or no such key in config.json."""
    hf = {"model_type": "llama", "max_position_embeddings": 64} | ({} if config is ... else {"eos_token_id": config})
    files = {"config.json": hf} | ({} if generation is ... else {"generation_config.json": {"eos_token_id": generation}})
    given = {"generation_config": setting, "hf_overrides": overrides}
    args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", **given).resolve(read_spec(hf))
    source = Files("fake", Path("fake"), files)
    named: Any = None if tokenizer is None else SimpleNamespace(eos_token_id=tokenizer)
    return end_tokens_of(args, source, named)


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "primary", "extra"),
    [
        (..., None, None, None, set()),
        (None, 5, None, 5, set()),
        (..., 5, None, 5, set()),
        ([5, 6], 7, 5, 5, {6, 7}),
        (5, 5, 9, 9, {5}),
        ([5, 6], None, None, 5, {6}),
    ],
)
def test_the_tokenizers_is_the_primary_one(
    generation: Any, config: Any, tokenizer: int | None, primary: int | None, extra: set[int]
) -> None:
    for setting in ("auto", "none"):
        assert ends(generation, config, tokenizer, setting) == EndTokens(primary, frozenset(extra))


def test_the_default_of_a_kind_of_model_counts_where_no_file_says() -> None:
    """As transformers' config classes have it: 2 for a llama."""
    assert ends(..., ..., 9) == EndTokens(9, frozenset({2}))
    assert ends(..., ..., None) == EndTokens(2, frozenset())
    assert ends(..., None, 9) == EndTokens(9, frozenset())
    assert ends(7, ..., 9) == EndTokens(9, frozenset({7}))
    assert ends(..., ..., 9, model_type="qwen2") == EndTokens(9, frozenset())


def test_overrides_of_config_json_count() -> None:
    assert ends(..., 5, None, eos_token_id=7) == EndTokens(7, frozenset())
    assert ends(6, 5, 9, eos_token_id=[7, 8]) == EndTokens(9, frozenset({6, 7, 8}))
    assert ends(..., 5, 9, eos_token_id=None) == EndTokens(9, frozenset())


@pytest.mark.parametrize("wrong", ["2", 2.0, True, [2, "3"], {"a": 1}, -5, 2**40])
def test_what_is_no_token_is_refused_by_its_file_and_key(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"fake/generation_config\.json: eos_token_id is .*; it must be a token id"):
        ends(wrong, 5, 9)
    with pytest.raises(ModelError, match=r"eos_token_id is .*; it must be a token id"):
        ends(..., wrong, 9)


def test_another_folders_generation_config(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8]}))
    assert ends([5, 6], 7, 7, str(tmp_path)) == EndTokens(7, frozenset({8}))
    with pytest.raises(ConfigError, match="generation_config"):
        ends(5, 7, 7, str(tmp_path / "nowhere"))


def test_what_may_end_a_record() -> None:
    model = EndTokens(1, frozenset({2}))
    assert model.of(SamplingParams()) == {1, 2}
    assert model.of(SamplingParams(stop_token_ids=(2, 9))) == {1, 2, 9}
    assert model.of(SamplingParams(stop_token_ids=(2, 9), ignore_eos=True)) == {2, 9}
    assert model.of(SamplingParams(ignore_eos=True)) == frozenset()
