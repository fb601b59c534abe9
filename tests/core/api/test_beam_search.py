"""`LLM.beam_search` on a tiny model: token by token what transformers finds, and every parameter does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, BeamSearchOutput, BeamSearchParams
from infer.core.errors import ConfigError, RecordError

PROMPTS = [[40, 41, 42], [77], [90, 91, 92, 93, 94, 95], [60] * 20]


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> LLM:
    return LLM(str(tiny_llama), dtype="float32", kv_cache_memory_bytes=8 << 20, max_num_batched_tokens=300)


@pytest.fixture(scope="module")
def hf(tiny_llama: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def search(llm: LLM, prompts: Any = PROMPTS, **params: Any) -> list[BeamSearchOutput]:
    prompts = [{"prompt_token_ids": p} if isinstance(p, list) else p for p in prompts]
    return llm.beam_search(prompts, BeamSearchParams(**{"beam_width": 4, "max_tokens": 10, **params}))


def check_against(hf: Any, prompt: list[int], output: BeamSearchOutput, **params: Any) -> None:
    """Beams and scores are those that `hf.generate` finds with these parameters."""
    ids = torch.tensor([prompt])
    fixed = {"num_beams": 4, "num_return_sequences": 4, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with torch.inference_mode():
        theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), **fixed, **params)
    for ours, tokens, score in zip(output.sequences, theirs.sequences.tolist(), theirs.sequences_scores.tolist(), strict=True):
        assert ours.score == pytest.approx(score, abs=1e-4, rel=1e-5)
        assert ours.tokens == tokens[: len(ours.tokens)]
        assert len(set(tokens[len(ours.tokens) :])) <= 1, "only padding follows"


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.5, 1.0, 2.0, -1.0])
def test_hf_scoring_finds_what_transformers_finds(llm: LLM, hf: Any, early_stopping: bool | str, length_penalty: float) -> None:
    params = {"early_stopping": early_stopping, "length_penalty": length_penalty}
    for prompt, output in zip(PROMPTS, search(llm, scoring="hf", **params), strict=True):
        check_against(hf, prompt, output, eos_token_id=llm.engine._ends.primary, pad_token_id=0, max_new_tokens=10, **params)


def test_scores_are_sums_of_logprobs_over_length(llm: LLM) -> None:
    for prompt, output in zip(PROMPTS, search(llm, logprobs=0, ignore_eos=True, length_penalty=0.7), strict=True):
        assert len(output.sequences) == 4
        for sequence in output.sequences:
            own = sequence.tokens[len(prompt) :]
            total = sum(entry[token].logprob for token, entry in zip(own, sequence.logprobs, strict=True))
            assert sequence.cum_logprob == pytest.approx(total, abs=1e-5)
            assert sequence.score == pytest.approx(total / len(sequence.tokens) ** 0.7, abs=1e-6)
            assert sequence.finish_reason == "length"


def test_num_return_cuts_and_width_one_is_greedy(llm: LLM) -> None:
    from infer.core import SamplingParams

    greedy = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], SamplingParams(temperature=0, max_tokens=10), use_tqdm=False)
    for output, other in zip(search(llm, beam_width=1, scoring="hf", early_stopping=True), greedy, strict=True):
        assert output.sequences[0].tokens == [*other.prompt_token_ids, *other.outputs[0].token_ids]
    whole = search(llm)
    assert [[s.tokens for s in o.sequences] for o in search(llm, num_return=2)] == [[s.tokens for s in o.sequences[:2]] for o in whole]


def test_tokens_that_are_forbidden_or_must_wait(llm: LLM) -> None:
    allowed = list(range(100, 140))
    for output in search(llm, allowed_token_ids=allowed, ignore_eos=True):
        assert all(set(s.tokens[-10:]) <= set(allowed) for s in output.sequences)
    first = {s.tokens[-10] for o in search(llm, ignore_eos=True) for s in o.sequences}
    biased = search(llm, logit_bias=dict.fromkeys(first, -100), ignore_eos=True)
    assert not first & {s.tokens[-10] for o in biased for s in o.sequences}
    stop = sorted(first)[0]
    early = search(llm, stop_token_ids=[stop])
    assert any(s.stop_reason == stop and s.tokens[-1] == stop for o in early for s in o.sequences)
    late = search(llm, stop_token_ids=[stop], min_tokens=6)
    assert all(len(s.tokens) - len(p) >= 6 for p, o in zip(PROMPTS, late, strict=True) for s in o.sequences)


def test_repetition_penalty_changes_what_is_summed(llm: LLM) -> None:
    plain, penalized = (search(llm, ignore_eos=True, repetition_penalty=r, beam_width=2) for r in (1.0, 5.0))
    assert [[s.tokens for s in o.sequences] for o in plain] != [[s.tokens for s in o.sequences] for o in penalized]
    for prompt, output in zip(PROMPTS, penalized, strict=True):
        own = output.sequences[0].tokens[len(prompt) :]
        assert len(set(own)) == len(own)


def test_stop_strings_end_beams_and_cut_texts(llm: LLM) -> None:
    text = search(llm, ["hello"], ignore_eos=True)[0].sequences[0].text
    assert text is not None
    stop = text[len("hello") + 2 : len("hello") + 4]
    (output,) = search(llm, ["hello"], ignore_eos=True, stop=[stop], beam_width=6)
    ended = [s for s in output.sequences if s.finish_reason == "stop"]
    assert ended
    for sequence in ended:
        assert sequence.stop_reason == stop
        assert stop not in str(sequence.text)[len("hello") :]
    (kept,) = search(llm, ["hello"], ignore_eos=True, stop=[stop], beam_width=6, include_stop_str_in_output=True)
    assert any(str(s.text).endswith(stop) for s in kept.sequences)


def test_structured_output_holds_for_every_beam(llm: LLM) -> None:
    (output,) = search(llm, ["say"], structured_outputs={"choice": ["yes", "no", "perhaps"]}, max_tokens=12, num_return=3)
    assert {str(s.text).removeprefix("say") for s in output.sequences} == {"yes", "no", "perhaps"}
    assert all(s.finish_reason == "stop" for s in output.sequences)


def test_beams_end_at_max_model_len(tiny_llama: Path) -> None:
    llm = LLM(str(tiny_llama), dtype="float32", max_model_len=24, kv_cache_memory_bytes=8 << 20)
    (output,) = llm.beam_search([{"prompt_token_ids": [50] * 20}], BeamSearchParams(beam_width=3, max_tokens=50, ignore_eos=True))
    assert [(len(s.tokens), s.finish_reason) for s in output.sequences] == [(24, "length")] * 3


def test_what_is_wrong_is_raised_or_returned(llm: LLM) -> None:
    bad = [PROMPTS[0], [10**6], PROMPTS[1]]
    with pytest.raises(RecordError, match="vocabulary"):
        search(llm, bad)
    params = BeamSearchParams(beam_width=4, max_tokens=10)
    outputs = llm.beam_search([{"prompt_token_ids": p} for p in bad], params, on_error="return", concurrency_limit=2)
    assert [o.error is None for o in outputs] == [True, False, True]
    assert [s.tokens for s in outputs[2].sequences] == [s.tokens for s in search(llm)[1].sequences]
    with pytest.raises(ConfigError, match="lora_request"):
        llm.beam_search(["a"], params, lora_request=object())


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_finds_what_transformers_finds(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, oracle = AutoTokenizer.from_pretrained(smollm2), AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    llm = LLM(str(smollm2), dtype="float32", max_model_len=256)
    prompts = [tokenizer(text).input_ids for text in ("The capital of France is", "Water boils at", "Once upon a time")]
    for early_stopping, length_penalty in ((False, 0.5), (True, 1.0), (False, 2.0)):
        params: dict[str, Any] = {"early_stopping": early_stopping, "length_penalty": length_penalty}
        for prompt, output in zip(prompts, search(llm, prompts, max_tokens=16, scoring="hf", **params), strict=True):
            check_against(oracle, prompt, output, max_new_tokens=16, **params)
