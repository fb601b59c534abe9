"""Plans: tokenizer, defaults and limits, decided before any weights are read."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infer.core.build import files
from infer.core.build.engines import build_engine, build_pooling_engine
from infer.core.build.plan import Plan, make_plan
from infer.core.errors import ConfigError, ModelError, RecordError
from infer.core.pooling.limits import PoolingLimits
from infer.core.pooling.recipe import Recipe
from infer.core.settings.args import EngineArgs
from infer.core.types.params import SamplingParams


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
        found = files.find(str(tiny_llama))
        seen: list[Any] = []

        def find(name: str, *, revision: str | None, **options: Any) -> Any:
            seen.append((name, revision))
            return found

        monkeypatch.setattr(files, "find", find)
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
        from infer.core.types.request import Request

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
        self.rewrite(model, model_type="helium", vocab_size=None, text_config={"vocab_size": 200})
        assert plan_of(model).limits().vocab_size == 200

    def test_a_config_that_does_not_say(self, model: Path) -> None:
        self.rewrite(model, model_type="helium", vocab_size=None)
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


class TestUse:
    """What the model is run for, and who is told that it cannot be run for that."""

    def test_a_model_that_pools(self, bert_folder: Path) -> None:
        plan = plan_of(bert_folder)
        assert (plan.config.task, plan.config.max_model_len) == ("embed", 48)
        assert plan.recipe == Recipe(
            kind="embed",
            pooling="mean",
            normalize=True,
            hidden_size=32,
            prompts={"query": "query: ", "document": ""},
            matryoshka=(8, 16),
            max_seq_length=48,
        )
        limits = plan.limits()
        assert isinstance(limits, PoolingLimits)
        assert (limits.max_model_len, limits.recipe) == (48, plan.recipe)
        assert limits.vocab_size == plan.spec.vocab_size
        assert plan_of(bert_folder, max_model_len=60).config.max_model_len == 60

    def test_it_is_not_run_to_generate(self, bert_folder: Path, pair_folder: Path, qwen_folder: Path) -> None:
        for folder, words in (
            (bert_folder, r"embeds texts here and does not generate: use infer embed, or another model"),
            (pair_folder, r"classifies texts here and does not generate: use infer classify or infer score, or another model"),
            (qwen_folder, r"embeds texts here and does not generate: use infer embed, or task=generate"),
        ):
            plan = plan_of(folder)
            for call in (partial(build_engine, plan), plan.sampling_defaults, plan.chat_template):
                with pytest.raises(ConfigError, match=words):
                    call()

    def test_a_model_that_generates_does_not_pool(self, tiny_llama: Path) -> None:
        plan = plan_of(tiny_llama)
        assert (plan.config.task, plan.recipe) == ("generate", None)
        for call in (partial(build_pooling_engine, plan), plan.must_pool):
            with pytest.raises(ConfigError, match="is run to generate text: set task=embed to make embeddings with it"):
                call()

    def test_asked_for(self, tiny_llama: Path, qwen_folder: Path) -> None:
        plan = plan_of(tiny_llama, task="embed", pooler_config={"normalize": False})
        assert plan.recipe == Recipe(kind="embed", pooling="last", normalize=False, hidden_size=64)
        assert plan_of(qwen_folder, task="generate").recipe is None

    def test_scores(self, pair_folder: Path, labels_folder: Path, bert_folder: Path) -> None:
        recipe = plan_of(pair_folder, task="score").recipe
        assert recipe is not None
        assert (recipe.kind, recipe.labels, recipe.activation) == ("classify", ("LABEL_0",), "sigmoid")
        assert plan_of(pair_folder).config.max_model_len == 64  # its position table has 66 rows, the first two are not used
        embedding = plan_of(bert_folder, task="score").recipe
        assert embedding is not None
        assert embedding.kind == "embed"
        with pytest.raises(ModelError, match="has 3 labels, and a score is of one: use infer classify"):
            plan_of(labels_folder, task="score")
        labels = plan_of(labels_folder).recipe
        assert labels is not None
        assert labels.labels == ("bad", "fair", "good")

    def test_what_cannot_be_done_is_told_before_the_tokenizer_is_read(self, bert_folder: Path, pair_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="use infer embed or task=embed"):
            plan_of(bert_folder, task="generate")
        with pytest.raises(ModelError, match="use infer classify or infer score"):
            plan_of(pair_folder, task="embed")
        model = shutil.copytree(bert_folder, tmp_path / "model")
        (model / "modules.json").write_text("[")
        (model / "tokenizer.json").write_text("[")
        with pytest.raises(ModelError, match=r"modules\.json is not valid JSON"):
            plan_of(model)

    def test_overrides_of_the_config_count(self, bert_folder: Path) -> None:
        recipe = plan_of(bert_folder, hf_overrides={"matryoshka_dimensions": [4]}, pooler_config={"dimensions": 4}).recipe
        assert recipe is not None
        assert recipe.output_size == 4
