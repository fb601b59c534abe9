"""Two engines answer as one does: the same outputs, whichever of them a request meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infer.core import LLM, BeamSearchParams, SamplingParams
from infer.core.errors import ConfigError, RecordError
from infer.core.types.outputs import RequestOutput

pytestmark = pytest.mark.usefixtures("forked_ranks")

PROMPTS = ["It was the best of times, it was the worst of times"[: 3 * i + 1] for i in range(17)]


def params() -> list[SamplingParams]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "n": 3, "logprobs": 2},
        {"temperature": 1.2, "seed": 5, "prompt_logprobs": 1, "stop": ("e",)},
        {"temperature": 0.7, "logit_bias": {70: 4.0}, "bad_words": ("a",), "best_of": 2},
    ]
    return [SamplingParams(max_tokens=6 + i % 7, **kinds[i % 4]) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def engines(tiny_llama: Path) -> list[LLM]:
    return [LLM(str(tiny_llama), device="cpu", seed=3, data_parallel_size=n, max_num_seqs=4) for n in (1, 2)]


def without_times(outputs: list[RequestOutput]) -> list[RequestOutput]:
    for output in outputs:
        output.metrics = None
        output.num_cached_tokens = 0
    return outputs


def test_the_same_outputs(engines: list[LLM]) -> None:
    alone, two = (without_times(llm.generate(PROMPTS, params(), use_tqdm=False)) for llm in engines)
    assert alone == two
    assert two[1].outputs[0].text != two[1].outputs[1].text


def test_streams_beams_and_refusals(engines: list[LLM]) -> None:
    def got(llm: LLM) -> Any:
        open_stream = llm.stream(PROMPTS, SamplingParams(temperature=0, max_tokens=5))
        first = next(open_stream)
        open_stream.close()  # what is left is dropped, in whichever engine it is
        assert first.outputs
        beams = llm.beam_search(["It was", "the best"], BeamSearchParams(3, 6))
        bad = llm.generate([[1, 2], [10**6], list(range(100)) * 9], SamplingParams(max_tokens=3), use_tqdm=False, on_error="return")
        return beams, [(o.error.to_json() if o.error else None) for o in bad]

    alone, two = map(got, engines)
    assert alone == two
    assert not any(member.load for member in engines[1].engine._members.values())  # what was dropped is nobody's work any more
    assert [error and error["code"] for error in two[1]] == [None, "invalid_value", "prompt_too_long"]
    with pytest.raises(RecordError):
        engines[1].generate([[10**6]], use_tqdm=False)


def test_models_that_pool(tiny_bert: Path) -> None:
    def got(count: int) -> Any:
        llm = LLM(str(tiny_bert), device="cpu", data_parallel_size=count, max_num_seqs=3)
        asked = [*PROMPTS, [3, 4], [10**6]]
        outputs = llm.embed(asked, use_tqdm=False, on_error="return", tokenization_kwargs={"truncate_prompt_tokens": -1})
        return [(o.outputs.embedding, o.prompt_token_ids, o.error and o.error.to_json()) for o in outputs]

    alone, two = map(got, (1, 2))
    assert alone == two
    assert [error and error["code"] for _, _, error in two[-2:]] == [None, "invalid_value"]
    assert len(two[0][0]) == 32


def test_a_lost_engine_is_told(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kernels"):  # found by this process
        LLM(str(tiny_llama), device="cpu", data_parallel_size=2, kernels="none")
