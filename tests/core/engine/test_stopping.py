"""Which tokens end an output, by what the model's files say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infer.core.args import EngineArgs
from infer.core.engine.engine import _end_tokens
from infer.core.engine.stopping import EndTokens
from infer.core.errors import ConfigError
from infer.core.params import SamplingParams


def ends(generation: Any, config: Any, tokenizer: int | None, setting: str = "auto") -> EndTokens:
    files = {
        "generation_config.json": None if generation is None else {"eos_token_id": generation},
        "config.json": {"eos_token_id": config},
    }
    hf = {"model_type": "llama", "max_position_embeddings": 64}
    args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", generation_config=setting).resolve(hf)
    source: Any = SimpleNamespace(read_json=files.get)
    named: Any = None if tokenizer is None else SimpleNamespace(eos_token_id=tokenizer)
    return _end_tokens(args, source, named)


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "primary", "extra"),
    [
        (None, None, None, None, set()),
        (None, 5, None, 5, set()),
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
