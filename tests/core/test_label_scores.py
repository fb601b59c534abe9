"""Labels of a language model against transformers in float32: each of several tokens, after text and after a chat template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM
from infer.core.errors import ConfigError, RecordError

LABELS = ["positive", "very negative", "neither of the two", "nichts davon", "12", "123"]
PROMPTS = [
    "Review: a fine film, and long.\nSentiment:",
    "Review: " + "It rained, and the hero went home. " * 12 + "\nSentiment:",
    "Review: bad\nSentiment: ",
    "x",
]


def spellings(label: str, prompt: str) -> list[str]:
    return [label] if prompt[-1].isspace() else [label, f" {label}"]


def expected(oracle: Any, tokenizer: Any, prompt: str, ids: list[int], labels: Sequence[str]) -> list[float]:
    """The log-probability of each label: log(P(label) + P(blank label)), less what goes on as a longer label."""
    ways: dict[tuple[int, ...], tuple[int, float]] = {}
    for place, label in enumerate(labels):
        for text in spellings(label, prompt):
            both = tokenizer.encode(prompt + text)
            own = both[len(ids) :] if both[: len(ids)] == ids else tokenizer.encode(text, add_special_tokens=False)
            with torch.inference_mode():
                rows = torch.log_softmax(oracle(torch.tensor([[*ids, *own]])).logits[0].double(), -1)
            ways[tuple(own)] = place, sum(float(rows[len(ids) - 1 + i, token]) for i, token in enumerate(own))
    found = [0.0] * len(labels)
    for way, (place, logprob) in ways.items():
        longer = [other for other in ways if len(other) > len(way) and other[: len(way)] == way]
        nearest = [other for other in longer if not any(len(way) < len(c) < len(other) and other[: len(c)] == c for c in longer)]
        found[place] += math.exp(logprob) - sum(math.exp(ways[other][1]) for other in nearest)
    return [math.log(p) if p > 0 else -math.inf for p in found]


def compare(folder: Path, prompts: Sequence[str]) -> None:
    from transformers import AutoModelForCausalLM

    llm = LLM(str(folder), dtype="float32", device="cpu", max_num_batched_tokens=128)
    assert llm.tokenizer is not None
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    outputs = llm.classify([*prompts], labels=LABELS, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        told = output.outputs
        wanted = expected(oracle, llm.tokenizer, prompt, output.prompt_token_ids, LABELS)
        assert told.logprobs == pytest.approx(wanted, abs=1e-4)
        assert told.label_mass == pytest.approx(sum(map(math.exp, wanted)), rel=1e-3)
        assert told.probs == pytest.approx([math.exp(value) / sum(map(math.exp, wanted)) for value in wanted], abs=1e-4)
        assert told.label == LABELS[max(range(len(LABELS)), key=lambda place: wanted[place])]
    tokens = [len(llm.tokenizer.encode(f" {label}", add_special_tokens=False)) for label in LABELS]
    assert max(tokens) >= 2, "labels of several tokens are compared"


def test_a_tiny_model(tiny_llama: Path) -> None:
    compare(tiny_llama, PROMPTS)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model(smollm2: Path) -> None:
    chat = "<|im_start|>user\nIs it good?<|im_end|>\n<|im_start|>assistant\n"
    compare(smollm2, [*PROMPTS[1:3], chat])


def test_calls_of_python(tiny_llama: Path) -> None:
    llm = LLM(str(tiny_llama), dtype="float32", device="cpu")
    (one,) = llm.classify("ab:", labels=["x", "yz"], use_tqdm=False)
    assert one.outputs.labels == ("x", "yz")
    assert one.outputs.num_classes == 2
    (same,) = llm.classify(["ab:"], labels=[["x", "yz"]], use_tqdm=False)
    assert same.outputs == one.outputs
    (other,) = llm.classify([llm.tokenizer.encode("ab:")], labels=["x", "yz"], use_tqdm=False)  # type: ignore[union-attr]
    assert other.outputs == one.outputs
    (off,) = llm.classify("ab:", labels=["x", "yz"], calibration_prompt="ab:", use_tqdm=False)
    assert off.outputs.probs == pytest.approx([0.5, 0.5])
    assert off.outputs.logprobs == one.outputs.logprobs
    failed = llm.classify(["ab:", "a" * 5000], labels=["x"], on_error="return", use_tqdm=False)
    assert failed[0].error is None
    assert failed[1].error is not None
    assert failed[1].error.code == "prompt_too_long"
    for bad, error in (
        ([], RecordError),
        (["a", "a"], RecordError),
        (None, ConfigError),
        ("ab", ConfigError),
        ([["a"], ["b"]], ConfigError),
    ):
        with pytest.raises(error):
            llm.classify("ab:", labels=bad, use_tqdm=False)  # type: ignore[call-overload]


def test_a_classifier_has_its_own(labels_folder: Path) -> None:
    llm = LLM(str(labels_folder), dtype="float32", device="cpu")
    (one,) = llm.classify("the cat", use_tqdm=False)
    assert sum(one.outputs.probs) == pytest.approx(1)
    with pytest.raises(ConfigError, match="this one pools"):
        llm.classify("the cat", labels=["a"], use_tqdm=False)
