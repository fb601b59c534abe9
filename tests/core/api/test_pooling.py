"""`LLM` with models that pool: vectors and scores against transformers in float32, and the names and rules of vLLM's calls."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infer.core import (
    LLM,
    ClassificationOutput,
    ClassificationRequestOutput,
    ConfigError,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingParams,
    PoolingRequestOutput,
    RecordError,
    ScoringOutput,
    ScoringRequestOutput,
)

TEXTS = ["the cat sits on a mat", "hello", "stock prices fell : dog runs the world", ""]
CLOSE = {"rtol": 0, "atol": 1e-5}


def made(folder: Path, **more: Any) -> LLM:
    return LLM(str(folder), dtype="float32", device="cpu", **more)


@pytest.fixture(scope="module")
def bert(bert_folder: Path) -> LLM:
    return made(bert_folder)


@pytest.fixture(scope="module")
def pairs(pair_folder: Path) -> LLM:
    return made(pair_folder)


def test_a_text_that_spells_the_beginning_is_told_of_once(bert: LLM, caplog: pytest.LogCaptureFixture) -> None:
    bert.embed(["[CLS] the cat", "[CLS] the dog"], use_tqdm=False)
    assert [record.levelname for record in caplog.records if "a prompt begins with [CLS]" in record.getMessage()] == ["WARNING"]


@pytest.fixture(scope="module")
def labels(labels_folder: Path) -> LLM:
    return made(labels_folder)


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> LLM:
    return made(qwen_folder)


@pytest.fixture(scope="module")
def states(bert_folder: Path, qwen_folder: Path) -> Callable[..., Tensor]:
    """states("bert", text): the hidden states of one text by itself, by transformers, [tokens, hidden size]."""
    from transformers import AutoModel, AutoTokenizer

    folders = {"bert": bert_folder, "qwen": qwen_folder}
    models = {name: AutoModel.from_pretrained(folder, dtype=torch.float32).eval() for name, folder in folders.items()}
    tokenizers = {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}

    def compute(name: str, text: str | list[int]) -> Tensor:
        ids = tokenizers[name](text)["input_ids"] if isinstance(text, str) else text
        with torch.inference_mode():
            found: Tensor = models[name](input_ids=torch.tensor([ids])).last_hidden_state[0]
        return found

    return compute


@pytest.fixture(scope="module")
def logits(labels_folder: Path) -> Tensor:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(labels_folder).eval(),
        AutoTokenizer.from_pretrained(labels_folder),
    )
    with torch.inference_mode():  # from_pretrained has put it in eval mode
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


@pytest.fixture(scope="module")
def cross(pair_folder: Path) -> Callable[[str, str], Tensor]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(pair_folder).eval(),
        AutoTokenizer.from_pretrained(pair_folder),
    )

    def compute(one: str, other: str) -> Tensor:
        with torch.inference_mode():
            ids = torch.tensor([tokenizer(one, other)["input_ids"]])
            found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0]
        return found

    return compute


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> LLM:
    return made(tiny_llama, num_gpu_blocks_override=8, max_model_len=64)


def unit(vector: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vector, dim=-1)


def vectors(outputs: list[EmbeddingRequestOutput]) -> Tensor:
    return torch.tensor([output.outputs.embedding for output in outputs])


class TestEmbed:
    def test_an_encoder(self, bert: LLM, states: Callable[..., Tensor]) -> None:
        outputs = bert.embed(TEXTS, use_tqdm=False)
        expected = torch.stack([unit(states("bert", text).mean(0)) for text in TEXTS])
        torch.testing.assert_close(vectors(outputs), expected, **CLOSE)
        assert [output.request_id for output in outputs] == [str(int(outputs[0].request_id) + i) for i in range(4)]
        assert outputs[1].prompt_token_ids == [2, 16, 3]
        assert outputs[3].prompt_token_ids == [2, 3]

    def test_a_decoder_with_its_own_prompt(self, qwen: LLM, states: Callable[..., Tensor]) -> None:
        expected = torch.stack([unit(states("qwen", "Q:" + text)[-1]) for text in TEXTS])
        torch.testing.assert_close(vectors(qwen.embed(TEXTS, use_tqdm=False)), expected, **CLOSE)
        expected = torch.stack([unit(states("qwen", text)[-1]) for text in TEXTS])
        torch.testing.assert_close(vectors(qwen.embed(TEXTS, use_tqdm=False, prefix="")), expected, **CLOSE)

    def test_a_decoder_that_is_no_embedder(self, tiny_llama: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        model, tokenizer = AutoModel.from_pretrained(tiny_llama).eval(), AutoTokenizer.from_pretrained(tiny_llama)
        with torch.inference_mode():
            state = model(**tokenizer("hello", return_tensors="pt")).last_hidden_state[0]
        for settings, expected in (
            ({"task": "embed"}, unit(state[-1])),
            ({"runner": "pooling", "pooler_config": {"pooling_type": "MEAN", "normalize": False}}, state.mean(0)),
            ({"convert": "embed", "pooler_config": {"pooling_type": "CLS"}}, unit(state[0])),
        ):
            (output,) = made(tiny_llama, **settings).embed("hello", use_tqdm=False)
            torch.testing.assert_close(torch.tensor(output.outputs.embedding), expected, **CLOSE)

    def test_a_models_prompts(self, bert: LLM, states: Callable[..., Tensor]) -> None:
        expected = unit(states("bert", "query: hello").mean(0))
        for how in ({"prompt_name": "query"}, {"prefix": "query: "}):
            (output,) = bert.embed("hello", use_tqdm=False, **how)  # type: ignore[arg-type]
            torch.testing.assert_close(torch.tensor(output.outputs.embedding), expected, **CLOSE)
        with pytest.raises(ConfigError, match=r"no prompt 'quary'; did you mean 'query'\?; its prompts: query, document"):
            bert.embed("hello", prompt_name="quary")
        with pytest.raises(ConfigError, match="leave one of the two out"):
            bert.embed("hello", prompt_name="query", prefix="x")

    def test_dimensions(self, bert: LLM, states: Callable[..., Tensor]) -> None:
        whole = states("bert", "hello").mean(0)
        params = [PoolingParams(dimensions=8), PoolingParams(dimensions=16, use_activation=False), PoolingParams(use_activation=False)]
        outputs = bert.embed(["hello"] * 3, pooling_params=params, use_tqdm=False)
        for output, expected in zip(outputs, (unit(whole[:8]), whole[:16], whole), strict=True):
            torch.testing.assert_close(torch.tensor(output.outputs.embedding), expected, **CLOSE)
        with pytest.raises(RecordError, match="dimensions 12"):
            bert.embed("hello", pooling_params=PoolingParams(dimensions=12), use_tqdm=False)

    def test_a_dense_module(self, bert_folder: Path, tmp_path: Path, states: Callable[..., Tensor]) -> None:
        from safetensors.torch import save_file

        folder = shutil.copytree(bert_folder, tmp_path / "model")
        listed = json.loads((folder / "modules.json").read_text())
        listed.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense/config.json").write_text(json.dumps({"in_features": 32, "out_features": 12, "bias": True}))
        generator = torch.Generator().manual_seed(5)
        weight, bias = torch.randn(12, 32, generator=generator), torch.randn(12, generator=generator)
        save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense/model.safetensors")

        llm = made(folder, hf_overrides={"matryoshka_dimensions": None, "is_matryoshka": True})
        for dimensions in (None, 5):
            outputs = llm.embed(TEXTS, pooling_params=PoolingParams(dimensions=dimensions), use_tqdm=False)
            projected = torch.stack([(weight @ states("bert", text).mean(0) + bias).tanh() for text in TEXTS])
            torch.testing.assert_close(vectors(outputs), unit(projected[:, :dimensions]), **CLOSE)

    def test_a_prompt_that_is_not_pooled(self, bert_folder: Path, tmp_path: Path, states: Callable[..., Tensor]) -> None:
        folder = shutil.copytree(bert_folder, tmp_path / "model")
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True, "include_prompt": False}))
        (output,) = made(folder).embed("hello world", prompt_name="query", use_tqdm=False)
        expected = unit(states("bert", "query: hello world")[3:].mean(0))  # [CLS], the word and its colon are left out
        torch.testing.assert_close(torch.tensor(output.outputs.embedding), expected, **CLOSE)

    def test_the_runs_own_dimensions(self, bert_folder: Path, bert: LLM) -> None:
        short = made(bert_folder, pooler_config={"dimensions": 8}).embed("hello", use_tqdm=False)
        asked = bert.embed("hello", pooling_params=PoolingParams(dimensions=8), use_tqdm=False)
        assert short[0].outputs == asked[0].outputs
        with pytest.raises(ConfigError, match="dimensions=12: this model was made for 8, 16"):
            made(bert_folder, pooler_config={"dimensions": 12})
        assert made(bert_folder, pooler_config={"dimensions": 12}, hf_overrides={"matryoshka_dimensions": [12]}).embed("a", use_tqdm=False)

    def test_what_a_text_gets_does_not_depend_on_the_others(self, bert: LLM) -> None:
        alone = [bert.embed(text, use_tqdm=False)[0].outputs.embedding for text in TEXTS]
        together = bert.embed([*TEXTS, *TEXTS[::-1]], use_tqdm=False)
        assert [output.outputs.embedding for output in together] == [*alone, *alone[::-1]]


class TestEncode:
    def test_the_forms_of_prompts(self, bert: LLM) -> None:
        ids = [2, 16, 3]
        (expected,) = bert.encode("hello", use_tqdm=False)
        assert isinstance(expected.outputs.data, Tensor)
        assert (expected.outputs.data.dtype, tuple(expected.outputs.data.shape)) == (torch.float32, (32,))
        assert expected.outputs.embedding == expected.outputs.data.tolist()
        forms: list[Any] = [ids, np.array(ids), {"prompt": "hello"}, {"prompt_token_ids": ids}, {"prompt": "x", "prompt_token_ids": ids}]
        for prompts in (*forms, forms):
            for output in bert.encode(prompts, use_tqdm=False):
                assert output.outputs == expected.outputs
                assert output.prompt_token_ids == ids

    def test_the_legacy_forms(self, bert: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        (expected,) = bert.encode([2, 16, 3], use_tqdm=False)
        for legacy in ([2, 16, 3], [[2, 16, 3]]):
            (output,) = bert.encode(prompt_token_ids=legacy, use_tqdm=False)
            assert output.outputs == expected.outputs
        (output,) = bert.encode("hello", PoolingParams(), [[2, 5, 3]], False)  # prompts win
        assert output.outputs == expected.outputs
        with pytest.raises(ConfigError, match="2 prompts and 1 prompt_token_ids"):
            bert.encode(["a", "b"], prompt_token_ids=[[1]])
        with pytest.raises(ConfigError, match="either prompts or prompt_token_ids"):
            bert.encode()
        monkeypatch.setattr(LLM, "DEPRECATE_LEGACY", True)
        with pytest.warns(DeprecationWarning, match="prompt_token_ids is deprecated") as caught:
            bert.encode(prompt_token_ids=[2, 3], use_tqdm=False)
        assert caught[0].filename == __file__

    def test_a_vector_for_each_token(self, bert: LLM, states: Callable[..., Tensor]) -> None:
        outputs = bert.encode(TEXTS, use_tqdm=False, pooling_task="token_embed")
        for output, text in zip(outputs, TEXTS, strict=True):
            torch.testing.assert_close(output.outputs.data, unit(states("bert", text)), **CLOSE)

    def test_many_parameters(self, bert: LLM) -> None:
        params = PoolingParams(dimensions=8)
        outputs = bert.encode(["a", "b"], [params, PoolingParams()], use_tqdm=False)
        assert [len(output.outputs.data) for output in outputs] == [8, 32]
        assert params == PoolingParams(dimensions=8)
        with pytest.raises(ConfigError, match="2 prompts and 1 pooling_params"):
            bert.encode(["a", "b"], [params])
        with pytest.raises(ConfigError, match="pooling_params must be PoolingParams or a dict, one or a list, not int"):
            bert.encode(["a"], [8])  # type: ignore[list-item]
        assert len(bert.encode(["a"], {"dimensions": 8}, use_tqdm=False)[0].outputs.data) == 8
        assert bert.encode([], use_tqdm=False) == []

    @pytest.mark.parametrize("name", ["additional_data", "step_tag_id", "returned_token_ids"])
    def test_parameters_of_other_models(self, bert: LLM, name: str) -> None:
        params = PoolingParams(**{name: [1] if name == "returned_token_ids" else 1})  # type: ignore[arg-type]
        with pytest.raises(RecordError, match=f"embed takes dimensions and use_activation; {name} must be left out"):
            bert.encode("hello", params, use_tqdm=False)

    def test_adapters_are_refused(self, bert: LLM) -> None:
        with pytest.raises(ConfigError, match="prompt_adapter_request is not supported yet"):
            bert.encode("hello", prompt_adapter_request=object())
        with pytest.raises(ConfigError, match="lora_request must be LoRARequest"):
            bert.encode("hello", lora_request=object())  # type: ignore[arg-type]


class TestTruncation:
    LONG = "the cat sits " * 40  # 122 tokens

    def test_without_it_a_long_text_is_an_error(self, bert: LLM) -> None:
        with pytest.raises(RecordError, match="the text has 122 tokens") as caught:
            bert.embed(self.LONG, use_tqdm=False)
        assert caught.value.code == "prompt_too_long"

    @pytest.mark.parametrize(
        ("how", "length"),
        [
            ({"tokenization_kwargs": {"truncate_prompt_tokens": -1}}, 48),
            ({"truncate_prompt_tokens": -1}, 48),
            ({"truncate_prompt_tokens": 7}, 7),
            ({"tokenization_kwargs": {"truncation": True}}, 48),
            ({"tokenization_kwargs": {"truncation": True, "max_length": 9}}, 9),
        ],
    )
    def test_text_goes_and_special_tokens_stay(self, bert: LLM, how: dict[str, Any], length: int) -> None:
        long, short = bert.embed([self.LONG, "hello"], use_tqdm=False, **how)
        assert long.prompt_token_ids == [2, *([4, 5, 7] * 40)[: length - 2], 3]
        assert short.prompt_token_ids == [2, 16, 3]

    def test_the_left_side(self, bert: LLM) -> None:
        how = {"truncate_prompt_tokens": 6, "truncation_side": "left"}
        (output,) = bert.embed(self.LONG, use_tqdm=False, tokenization_kwargs=how)
        assert output.prompt_token_ids == [2, 7, 4, 5, 7, 3]

    def test_the_tokenizers_own_side(self, qwen: LLM) -> None:
        assert qwen.tokenizer is not None
        (output,) = qwen.embed("abcdef", use_tqdm=False, truncate_prompt_tokens=4)
        assert output.prompt_token_ids == qwen.tokenizer.encode("def")

    def test_token_ids(self, bert: LLM) -> None:
        ids = list(range(4, 14))
        for side, kept in (("left", ids[-5:]), ("right", ids[:5])):
            how = {"truncate_prompt_tokens": 5, "truncation_side": side}
            assert bert.encode(ids, use_tqdm=False, tokenization_kwargs=how)[0].prompt_token_ids == kept

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"truncate_prompt_tokens": 0}, r"truncate_prompt_tokens must be -1 or an integer from 1 to max_model_len \(48\), not 0"),
            ({"truncate_prompt_tokens": 49}, "truncate_prompt_tokens must be -1 or"),
            ({"truncate_prompt_tokens": True}, "truncate_prompt_tokens must be -1 or"),
            ({"tokenization_kwargs": {"truncation": True, "max_length": 99}}, "max_length must be -1 or"),
            ({"truncate_prompt_tokens": 5, "tokenization_kwargs": {"truncate_prompt_tokens": 6}}, "given twice"),
            ({"tokenization_kwargs": {"truncate": 1}}, "'truncate' is not supported; did you mean 'truncate_prompt_tokens'"),
            ({"tokenization_kwargs": {"truncation": "only_first"}}, "truncation must be true, false or 'longest_first'"),
            ({"tokenization_kwargs": {"truncation_side": "both"}}, "truncation_side must be 'left' or 'right'"),
            ({"tokenization_kwargs": {"add_special_tokens": False}}, "add_special_tokens=False is not supported"),
        ],
    )
    def test_wrong(self, bert: LLM, how: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            bert.embed("hello", use_tqdm=False, **how)


class TestClassify:
    def test_probabilities(self, labels: LLM, logits: Tensor) -> None:
        outputs = labels.classify(TEXTS, use_tqdm=False)
        probs = torch.tensor([output.outputs.probs for output in outputs])
        torch.testing.assert_close(probs, logits.softmax(-1), **CLOSE)
        assert outputs[0].outputs.num_classes == 3
        raw = labels.classify(TEXTS, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        torch.testing.assert_close(torch.tensor([output.outputs.probs for output in raw]), logits, **CLOSE)
        (tensor,) = labels.encode("hello", use_tqdm=False)
        torch.testing.assert_close(tensor.outputs.data, logits[1].softmax(-1), **CLOSE)

    def test_another_activation(self, labels_folder: Path, logits: Tensor) -> None:
        for settings, expected in (
            ({"pooler_config": {"activation": "sigmoid"}}, logits.sigmoid()),
            ({"hf_overrides": {"problem_type": "multi_label_classification"}}, logits.sigmoid()),
            ({"pooler_config": {"use_activation": False}}, logits),
        ):
            outputs = made(labels_folder, **settings).classify(TEXTS, use_tqdm=False)
            torch.testing.assert_close(torch.tensor([output.outputs.probs for output in outputs]), expected, **CLOSE)

    def test_what_a_classifier_is_not_for(self, labels: LLM) -> None:
        with pytest.raises(ConfigError, match=r"pooling_task=embed: this model is a classifier; use LLM\.classify"):
            labels.embed("hello")
        with pytest.raises(ConfigError, match="score needs a classifier of one label, this one has 3"):
            labels.score("a", "b")
        with pytest.raises(RecordError, match="classify takes use_activation; dimensions must be left out"):
            labels.classify("a", pooling_params=PoolingParams(dimensions=2), use_tqdm=False)


class TestScore:
    PAIRS = (("the cat", "a dog runs on a mat"), ("hello", "hello"), ("stock prices fell", "a mat"))

    def scores(self, outputs: list[ScoringRequestOutput]) -> Tensor:
        return torch.tensor([output.outputs.score for output in outputs])

    def test_a_cross_encoder(self, pairs: LLM, cross: Callable[[str, str], Tensor]) -> None:
        expected = torch.stack([cross(*pair) for pair in self.PAIRS])
        first, second = (list(side) for side in zip(*self.PAIRS, strict=True))
        outputs = pairs.score(first, second, use_tqdm=False)
        torch.testing.assert_close(self.scores(outputs), expected.sigmoid(), **CLOSE)
        assert outputs[1].prompt_token_ids == [2, 16, 3, 3, 16, 3]
        raw = pairs.score(first, second, use_tqdm=False, pooling_params=PoolingParams(use_activation=False))
        torch.testing.assert_close(self.scores(raw), expected, **CLOSE)

    def test_one_with_many(self, pairs: LLM, cross: Callable[[str, str], Tensor]) -> None:
        documents = ["a dog", "the world", "hello world"]
        expected = torch.stack([cross("the cat", text) for text in documents]).sigmoid()
        torch.testing.assert_close(self.scores(pairs.score("the cat", documents, use_tqdm=False)), expected, **CLOSE)
        torch.testing.assert_close(self.scores(pairs.score("the cat", documents[0], use_tqdm=False)), expected[:1], **CLOSE)

    def test_embeddings(self, bert: LLM, states: Callable[..., Tensor]) -> None:
        def cosine(one: str, other: str) -> Tensor:
            return torch.cosine_similarity(states("bert", one).mean(0), states("bert", other).mean(0), dim=0)

        expected = torch.stack([cosine(*pair) for pair in self.PAIRS])
        first, second = (list(side) for side in zip(*self.PAIRS, strict=True))
        outputs = bert.score(first, second, use_tqdm=False)
        torch.testing.assert_close(self.scores(outputs), expected, **CLOSE)
        assert outputs[1].outputs.score == pytest.approx(1, abs=1e-6)
        many = bert.score("the cat", second, use_tqdm=False)
        torch.testing.assert_close(self.scores(many), torch.stack([cosine("the cat", text) for text in second]), **CLOSE)
        assert bert.score([2, 16, 3], "hello", use_tqdm=False)[0].outputs.score == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("llm", ["bert", "pairs"])
    def test_wrong(self, llm: str, request: pytest.FixtureRequest) -> None:
        one: LLM = request.getfixturevalue(llm)
        for first, second in ((["a", "b"], ["c"]), (["a", "b"], ["c", "d", "e"]), (["a", "b"], "c")):
            with pytest.raises(ConfigError, match="score takes one text and one or many, or as many of both"):
                one.score(first, second, use_tqdm=False)
        for first, second in (([], ["a"]), ("a", [])):  # type: ignore[assignment]
            with pytest.raises(ConfigError, match="at least one text on either side"):
                one.score(first, second, use_tqdm=False)
        with pytest.raises(ConfigError, match="pooling_params of score must be one PoolingParams, not list"):
            one.score("a", "b", pooling_params=[PoolingParams()])  # type: ignore[arg-type]

    def test_token_ids_are_no_pair(self, pairs: LLM) -> None:
        with pytest.raises(RecordError, match="a classifier scores pairs of texts, not of token ids"):
            pairs.score([2, 3], "a", use_tqdm=False)

    def test_truncation_takes_from_the_longer(self, pairs: LLM) -> None:
        (output,) = pairs.score("hello", "the cat " * 50, use_tqdm=False, truncate_prompt_tokens=10)
        assert output.prompt_token_ids == [2, 16, 3, 3, 4, 5, 4, 5, 4, 3]


class TestErrors:
    BAD = ("the cat " * 40, [5, 9999], [], 3.5, {"prompt_embeds": np.zeros((2, 8), np.float32)}, "\ud800")
    CODES = ("prompt_too_long", "invalid_value", "invalid_value", "invalid_type", "unsupported", "invalid_encoding")

    def test_they_are_returned_in_their_places(self, bert: LLM) -> None:
        good = bert.embed(TEXTS[:2], use_tqdm=False)
        outputs = bert.embed(["the cat sits on a mat", *self.BAD, "hello"], use_tqdm=False, on_error="return")  # type: ignore[list-item]
        errors = [output.error for output in outputs]
        assert [error and error.code for error in errors] == [None, *self.CODES, None]
        assert [outputs[0].outputs, outputs[-1].outputs] == [output.outputs for output in good]
        assert all(output.outputs == EmbeddingOutput([]) for output in outputs[1:-1])

    @pytest.mark.parametrize(("bad", "code"), list(zip(BAD, CODES, strict=True)), ids=CODES)
    def test_they_are_raised_and_leave_nothing(self, bert: LLM, bad: Any, code: str) -> None:
        with pytest.raises(RecordError) as caught:
            bert.embed(["hello", bad], use_tqdm=False)
        assert caught.value.code == code
        assert bert.engine.num_unfinished == 0
        assert bert.embed("hello", use_tqdm=False)

    def test_a_failed_score(self, pairs: LLM, bert: LLM) -> None:
        for llm in (pairs, bert):
            bad, good = llm.score("hello", ["the cat " * 60, "hello"], use_tqdm=False, on_error="return")
            assert bad.error is not None
            assert bad.error.code == "prompt_too_long"
            assert math.isnan(bad.outputs.score)
            assert good.error is None

    def test_a_model_that_gives_nan(self, bert: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        from infer.core.types.pooling_request import Pooled

        step = bert.engine.step

        def failing() -> list[Any]:
            error = RecordError("non_finite_logits", "NaN")
            return [Pooled(o.request_id, error=error) if i == 1 else o for i, o in enumerate(step())]  # type: ignore[union-attr]

        monkeypatch.setattr(bert.engine, "step", failing)
        outputs = bert.embed(["hello", "the", "cat"], use_tqdm=False, on_error="return")
        assert sorted(output.error is not None for output in outputs) == [False, False, True]
        with pytest.raises(RecordError, match="NaN"):
            bert.embed(["hello", "the", "cat"], use_tqdm=False)
        assert bert.engine.num_unfinished == 0

    def test_an_interruption_leaves_nothing(self, bert: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> list[Any]:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bert.engine, "step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                bert.embed(TEXTS, use_tqdm=False)
        assert bert.engine.num_unfinished == 0
        assert len(bert.embed(TEXTS, use_tqdm=False)) == 4

    def test_on_error_is_checked(self, bert: LLM) -> None:
        with pytest.raises(ConfigError, match="on_error must be"):
            bert.embed("hello", on_error="ignore")  # type: ignore[arg-type]


class TestTheOtherKind:
    @pytest.mark.parametrize("call", ["encode", "embed"])
    def test_a_model_that_generates_does_not_pool(self, llama: LLM, call: str) -> None:
        with pytest.raises(ConfigError, match=r'this model is run to generate text; make it with LLM\(model, task="embed"\)'):
            getattr(llama, call)("hello")
        with pytest.raises(ConfigError, match=r"LLM\.score: this model is run to generate text"):
            llama.score("a", "b")
        with pytest.raises(ConfigError, match="a language model has no labels of its own: give labels="):
            llama.classify("hello")

    def test_a_model_that_pools_does_not_generate(self, bert: LLM, labels: LLM) -> None:
        from infer.core import BeamSearchParams

        message = (
            r'LLM\.{}: this model is run as one that {}: use LLM\.{}, or if it can generate, make it with LLM\(model, task="generate"\)'
        )
        with pytest.raises(ConfigError, match=message.format("generate", "embeds", "embed or score")):
            bert.generate("hello")
        with pytest.raises(ConfigError, match=message.format("generate", "classifies", "classify or score")):
            labels.generate("hello")
        with pytest.raises(ConfigError, match=r"LLM\.chat: "):
            bert.chat([{"role": "user", "content": "x"}])
        with pytest.raises(ConfigError, match=r"LLM\.stream: "):
            bert.stream(["hello"])
        with pytest.raises(ConfigError, match=r"LLM\.beam_search: "):
            bert.beam_search(["hello"], BeamSearchParams(beam_width=2, max_tokens=2))
        with pytest.raises(ConfigError, match="BertModel reads a text in both directions"):
            made(Path(bert._plan.source.path), task="generate")

    def test_an_embedder_that_can_generate(self, qwen_folder: Path) -> None:
        llm = made(qwen_folder, task="generate", num_gpu_blocks_override=8, max_model_len=64)
        assert len(llm.generate("hello", use_tqdm=False)[0].outputs[0].token_ids) > 0

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            ("classify", r"pooling_task=classify: this model makes embeddings and has no classifier; use LLM\.embed"),
            ("score", r"pooling_task=score: use LLM\.score"),
            ("token_classify", "pooling_task=token_classify: this model makes embeddings and has no classifier"),
            ("reward", "pooling_task 'reward' is not supported; for now: embed, token_embed, classify, token_classify"),
        ],
    )
    def test_pooling_tasks(self, bert: LLM, task: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            bert.encode("hello", pooling_task=task)


class TestWithoutTokenizer:
    def test_token_ids_alone(self, bert_folder: Path, bert: LLM) -> None:
        llm = made(bert_folder, skip_tokenizer_init=True)
        assert llm.embed([2, 16, 3], use_tqdm=False)[0].outputs == bert.embed("hello", use_tqdm=False)[0].outputs
        with pytest.raises(RecordError, match="without a tokenizer"):
            llm.embed("hello", use_tqdm=False)
        with pytest.raises(ConfigError, match="truncation needs a tokenizer"):
            llm.embed([2, 3], use_tqdm=False, truncate_prompt_tokens=-1)


class TestProgress:
    def test_a_bar_of_ones_own(self, bert: LLM) -> None:
        seen: list[Any] = []

        class OwnBar:
            def __init__(self, **options: Any) -> None:
                seen.append(options["total"])

            def update(self, count: int) -> None:
                seen.append(count)

            def close(self) -> None:
                seen.append("closed")

        bert.embed(["a", "b", "b"], use_tqdm=OwnBar)
        assert seen == [3, 1, 1, 1, "closed"]

    def test_on_stderr(self, bert: LLM, capsys: pytest.CaptureFixture[str]) -> None:
        bert.embed(["a", "b"])
        out, err = capsys.readouterr()
        assert out == ""
        assert "2/2" in err


class TestNames:
    """Names and fields as vLLM 0.32 has them."""

    REQUEST = ("request_id", "outputs", "prompt_token_ids", "num_cached_tokens", "finished", "error")

    @pytest.mark.parametrize(
        ("kind", "inner", "fields", "more"),
        [
            (PoolingRequestOutput, PoolingOutput, ["data"], []),
            (EmbeddingRequestOutput, EmbeddingOutput, ["embedding"], ["hidden_size"]),
            (ClassificationRequestOutput, ClassificationOutput, ["probs"], ["num_classes"]),
            (ScoringRequestOutput, ScoringOutput, ["score"], []),
        ],
    )
    def test_outputs(self, kind: type, inner: type, fields: list[str], more: list[str]) -> None:
        assert tuple(f.name for f in dataclasses.fields(kind)) == self.REQUEST
        assert issubclass(kind, PoolingRequestOutput)
        assert [f.name for f in dataclasses.fields(inner)] == fields
        assert all(isinstance(getattr(inner, name), property) for name in more)

    def test_what_the_calls_give(self, bert: LLM, labels: LLM, pairs: LLM) -> None:
        found = [
            bert.encode("a", use_tqdm=False)[0],
            bert.embed("a", use_tqdm=False)[0],
            labels.classify("a", use_tqdm=False)[0],
            pairs.score("a", "b", use_tqdm=False)[0],
        ]
        kinds = [PoolingRequestOutput, EmbeddingRequestOutput, ClassificationRequestOutput, ScoringRequestOutput]
        assert [type(output) for output in found] == kinds
        inner = [PoolingOutput, EmbeddingOutput, ClassificationOutput, ScoringOutput]
        assert [type(output.outputs) for output in found] == inner
        assert all(output.finished and output.num_cached_tokens == 0 and output.error is None for output in found)
        assert repr(found[1]).startswith("EmbeddingRequestOutput(request_id='")
        assert "EmbeddingOutput(hidden_size=32)" in repr(found[1])

    def test_from_base_wants_what_fits(self, bert: LLM) -> None:
        (tokens,) = bert.encode("hello", use_tqdm=False, pooling_task="token_embed")
        for kind in (EmbeddingRequestOutput, ClassificationRequestOutput):
            with pytest.raises(ValueError, match="one vector was expected, not a tensor of 2 dimensions"):
                kind.from_base(tokens)
        with pytest.raises(ValueError, match="a score is one number, not 96"):
            ScoringRequestOutput.from_base(tokens)
        assert tokens.outputs != bert.encode("hello", use_tqdm=False)[0].outputs
        assert tokens.outputs != 3

    @pytest.mark.parametrize(
        ("call", "positional", "by_name"),
        [
            ("encode", ["prompts", "pooling_params", "prompt_token_ids", "use_tqdm"], ["pooling_task", "tokenization_kwargs"]),
            ("embed", ["prompts"], ["use_tqdm", "pooling_params", "lora_request", "tokenization_kwargs"]),
            ("classify", ["prompts"], ["use_tqdm", "pooling_params", "lora_request", "tokenization_kwargs"]),
            ("score", ["text_1", "text_2"], ["use_tqdm", "pooling_params", "lora_request", "tokenization_kwargs"]),
        ],
    )
    def test_arguments(self, call: str, positional: list[str], by_name: list[str]) -> None:
        parameters = inspect.signature(getattr(LLM, call)).parameters
        names = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert names[1 : 1 + len(positional)] == positional
        assert set(by_name) <= set(parameters)


class TestPoolingParams:
    @pytest.mark.parametrize(
        ("kind", "valid"),
        [("embed", {"dimensions", "use_activation"}), ("token_embed", {"dimensions", "use_activation"}), ("classify", {"use_activation"})],
    )
    def test_which_fields_say_something(self, kind: str, valid: set[str]) -> None:
        values: dict[str, Any] = {
            "additional_data": "x",
            "dimensions": 3,
            "use_activation": False,
            "step_tag_id": 0,
            "returned_token_ids": [],
        }
        assert set(values) == {f.name for f in dataclasses.fields(PoolingParams)}
        for name, value in values.items():
            params = PoolingParams(**{name: value})
            if name in valid:
                params.check(kind)
                continue
            with pytest.raises(RecordError, match=rf"^{kind} takes .*; {name} must be left out$") as caught:
                params.check(kind)
            assert (caught.value.code, caught.value.param) == ("unsupported", name)
        PoolingParams().check(kind)

    def test_the_older_name_is_gone(self) -> None:
        with pytest.raises(TypeError, match="normalize"):
            PoolingParams(normalize=True)  # type: ignore[call-arg]

    def test_a_clone_is_deep(self) -> None:
        params = PoolingParams(returned_token_ids=[1], additional_data={"a": [1]})
        clone = params.clone()
        assert clone == params
        assert clone.returned_token_ids is not params.returned_token_ids
        assert clone.additional_data["a"] is not params.additional_data["a"]
