"""Models that keep states: with attention in no layer, in searches, and what is not there for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer.core import LLM, BeamSearchParams, SamplingParams

from .test_architectures import prompts_of, reference_model

MIXED = ["conv", "full_attention", "conv"]
#: The second begins as the first does, for the prefix cache.
LONG, SHORT, OTHER = prompts_of(60, 9, 33)
PROMPTS = [{"prompt_token_ids": ids} for ids in (LONG, LONG[:40] + SHORT, OTHER, SHORT)]


def folder_of(path: Path, kinds: list[str]) -> Path:
    reference_model("lfm2", {"layer_types": kinds, "block_auto_adjust_ff_dim": False}).save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return path


def llm_of(folder: Path, **settings: Any) -> LLM:
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 128, "skip_tokenizer_init": True}
    return LLM(str(folder), **{**given, **settings})


@pytest.mark.parametrize(
    "settings",
    [{}, {"kv_cache_memory_bytes": 1 << 16}, {"max_num_batched_tokens": 32, "max_num_seqs": 3}, {"num_gpu_blocks_override": 9}],
    ids=str,
)
def test_without_attention_there_is_no_kv_cache(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = folder_of(tmp_path, ["conv"] * 3)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    llm = llm_of(folder, **settings)
    assert llm.engine.runner.caches == []  # type: ignore[attr-defined]
    params = SamplingParams(temperature=0, max_tokens=10, logprobs=1, detokenize=False, ignore_eos=True)
    for given, got in zip(PROMPTS, llm.generate(PROMPTS, params, use_tqdm=False), strict=True):
        ids, (choice,) = given["prompt_token_ids"], got.outputs
        with torch.inference_mode():
            expected = model(torch.tensor([[*ids, *choice.token_ids]]), use_cache=False).logits[0].log_softmax(-1)
        for place, (token, entries) in enumerate(zip(choice.token_ids, choice.logprobs or [], strict=True), len(ids) - 1):
            assert abs(entries[token].logprob - expected[place, token].item()) < 2e-3
            assert expected[place].max().item() - expected[place, token].item() < 2e-3, "the likeliest, but for a tie"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_searches_do_not_depend_on_the_schedule(tmp_path: Path, dtype: str) -> None:
    folder = folder_of(tmp_path, MIXED)
    params = BeamSearchParams(beam_width=4, max_tokens=12, ignore_eos=True)
    tight = {"num_gpu_blocks_override": 22, "max_num_batched_tokens": 32, "max_num_seqs": 5}
    found = []
    for settings in ({"num_gpu_blocks_override": 200}, tight):
        llm = llm_of(folder, dtype=dtype, **settings)
        found.append([[(one.tokens, one.cum_logprob) for one in output.sequences] for output in llm.beam_search(PROMPTS, params)])
    assert found[0] == found[1]
