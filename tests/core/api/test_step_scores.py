"""`LLM.encode` with language models that score tokens: process reward models, against transformers in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from infer.core import LLM, PoolingParams
from infer.core.errors import ConfigError, ModelError, RecordError

SIZES = {"vocab_size": 160, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = {**SIZES, "intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": None}
TAG = 7
TEXTS = [[5, 9, TAG, 30, 31, TAG], [50, 51, 52], [TAG], [*range(20, 60), TAG, 3, TAG]]
PROMPTS = [{"prompt_token_ids": ids} for ids in TEXTS]


def llm(folder: Path, **more: Any) -> LLM:
    settings = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 128}
    return LLM(str(folder), **{**settings, **more})


def written(folder: Path, model: Any, name: str, weights: dict[str, torch.Tensor]) -> None:
    found = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file({**found, **weights}, folder / "model.safetensors", {"format": "pt"})
    config = {**model.config.to_dict(), "architectures": [name], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in ("id2label", "label2id")}))


@pytest.fixture
def reward(tmp_path: Path) -> tuple[Path, Any]:
    """Qwen2.5-Math-PRM's form: two layers with a ReLU between them over every token."""
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, tie_word_embeddings=False)).eval()
    head = torch.nn.Sequential(torch.nn.Linear(48, 48), torch.nn.ReLU(), torch.nn.Linear(48, 2))
    weights = {f"score.{name}": value.contiguous() for name, value in head.state_dict().items()}
    written(tmp_path, model, "Qwen2ForProcessRewardModel", weights)

    @torch.inference_mode()
    def scores(ids: list[int]) -> torch.Tensor:
        return head(model.model(torch.tensor([ids])).last_hidden_state[0])

    return tmp_path, scores


def test_a_process_reward_model_scores_the_ends_of_steps(reward: tuple[Path, Any]) -> None:
    folder, scores = reward
    engine = llm(folder, pooler_config={"step_tag_id": TAG})
    whole = engine.encode(PROMPTS, use_tqdm=False)
    for ids, output in zip(TEXTS, whole, strict=True):
        steps = [place for place, token in enumerate(ids) if token == TAG]
        assert output.outputs.data.shape == (len(steps), 2)
        torch.testing.assert_close(output.outputs.data, scores(ids)[steps].softmax(-1), rtol=1e-4, atol=1e-5)
        (alone,) = engine.encode({"prompt_token_ids": ids}, use_tqdm=False)
        assert torch.equal(alone.outputs.data, output.outputs.data)
    (other,) = engine.encode(PROMPTS[0], PoolingParams(step_tag_id=30, use_activation=False), use_tqdm=False, pooling_task="token_classify")
    torch.testing.assert_close(other.outputs.data, scores(TEXTS[0])[3:4], rtol=1e-4, atol=1e-5)
    with pytest.raises(RecordError, match="not among the tokens that are scored here"):
        engine.encode(PROMPTS[0], PoolingParams(returned_token_ids=[3]), use_tqdm=False)


def test_all_tokens_are_scored_where_that_is_asked_for(reward: tuple[Path, Any]) -> None:
    folder, scores = reward
    (output,) = llm(folder, pooler_config={"pooling_type": "ALL"}).encode(PROMPTS[0], use_tqdm=False)
    torch.testing.assert_close(output.outputs.data, scores(TEXTS[0]).softmax(-1), rtol=1e-4, atol=1e-5)


def test_the_published_tag_is_the_default(reward: tuple[Path, Any]) -> None:
    plan = llm(reward[0])._plan
    assert plan.recipe is not None
    assert (plan.recipe.step_tag_id, plan.recipe.labels, plan.recipe.activation) == (151651, ("LABEL_0", "LABEL_1"), "softmax")


def test_logits_of_tokens_are_scores_of_steps(tmp_path: Path) -> None:
    """Math-Shepherd's form: a language model whose logits of two tokens are compared at the ends of steps."""
    torch.manual_seed(1)
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=None)).eval()
    model.save_pretrained(tmp_path)
    engine = llm(tmp_path, task="classify", pooler_config={"pooling_type": "STEP", "step_tag_id": TAG, "returned_token_ids": [64, 38]})
    for ids, output in zip(TEXTS, engine.encode(PROMPTS, use_tqdm=False), strict=True):
        steps = [place for place, token in enumerate(ids) if token == TAG]
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(output.outputs.data, logits[steps][:, [64, 38]].softmax(-1), rtol=1e-4, atol=1e-5)
    (one,) = engine.encode(PROMPTS[2], PoolingParams(returned_token_ids=[38], use_activation=False), use_tqdm=False)
    with torch.inference_mode():
        torch.testing.assert_close(one.outputs.data, model(torch.tensor([TEXTS[2]])).logits[0][:, [38]], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="STEP needs step_tag_id"):
        llm(tmp_path, task="classify", pooler_config={"pooling_type": "STEP", "returned_token_ids": [64, 38]})
    with pytest.raises(ConfigError, match="returned_token_ids has 160, which is not in the vocabulary of 160"):
        llm(tmp_path, task="classify", pooler_config={"pooling_type": "ALL", "returned_token_ids": [160]})
    with pytest.raises(ConfigError, match="are for classifiers of tokens"):
        llm(tmp_path, task="embed", pooler_config={"pooling_type": "STEP", "step_tag_id": 3})


def test_a_language_model_with_labels_for_tokens(tmp_path: Path) -> None:
    torch.manual_seed(2)
    oracle = transformers.Qwen2ForTokenClassification(transformers.Qwen2Config(**SMALL, num_labels=3)).eval()
    torch.nn.init.normal_(oracle.score.bias)
    oracle.save_pretrained(tmp_path)
    for ids, output in zip(TEXTS, llm(tmp_path).encode(PROMPTS, use_tqdm=False), strict=True):
        with torch.inference_mode():
            expected = oracle(torch.tensor([ids])).logits[0].softmax(-1)
        torch.testing.assert_close(output.outputs.data, expected, rtol=1e-4, atol=1e-5)


def test_heads_that_are_not_known_are_refused(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    written(tmp_path, model, "LlamaForRewardModel", {})
    with pytest.raises(ModelError, match="LlamaForRewardModel is a reward model whose head is not known"):
        llm(tmp_path)
