"""The Python class: a thin face on the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from infer.core import LLM, RecordError, SamplingParams


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> LLM:
    return LLM(str(tiny_llama), dtype="float32", device="cpu", max_model_len=128)


def test_every_form_of_prompt_gives_the_same(llm: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=5)
    ids = llm.tokenizer.encode("hello")
    outputs = llm.generate(["hello", ids, {"prompt": "hello"}, {"prompt_token_ids": ids}], greedy, use_tqdm=False)
    assert len({tuple(o.outputs[0].token_ids) for o in outputs}) == 1
    assert [o.prompt for o in outputs] == ["hello", None, "hello", None]
    assert all(o.prompt_token_ids == ids and o.finished for o in outputs)
    for single in ("hello", ids, {"prompt": "hello"}):
        assert llm.generate(single, greedy, use_tqdm=False)[0].outputs == outputs[0].outputs


def test_parameters_pair_with_prompts(llm: LLM) -> None:
    outputs = llm.generate(
        ["a", "b"], [SamplingParams(max_tokens=2, ignore_eos=True), SamplingParams(max_tokens=5, n=2, ignore_eos=True)], use_tqdm=False
    )
    assert [[len(c.token_ids) for c in o.outputs] for o in outputs] == [[2], [5, 5]]
    with pytest.raises(ValueError, match="2 prompts and 3 sampling_params"):
        llm.generate(["a", "b"], [SamplingParams()] * 3)
    assert len(llm.generate(["a"], use_tqdm=False)[0].outputs[0].token_ids) <= 16
    assert llm.generate([], use_tqdm=False) == []


def test_the_index_counts_all_requests_ever_given(llm: LLM) -> None:
    first, second = (llm.generate(["a"], SamplingParams(max_tokens=8), use_tqdm=False)[0] for _ in range(2))
    assert first.outputs[0].token_ids != second.outputs[0].token_ids
    assert int(second.request_id) == int(first.request_id) + 1


def test_a_bad_prompt_raises_and_leaves_nothing_behind(llm: LLM) -> None:
    for bad in ["x" * 500, [99999], {"text": "a"}, [[1, 2]], {"prompt": 5}]:
        with pytest.raises(RecordError):
            llm.generate(["good", bad], use_tqdm=False)  # type: ignore[list-item]
        assert llm.engine.num_unfinished == 0
    assert llm.generate(["good"], use_tqdm=False)[0].error is None
