"""Budgets of thinking and repetition detection in a whole engine: against transformers, and whatever the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, RecordError, RepetitionDetectionParams, SamplingParams

#: Not one token of the tiny model, whose tokens are bytes.
MARKS = {"reasoning_start_str": "<t>", "reasoning_end_str": "</t>"}
PROMPTS = ["Why?<t>", "Why not?<t>so ", "And the other thing", "Tell me<t>"]


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> LLM:
    return LLM(str(tiny_llama), dtype="float32", seed=7, reasoning_config=MARKS)


def texts(llm: LLM, prompts: list[str], **params: Any) -> list[list[str]]:
    wanted = SamplingParams(**{"temperature": 0, "max_tokens": 30, "ignore_eos": True, "skip_special_tokens": False, **params})
    return [[one.text for one in output.outputs] for output in llm.generate(prompts, wanted, use_tqdm=False)]


class _Budget:
    """The same for transformers' `generate`, by looking at all tokens each time."""

    def __init__(self, start: list[int], end: list[int], budget: int) -> None:
        self.start, self.end, self.budget, self.forced = start, end, budget, 0

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = ids[0].tolist()

        def last(mark: list[int]) -> int:
            return max((i for i in range(len(tokens)) if tokens[i : i + len(mark)] == mark), default=-1)

        begin = last(self.start)
        if begin > last(self.end) and len(tokens) - begin - len(self.start) >= self.budget:
            scores = torch.full_like(scores, -torch.inf)
            scores[0, self.end[self.forced % len(self.end)]] = 0
            self.forced += 1
        return scores


def test_the_same_as_in_transformers(llm: LLM, tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    start, end = (tokenizer.encode(MARKS[name], add_special_tokens=False) for name in MARKS)
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
        rule: Any = LogitsProcessorList([_Budget(start, end, 8)])  # type: ignore[list-item]
        out = model.generate(ids, max_new_tokens=30, do_sample=False, logits_processor=rule, eos_token_id=None)
        expected = tokenizer.decode(out[0, ids.shape[1] :])
        assert texts(llm, [prompt], thinking_token_budget=8) == [[expected]]
        assert ("</t>" in expected) == ("<t>" in prompt)


def test_no_schedule_has_a_say(llm: LLM, tiny_llama: Path) -> None:
    """One at a time, in small steps, and with blocks taken away and given back."""
    many = [f"{prompt} {i}<t>" for i, prompt in enumerate(PROMPTS * 3)]
    params: dict[str, Any] = {"temperature": 1.0, "n": 3, "seed": 3, "thinking_token_budget": 5}
    expected = texts(llm, many, **params)
    assert all(text[:20].count("</t>") == 1 for one in expected for text in one)
    assert len({text for one in expected for text in one}) == 3 * len(many)
    narrow = LLM(
        str(tiny_llama),
        dtype="float32",
        seed=7,
        reasoning_config=MARKS,
        max_num_seqs=5,
        max_num_batched_tokens=16,
        num_gpu_blocks_override=12,
        block_size=8,
        max_model_len=96,
    )
    assert texts(narrow, many, **params) == expected
    assert narrow.get_metrics()  # it ran
    assert any(metric.name.endswith("num_preemptions") and metric.value > 0 for metric in narrow.get_metrics())


def test_nothing_else_forbids_the_end(llm: LLM) -> None:
    end = llm.get_tokenizer().encode("</t>", add_special_tokens=False)

    def tokens(**other: Any) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, thinking_token_budget=3, **other)
        return llm.generate(["Why?<t>"], params, use_tqdm=False)[0].outputs[0].token_ids

    def forbid(ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(0, torch.tensor(end), -torch.inf)

    others: list[dict[str, Any]] = [{"bad_words": ["/"]}, {"logits_processors": [forbid]}, {"min_tokens": 12}]
    for other in others:
        assert tokens(**other)[3:7] == end
    only = tokens(allowed_token_ids=[100, 101])
    assert only[3:7] == end
    assert {*only[:3], *only[7:]} <= {100, 101}


def test_stop_strings_see_what_is_forced(llm: LLM) -> None:
    (output,) = llm.generate(
        ["Why?<t>"], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, thinking_token_budget=4, stop="</t>"), use_tqdm=False
    )
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", "</t>")
    assert len(output.outputs[0].token_ids) == 8


def test_a_constrained_output_has_no_reasoning(llm: LLM) -> None:
    params = {"structured_outputs": {"regex": "[ab]{12}"}, "thinking_token_budget": 2}
    assert texts(llm, ["Why?<t>"], **params) == texts(llm, ["Why?<t>"], structured_outputs={"regex": "[ab]{12}"})


def test_log_probabilities_are_the_models(llm: LLM) -> None:
    (output,) = llm.generate(
        ["Why?<t>"], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, thinking_token_budget=2, logprobs=1), use_tqdm=False
    )
    (one,) = output.outputs
    assert one.logprobs is not None
    ranks = [entries[token].rank for token, entries in zip(one.token_ids, one.logprobs, strict=True)]
    assert ranks[:2] == [1, 1]
    assert max(ranks[2:6]) > 1


def test_without_marks_a_budget_is_refused(tiny_llama: Path) -> None:
    plain = LLM(str(tiny_llama), dtype="float32")
    with pytest.raises(RecordError, match="--reasoning-config") as caught:
        plain.generate(["Why?"], SamplingParams(thinking_token_budget=3), use_tqdm=False)
    assert (caught.value.code, caught.value.param) == ("unsupported", "thinking_token_budget")
    plain.generate(["Why?"], SamplingParams(thinking_token_budget=-1, max_tokens=1), use_tqdm=False)  # is no budget


def test_a_loop_ends(llm: LLM) -> None:
    (before,) = llm.generate(["abc"], SamplingParams(temperature=0, max_tokens=40, logit_bias={70: 100.0}), use_tqdm=False)
    assert before.outputs[0].token_ids == [70] * 40
    looking = RepetitionDetectionParams(max_pattern_size=4, min_count=5)
    params = {"temperature": 0, "max_tokens": 40, "logit_bias": {70: 100.0}}
    for more, length in (({}, 5), ({"min_tokens": 12}, 12)):
        (after,) = llm.generate(["abc"], SamplingParams(**params, **more, repetition_detection=looking), use_tqdm=False)
        (one,) = after.outputs
        assert (one.finish_reason, one.stop_reason, len(one.token_ids)) == ("repetition", "repetition_detected", length)
    (cut,) = llm.generate(["abc"], SamplingParams(**{**params, "max_tokens": 5}, repetition_detection=looking), use_tqdm=False)
    assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == ("length", None)
    word = llm.get_tokenizer().decode([70] * 5, skip_special_tokens=False)
    (stopped,) = llm.generate(["abc"], SamplingParams(**params, repetition_detection=looking, stop=word), use_tqdm=False)
    assert (stopped.outputs[0].finish_reason, stopped.outputs[0].stop_reason) == ("stop", word)
