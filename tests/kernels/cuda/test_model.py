"""A whole model on the Triton kernels: the engine's way of calling them, on the device or in the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer import kernels
from infer.core import LLM, SamplingParams
from infer.kernels import load

#: The last two begin alike, and the longest goes over several blocks.
PROMPTS = [[5, 9, 200, 31], [(7 * i) % 250 for i in range(21)], [(7 * i) % 250 for i in range(37)]]


@pytest.fixture
def on_triton(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device to ask for; without a GPU the backend is put in place of the CPU's, whose name alone is allowed there."""
    if device.type == "cpu":
        monkeypatch.setattr(kernels, "load", lambda name: load("cuda"))
    return str(device)


def answers(model: Path, device: str, prompts: list[list[int]], **more: Any) -> list[tuple[list[int], list[float]]]:
    """Greedy token ids of each prompt, and their log-probabilities."""
    llm = LLM(str(model), device=device, dtype="float32", skip_tokenizer_init=True, num_gpu_blocks_override=40, **more)
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=1, detokenize=False, ignore_eos=True)
    outputs = [o.outputs[0] for o in llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)]
    return [(list(o.token_ids), [entry[t].logprob for t, entry in zip(o.token_ids, o.logprobs, strict=True)]) for o in outputs]


def test_it_says_what_the_reference_says(tiny_llama: Path, on_triton: str) -> None:
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(kernels, "load", lambda name: load("reference"))
        expected = answers(tiny_llama, "cpu", PROMPTS)
    got = answers(tiny_llama, on_triton, PROMPTS)
    for (tokens, logprobs), (wanted, values) in zip(got, expected, strict=True):
        assert tokens == wanted
        assert logprobs == pytest.approx(values, abs=1e-3)


@pytest.mark.parametrize("kept", ["fp8", "fp8_e5m2"])
def test_a_cache_of_8_bits_says_what_the_references_says(tiny_llama: Path, on_triton: str, kept: str) -> None:
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(kernels, "load", lambda name: load("reference"))
        expected = answers(tiny_llama, "cpu", PROMPTS, kv_cache_dtype=kept)
        wide = answers(tiny_llama, "cpu", PROMPTS)
    assert wide != expected
    for (tokens, logprobs), (wanted, values) in zip(answers(tiny_llama, on_triton, PROMPTS, kv_cache_dtype=kept), expected, strict=True):
        assert tokens == wanted
        assert logprobs == pytest.approx(values, abs=1e-2)  # a key in the middle of two may be rounded to either


def test_deterministic_answers_do_not_depend_on_the_batch(tiny_llama: Path, on_triton: str) -> None:
    together = answers(tiny_llama, on_triton, PROMPTS, deterministic=True)
    assert answers(tiny_llama, on_triton, PROMPTS[1:2], deterministic=True) == together[1:2]
    assert answers(tiny_llama, on_triton, PROMPTS, deterministic=True, max_num_seqs=2, max_num_batched_tokens=16) == together
