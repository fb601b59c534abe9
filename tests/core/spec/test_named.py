"""Model types that people run: each has code of ours, or runs through transformers' code, or is refused by its reason."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ModelError
from infer.core.spec.architectures import named, wrappers
from infer.core.spec.read import read_spec
from infer.core.spec.support import refuse_unsupported
from infer.core.spec.task import choose_task

#: In our code.
LINES = (
    "llama llama4 mistral qwen2 qwen3 bert roberta xlm-roberta modernbert nomic_bert qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe",
    "mistral3 gemma3 gemma4 llava gemma3_text gemma2 gemma qwen3_moe qwen2_moe mixtral olmoe granitemoe minimax_m2 ernie4_5_moe",
    "glm4_moe gpt_oss phi3 phi mpnet distilbert electra albert camembert deberta-v2 deepseek_v2 deepseek_v3 glm4_moe_lite lfm2",
    "lfm2_moe granite smollm3 olmo2 olmo3 cohere cohere2 glm glm4 exaone4 seed_oss hunyuan_v1_dense ernie4_5 apertus nemotron",
    "starcoder2 stablelm gpt2 opt gpt_neo gpt_neox gptj gpt_bigcode bloom falcon mpt qwen3_5 qwen3_5_moe qwen3_next",
    "granitemoehybrid nemotron_h falcon_h1 bamba jamba mamba2 t5 mt5 bart mbart pegasus marian",
    "m2m_100 whisper umt5",
)
OURS = frozenset(" ".join(LINES).split())
#: An encoder that a decoder attends to.
BOTH = {
    "prophetnet": "ProphetNetForConditionalGeneration",
}
GIVEN = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}


def refused(config: dict[str, Any], task: str = "auto") -> str:
    spec = read_spec(config)
    with pytest.raises(ModelError) as caught:
        refuse_unsupported(spec, "m", task=choose_task(task, "auto", "auto", spec, None))
    return str(caught.value)


def test_most_have_code_of_ours() -> None:
    assert not OURS - {*named(), *wrappers()}
    assert len(OURS) >= 55


@pytest.mark.parametrize("kind", BOTH)
def test_an_encoder_with_a_decoder_is_refused_as_that(kind: str) -> None:
    assert f"model_type {kind!r} ({BOTH[kind]}) is an encoder with a decoder" in refused(
        {"model_type": kind, "architectures": [BOTH[kind]]}
    )


@pytest.mark.parametrize("task", ["score", "generate"])
def test_heads_behind_several_layers_are_refused_as_that(task: str) -> None:
    """Without this its hidden states would be compared, which are not what it was trained for."""
    name = "LayerWiseMiniCPMForCausalLM"
    config = {"model_type": "minicpm", "architectures": [name], "auto_map": {"AutoModelForCausalLM": f"modeling_minicpm_reranker.{name}"}}
    assert "has a head behind each of several layers" in refused({**config, **GIVEN}, task)
