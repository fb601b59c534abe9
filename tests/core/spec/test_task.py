"""The use of a model, by its files and the settings."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ConfigError, ModelError
from infer.core.spec.read import read_spec
from infer.core.spec.task import choose_task

BERT = {"model_type": "bert", "architectures": ["BertModel"]}
PAIRS = {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
QWEN = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
RANKER = {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]}
MODULES = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
CROSS_ENCODER = [{"type": "sentence_transformers.base.modules.transformer.Transformer"}]


def chosen(hf_config: dict[str, Any], modules: Any = None, *, task: str = "auto", runner: str = "auto", convert: str = "auto") -> str:
    return choose_task(task, runner, convert, read_spec(hf_config), modules)


@pytest.mark.parametrize(
    ("hf_config", "modules", "task"),
    [
        (BERT, None, "embed"),
        ({"model_type": "nomic_bert"}, None, "embed"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}, None, "embed"),
        (PAIRS, None, "classify"),
        (PAIRS, CROSS_ENCODER, "classify"),
        (RANKER, None, "classify"),
        (QWEN, None, "generate"),
        (QWEN, MODULES, "embed"),
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, None, "embed"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, None, "generate"),
        ({"model_type": "llama"}, None, "generate"),
        ({}, None, "generate"),
    ],
)
def test_left_open(hf_config: dict[str, Any], modules: Any, task: str) -> None:
    assert chosen(hf_config, modules) == task


@pytest.mark.parametrize(
    ("hf_config", "modules", "settings", "task"),
    [
        (QWEN, MODULES, {"task": "generate"}, "generate"),
        (QWEN, MODULES, {"runner": "generate"}, "generate"),
        (QWEN, None, {"task": "embed"}, "embed"),
        (QWEN, None, {"task": "embedding"}, "embed"),
        (QWEN, None, {"runner": "pooling"}, "embed"),
        (QWEN, None, {"convert": "embed"}, "embed"),
        (QWEN, None, {"convert": "none"}, "generate"),
        (QWEN, None, {"task": "score"}, "embed"),
        (PAIRS, None, {"task": "score"}, "classify"),
        (PAIRS, None, {"runner": "pooling"}, "classify"),
        (PAIRS, None, {"task": "classify", "convert": "classify", "runner": "pooling"}, "classify"),
        (BERT, None, {"task": "score"}, "embed"),
        (BERT, MODULES, {"task": "embed", "convert": "none"}, "embed"),
    ],
)
def test_asked_for(hf_config: dict[str, Any], modules: Any, settings: dict[str, str], task: str) -> None:
    assert chosen(hf_config, modules, **settings) == task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "embed", "runner": "generate"}, "task=embed contradicts runner=generate"),
        ({"task": "generate", "runner": "pooling"}, "task=generate contradicts runner=pooling"),
        ({"convert": "embed", "runner": "generate"}, "convert=embed contradicts runner=generate"),
        ({"convert": "embed", "task": "generate"}, "convert=embed contradicts task=generate"),
        ({"convert": "embed", "task": "classify"}, "convert=embed contradicts task=classify"),
    ],
)
def test_contradictions(settings: dict[str, str], message: str) -> None:
    for hf_config in (BERT, QWEN, PAIRS):
        with pytest.raises(ConfigError, match=f"^{message}; leave one of the two out$"):
            chosen(hf_config, **settings)


@pytest.mark.parametrize(
    ("hf_config", "settings", "error", "message"),
    [
        (BERT, {"task": "generate"}, ConfigError, "BertModel .* writes none: use infer embed or task=embed"),
        (
            PAIRS,
            {"runner": "generate"},
            ConfigError,
            "writes none: use infer classify, infer score or task=classify",
        ),
        (PAIRS, {"task": "embed"}, ModelError, "is a classifier, it makes no embeddings: use infer classify or infer score"),
        (BERT, {"task": "classify"}, ModelError, "BertModel is not a classifier .*: use infer embed"),
        (QWEN, {"convert": "classify"}, ModelError, "Qwen3ForCausalLM is not a classifier .*: use infer generate"),
        (QWEN, {"task": "embed", "convert": "none"}, ConfigError, "convert=none keeps it from being used for embeddings"),
        ({"architectures": ["InternLM2ForRewardModel"]}, {"task": "embed"}, ModelError, "InternLM2ForRewardModel is a classifier"),
    ],
)
def test_what_the_model_cannot_do(hf_config: dict[str, Any], settings: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        chosen(hf_config, **settings)
