"""SmolLM2-135M against transformers, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer.core import LLM, SamplingParams

#: Where the two best logits are closer than this, float32 rounding may choose either.
NEAR_TIE = 1e-3
MAX_TOKENS = 32

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Photosynthesis is the process by which",
    "The three laws of thermodynamics are:\n1.",
    "Q: What is 12 times 12?\nA:",
    "To make a good cup of tea, first",
    "import numpy as np\n\n# Compute the mean of each column\n",
    "In 1969, astronauts",
    "Dear Sir or Madam,\n\nI am writing to",
    "The main difference between TCP and UDP is",
    "Roses are red,\nViolets are blue,\n",
    "日本の首都は",
    "La tour Eiffel se trouve à",
    "SELECT name, COUNT(*) FROM orders",
    "The mitochondria",
    "Water boils at 100 degrees Celsius because",
    "<html>\n<head>\n<title>",
    "My favourite emoji is 🙂 and",
    "x",
]


@pytest.mark.real
@pytest.mark.slow
def test_greedy_tokens_equal_transformers_in_float32(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    llm = LLM(str(smollm2), dtype="float32", device="cpu")
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False)
    oracle = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    compared = 0
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        got = output.outputs[0].token_ids
        tokens = output.prompt_token_ids + got
        with torch.inference_mode():
            logits = oracle(torch.tensor([tokens[:-1]])).logits[0, len(output.prompt_token_ids) - 1 :]
        for place, token in enumerate(got):
            best = torch.topk(logits[place], 2)
            if best.values[0] - best.values[1] < NEAR_TIE:
                continue  # the context is ours, so whatever follows is compared all the same
            assert token == best.indices[0], f"{prompt!r}, token {place}"
            compared += 1
        ended = got[-1] == oracle.generation_config.eos_token_id
        assert output.outputs[0].finish_reason == ("stop" if ended else "length")
    assert compared > 0.95 * sum(len(o.outputs[0].token_ids) for o in outputs)
