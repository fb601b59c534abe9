"""What is decided before any weights are read: tokenizer, defaults, limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infer.core.args import EngineArgs
from infer.core.errors import ConfigError, ModelError, RecordError
from infer.core.jobs import build
from infer.core.jobs.build import Plan, make_plan
from infer.core.params import SamplingParams


def plan_of(model: Path, **more: Any) -> Plan:
    return make_plan(EngineArgs(model=str(model), device="cpu", dtype="float32", **more), compile_kernels=False)


class TestWhichTokenizer:
    @pytest.mark.parametrize(
        ("more", "asked"),
        [
            ({}, []),
            ({"revision": "v1"}, []),
            ({"tokenizer_revision": "v2"}, [("model", "v2")]),
            ({"revision": "v1", "tokenizer_revision": "v1"}, []),
            ({"revision": "v1", "tokenizer_revision": "v2"}, [("model", "v2")]),
            ({"tokenizer": "other"}, [("other", None)]),
            ({"tokenizer": "other", "tokenizer_revision": "v2"}, [("other", "v2")]),
            ({"tokenizer": "model"}, []),
        ],
        ids=str,
    )
    def test_it_is_looked_for_where_the_settings_say(
        self, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str], asked: list[Any]
    ) -> None:
        found = build.find(str(tiny_llama))
        seen: list[Any] = []

        def find(name: str, *, revision: str | None, **options: Any) -> Any:
            seen.append((name, revision))
            return found

        monkeypatch.setattr(build, "find", find)
        make_plan(EngineArgs(model="model", device="cpu", dtype="float32", **more), found, compile_kernels=False)  # type: ignore[arg-type]
        assert seen == asked


class TestWithoutTokenizer:
    def test_the_plan_has_none(self, tiny_llama: Path) -> None:
        plan = plan_of(tiny_llama, skip_tokenizer_init=True)
        assert plan.tokenizer is None
        assert plan.limits().vocab_size == plan_of(tiny_llama).limits().vocab_size
        with pytest.raises(ConfigError, match="a conversation needs a tokenizer"):
            plan.chat_template()

    def test_the_limits_refuse_what_needs_text(self, tiny_llama: Path) -> None:
        from infer.core.engine.request import Request

        request = Request("0", [70], SamplingParams(stop=("x",)), 0)
        plan_of(tiny_llama).limits().check(request)
        with pytest.raises(RecordError, match="stop needs a tokenizer"):
            plan_of(tiny_llama, skip_tokenizer_init=True).limits().check(request)


class TestVocabulary:
    @pytest.fixture
    def model(self, tiny_llama: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_llama, tmp_path / "model")

    def rewrite(self, model: Path, **changes: Any) -> None:
        config = json.loads((model / "config.json").read_text()) | changes
        (model / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    def test_a_model_of_several_towers(self, model: Path) -> None:
        self.rewrite(model, vocab_size=None, text_config={"vocab_size": 1000})
        assert plan_of(model).limits().vocab_size == 1000

    def test_a_config_that_does_not_say(self, model: Path) -> None:
        self.rewrite(model, vocab_size=None)
        assert plan_of(model).limits().vocab_size == 259
        with pytest.raises(ModelError, match="does not say how large the vocabulary is"):
            plan_of(model, skip_tokenizer_init=True).limits()


def test_sampling_defaults(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.5, "top_k": 7}')
    plan = plan_of(tiny_llama, generation_config=str(tmp_path), override_generation_config={"top_k": 9})
    values, sentence = plan.sampling_defaults()
    assert values == {"top_p": 0.5, "top_k": 9}
    assert "top_p 0.5" in sentence
    assert plan_of(tiny_llama, generation_config="none").sampling_defaults() == ({}, "")
