"""Log-probabilities of prompts and outputs against transformers in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.settings.args import EngineArgs
from infer.core.types.outputs import Logprob
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived a cartographer who had never left the island on which she was born. " * 8,
    "def fibonacci(n):\n    ",
    "日本の首都は",
    "x",
]
COUNT = 5


def compare(folder: Path, tolerance: float) -> int:
    from transformers import AutoModelForCausalLM

    engine = build_engine(make_plan(EngineArgs.from_kwargs(model=str(folder), dtype="float32", device="cpu", max_num_batched_tokens=128)))
    assert engine.tokenizer is not None
    params = SamplingParams(temperature=1.0, max_tokens=12, prompt_logprobs=COUNT, logprobs=COUNT, ignore_eos=True)
    for i, prompt in enumerate(PROMPTS):
        engine.add(Request(str(i), engine.tokenizer.encode(prompt)[:500], params, i))
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    compared = 0
    while engine.num_unfinished:
        for output in engine.step():
            choice = output.outputs[0]
            tokens = output.prompt_token_ids + choice.token_ids
            with torch.inference_mode():
                expected = torch.log_softmax(oracle(torch.tensor([tokens])).logits[0].float(), -1)
            assert output.prompt_logprobs is not None
            assert choice.logprobs is not None
            assert output.prompt_logprobs[0] is None
            entries: list[dict[int, Logprob] | None] = [*output.prompt_logprobs, *choice.logprobs]
            assert len(entries) == len(tokens)
            for place, entry in enumerate(entries[1:], start=1):
                row = expected[place - 1]
                assert entry is not None
                assert tokens[place] in entry
                assert COUNT <= len(entry) <= COUNT + 1
                for token, got in entry.items():
                    assert got.logprob == pytest.approx(float(row[token]), abs=tolerance)
                    higher = int((row > row[token] + tolerance).sum())
                    assert higher < got.rank <= 1 + int((row > row[token] - tolerance).sum())
                    assert got.decoded_token == engine.tokenizer.token_name(token)
                best = sorted(entry.values(), key=lambda e: e.rank)[:COUNT]
                values = torch.topk(row, COUNT).values.tolist()
                assert [e.logprob for e in best] == pytest.approx(values, abs=tolerance)
                compared += len(entry)
    return compared


def test_a_tiny_model(tiny_llama: Path) -> None:
    assert compare(tiny_llama, 1e-4) > 1000


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model(smollm2: Path) -> None:
    assert compare(smollm2, 1e-3) > 1000
