"""The calls of `LLM` about itself: closing, sleeping, prompts that are enqueued, the prefix cache, counts, the model inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infer.core import LLM, BeamSearchParams, ConfigError, EngineArgs, RecordError, SamplingParams

pytestmark = pytest.mark.usefixtures("forked_ranks")

SETTINGS: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_model_len": 128, "kv_cache_memory_bytes": 1 << 20}
GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
PROMPTS = ["one", "two and more", "three"]


@pytest.fixture
def llm(tiny_llama: Path) -> Iterator[LLM]:
    with LLM(str(tiny_llama), **SETTINGS) as llm:
        yield llm


def ids(outputs: list[Any]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_a_closed_one_answers_no_more(tiny_llama: Path) -> None:
    with LLM(str(tiny_llama), **SETTINGS) as llm:
        stream = llm.stream(PROMPTS, [{"max_tokens": count, "ignore_eos": True} for count in (1, 20, 20)])
        next(stream)
    with pytest.raises(ConfigError, match="closed"):
        llm.generate(PROMPTS, GREEDY)
    with pytest.raises(ConfigError, match="closed"):
        list(stream)
    with pytest.raises(ConfigError, match="closed"):
        llm.wake_up()
    with pytest.raises(ConfigError, match="closed"), llm:
        pass
    llm.close()
    stream.close()


def test_close_ends_other_engines(tiny_llama: Path) -> None:
    llm = LLM(str(tiny_llama), data_parallel_size=2, **SETTINGS)
    before = ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    assert llm.reset_prefix_cache()
    assert ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False)) == before
    processes = [member.replica.worker.process for member in llm.engine._members.values()]
    llm.close()
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("level", [1, 2])
def test_it_answers_the_same_after_a_sleep(llm: LLM, level: int) -> None:
    before = ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    llm.sleep(level)
    llm.sleep(level)
    assert llm.is_sleeping
    with pytest.raises(ConfigError, match="wake_up"):
        llm.generate(PROMPTS, GREEDY)
    with pytest.raises(ConfigError, match="'wieghts'; did you mean 'weights'"):
        llm.wake_up("wieghts")
    llm.wake_up(tags=["weights", "kv_cache"])
    llm.wake_up()
    assert not llm.is_sleeping
    assert ids(llm.generate(PROMPTS, GREEDY, use_tqdm=False)) == before


def test_no_sleep_while_prompts_wait(llm: LLM) -> None:
    llm.enqueue(PROMPTS, GREEDY)
    assert not llm.reset_prefix_cache()
    with pytest.raises(ConfigError, match="wait"):
        llm.sleep()
    with pytest.raises(ConfigError, match="level"):
        llm.sleep(3)
    assert len(llm.wait_for_completion(use_tqdm=False)) == 3


def test_what_is_enqueued_is_answered_in_order(llm: LLM) -> None:
    wanted = ids(llm.generate([*PROMPTS, "four"], GREEDY, use_tqdm=False))
    numbers = [*llm.enqueue(PROMPTS, GREEDY), *llm.enqueue("four", {"temperature": 0, "max_tokens": 5, "ignore_eos": True})]
    between = llm.generate("between", GREEDY, use_tqdm=False)
    assert len(between) == 1
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == numbers == ["4", "5", "6", "7"]
    assert ids(outputs) == wanted
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_an_error_among_enqueued_ones(llm: LLM) -> None:
    with pytest.raises(RecordError):
        llm.enqueue(["fine", "x" * 4000], GREEDY)
    assert llm.engine.num_unfinished == 0
    assert llm.wait_for_completion(use_tqdm=False) == []
    llm.enqueue(["fine", "x" * 4000], GREEDY, on_error="return")
    fine, failed = llm.wait_for_completion(use_tqdm=False, on_error="return")
    assert fine.error is None
    assert failed.error.code == "prompt_too_long"


def test_the_prefix_cache_is_forgotten(llm: LLM) -> None:
    prompt = {"prompt_token_ids": list(range(1, 60))}
    llm.generate(prompt, GREEDY, use_tqdm=False)
    assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens > 0
    assert llm.reset_prefix_cache()
    assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens == 0


def test_counts(llm: LLM) -> None:
    llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    found = {metric.name: metric.value for metric in llm.get_metrics()}
    assert found["infer:generation_tokens"] == 15
    assert found["infer:num_requests_running"] == found["infer:num_requests_waiting"] == 0


def test_the_model_inside(llm: LLM) -> None:
    assert llm.apply_model(lambda model: model.vocab_size) == [llm.engine.vocab_size]
    assert llm.collective_rpc(lambda runner, more: runner.block_size + more, args=(1,)) == [llm._plan.config.block_size + 1]
    with pytest.raises(ConfigError, match="no method 'nope'"):
        llm.collective_rpc("nope")
    with pytest.raises(ConfigError, match="no method 5"):
        llm.collective_rpc(5)  # type: ignore[arg-type]


def test_a_profile_is_written(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        llm.stop_profile()
    for number in range(2):
        llm.start_profile(str(tmp_path / "trace"))
        llm.generate("one", GREEDY, use_tqdm=False)
        path = llm.stop_profile()
        assert path == tmp_path / f"trace-{number}.json"
        assert json.loads(path.read_text())["traceEvents"]


def test_settings_put_together_before(tiny_llama: Path) -> None:
    with LLM.from_engine_args(EngineArgs(model=str(tiny_llama), **SETTINGS)) as llm:
        assert llm._plan.config.max_model_len == 128


def test_parameters_as_a_dict(llm: LLM) -> None:
    assert ids(llm.generate("one", {"temperature": 0, "max_tokens": 3}, use_tqdm=False)) == ids(
        llm.generate("one", SamplingParams(temperature=0, max_tokens=3), use_tqdm=False)
    )
    mixed = [{"max_tokens": 1}, SamplingParams(max_tokens=2)]
    assert [len(one) for one in ids(llm.generate(["a", "b"], mixed, use_tqdm=False))] == [1, 2]
    assert len(list(llm.stream(["a", "b"], {"max_tokens": 1}))) == 2
    beams = llm.beam_search("one", {"beam_width": 2, "max_tokens": 3})
    assert [s.tokens for s in beams[0].sequences] == [
        s.tokens for s in llm.beam_search("one", BeamSearchParams(beam_width=2, max_tokens=3))[0].sequences
    ]
    with pytest.raises(ConfigError, match=r"'max_token'.*max_tokens"):
        llm.generate("one", {"max_token": 3})
    with pytest.raises(RecordError, match="temperature"):
        llm.generate("one", {"temperature": -1})


def test_how_prompts_are_tokenized(llm: LLM) -> None:
    (whole,) = llm.generate("one two three four five", GREEDY, use_tqdm=False)
    how = {"truncate_prompt_tokens": 3, "truncation_side": "right", "add_special_tokens": False}
    (cut,) = llm.generate("one two three four five", GREEDY, use_tqdm=False, tokenization_kwargs=how)
    plain = llm.tokenizer.encode("one two three four five", add_special_tokens=False)
    assert cut.prompt_token_ids == plain[:3] != whole.prompt_token_ids
    assert GREEDY.truncate_prompt_tokens is None
    with pytest.raises(ConfigError, match="tokenization_kwargs 'padding'"):
        llm.generate("one", GREEDY, tokenization_kwargs={"padding": True})
