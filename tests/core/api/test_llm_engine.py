"""`LLMEngine`: requests one by one, steps, ids of the caller's own. The loop is that of vLLM's example of several adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from infer import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from infer.core import LLM, ConfigError, RecordError
from infer.lora.request import LoRARequest

from ..adapters.making import random_matrices, write_adapter

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=1)
PROMPTS = ["one", "two and more", "three"]


def args(model: Path, **more: object) -> EngineArgs:
    settings = {"dtype": "float32", "device": "cpu", "max_model_len": 128, "kv_cache_memory_bytes": 1 << 20}
    return EngineArgs.from_kwargs(model=str(model), **settings, **more)


@pytest.fixture
def engine(tiny_llama: Path) -> Iterator[LLMEngine]:
    with LLMEngine.from_engine_args(args(tiny_llama)) as engine:
        yield engine


def finish(engine: LLMEngine) -> dict[str, RequestOutput]:
    found = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            assert output.finished
            found[output.request_id] = output
    return found


def test_requests_join_while_others_run(engine: LLMEngine, tiny_llama: Path) -> None:
    found: dict[str, RequestOutput] = {}
    waiting = list(enumerate(PROMPTS))
    while waiting or engine.has_unfinished_requests():
        if waiting:
            number, prompt = waiting.pop(0)
            engine.add_request(f"r{number}", prompt, GREEDY)
        found |= {output.request_id: output for output in engine.step()}
    with LLM.from_engine_args(args(tiny_llama)) as llm:
        wanted = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert [found[f"r{i}"].outputs[0].token_ids for i in range(3)] == [one.outputs[0].token_ids for one in wanted]
    assert engine.step() == []


def test_several_adapters_and_one_slot(tiny_llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    folders = [write_adapter(tmp_path / str(i), random_matrices(model, r".*[qv]_proj", 4, i, size=2.0)) for i in range(2)]
    adapters = [None, *(LoRARequest(f"a{i}", i + 1, str(folder)) for i, folder in enumerate(folders))]
    with LLMEngine.from_engine_args(args(tiny_llama, enable_lora=True, max_loras=1, max_lora_rank=8, max_cpu_loras=2)) as engine:
        for number, adapter in enumerate(adapters):
            engine.add_request(str(number), PROMPTS[0], GREEDY, lora_request=adapter)
        found = finish(engine)
    assert [found[str(i)].lora_request for i in range(3)] == adapters
    assert len({tuple(one.outputs[0].token_ids) for one in found.values()}) == 3


def test_an_id_is_of_one_unfinished_request(engine: LLMEngine) -> None:
    engine.add_request("a", PROMPTS[0], GREEDY)
    with pytest.raises(ConfigError, match="'a' is that of an unfinished request"):
        engine.add_request("a", PROMPTS[1], GREEDY)
    with pytest.raises(ConfigError, match="must be a string"):
        engine.add_request(1, PROMPTS[1], GREEDY)  # type: ignore[arg-type]
    assert list(finish(engine)) == ["a"]
    engine.add_request("a", PROMPTS[1], GREEDY)
    assert list(finish(engine)) == ["a"]


def test_what_is_refused_is_not_taken(engine: LLMEngine) -> None:
    with pytest.raises(RecordError):
        engine.add_request("long", "x" * 4000, GREEDY)
    assert not engine.has_unfinished_requests()
    engine.add_request("long", PROMPTS[0], GREEDY)
    assert engine.get_num_unfinished_requests() == 1
    assert list(finish(engine)) == ["long"]


def test_dropped_requests_are_not_answered(engine: LLMEngine) -> None:
    for number, prompt in enumerate(PROMPTS):
        engine.add_request(str(number), prompt, GREEDY)
    engine.step()
    engine.abort_request("0")
    engine.abort_request(["1", "unknown"])
    assert list(finish(engine)) == ["2"]
    assert engine._llm.engine.num_unfinished == 0
