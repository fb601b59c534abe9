"""Mixtures of experts in the engine: no schedule changes a bit of an answer, whatever way experts are chosen and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infer.core import LLM, SamplingParams
from infer.core.types.outputs import RequestOutput

from .test_architectures import MOE, reference_model

KINDS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**MOE, "num_experts": 6, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**MOE, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True, "head_dim": 16},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 5, "clip_qkv": 3.0},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 3, "attention_multiplier": 0.3},
    "minimax_m2": {"num_local_experts": 7, "num_experts_per_tok": 3, "head_dim": 16, "rotary_dim": 8},
    "ernie4_5_moe": {**MOE, "moe_num_experts": 6, "moe_k": 3},
    "glm4_moe": {**MOE, "n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    "gpt_oss": {"head_dim": 16, "sliding_window": 24, "num_local_experts": 6, "num_experts_per_tok": 3},
}
HEAD = [(5 * i + 1) % 160 for i in range(32)]
PROMPTS = [[*HEAD[: 16 * (i % 3)], *((7 * i + j * j) % 160 for j in range(5 + 4 * i))] for i in range(8)]
#: Few blocks, so that sequences are taken back; pieces of prompts beside decodes; nothing cached.
SCHEDULES: list[dict[str, Any]] = [
    {"num_gpu_blocks_override": 16},
    {"num_gpu_blocks_override": 60, "max_num_seqs": 3, "max_num_batched_tokens": 24, "enable_prefix_caching": False},
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    reference_model(request.param, KINDS[request.param]).save_pretrained(made)
    return made


def answers(folder: Path, **more: Any) -> tuple[list[RequestOutput], int]:
    """Greedy ones with log-probabilities of the prompt, and three sampled ones each; and how often a sequence was taken back."""
    settings: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "max_model_len": 128, "num_gpu_blocks_override": 100, **more}
    llm = LLM(str(folder), seed=3, **settings)
    greedy = SamplingParams(temperature=0, max_tokens=12, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    sampled = SamplingParams(temperature=1.0, n=3, max_tokens=12, logprobs=0, detokenize=False, ignore_eos=True)
    asked = [{"prompt_token_ids": ids} for ids in PROMPTS]
    found = llm.generate([*asked, *asked], [greedy] * len(asked) + [sampled] * len(asked), use_tqdm=False)
    return found, llm.engine.stats.num_preemptions


@pytest.mark.parametrize("how", ["float32", "bfloat16", "int8"])
def test_no_schedule_changes_an_answer(folder: Path, how: str, int8: dict[str, Any]) -> None:
    settings = {"dtype": "bfloat16", **int8} if how == "int8" else {"dtype": how}
    base, _ = answers(folder, **settings)
    assert len({choice.token_ids[0] for one in base for choice in one.outputs}) > 3
    for schedule in SCHEDULES:
        again, taken_back = answers(folder, **settings, **schedule)
        assert [one.outputs for one in again] == [one.outputs for one in base]
        assert [one.prompt_logprobs for one in again] == [one.prompt_logprobs for one in base]
        assert taken_back or schedule is not SCHEDULES[0]
