"""Schedule independence with steps that overlap: on a real, if tiny, model each record gets what it gets without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.engine.overruns import Overruns
from infer.core.settings.args import EngineArgs
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from . import test_mixed_parameters as mixed
from .test_schedule_independence import SCHEDULES, TEXT, answers, records, start

pytestmark = pytest.mark.usefixtures("forked_ranks")

#: Strings of which a random model writes some in 40 tokens, whatever its last bits are.
STOPS = ["th", *"etaoin\x11\x05"]


def overlapping(engine: Engine) -> tuple[Engine, Callable[[], int]]:
    """The engine with steps that overlap, and how many were begun before the one before was done."""
    engine._crew = None  # with lanes, no step of a lane is begun before its last is done
    engine.scheduler.overruns = Overruns(engine.scheduler.running, engine.scheduler.blocks)
    begun: list[Any] = []
    ahead = engine._begin_ahead

    def counted(*args: Any) -> Any:
        begun.append(ahead(*args))
        return begun[-1]

    engine._begin_ahead = counted  # type: ignore[method-assign]
    return engine, lambda: sum(step is not None for step in begun)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.grid)])  # the host is the same for both
def test_no_schedule_changes_an_answer(tiny_llama: Path, dtype: str) -> None:
    """All schedules; and also stop strings, which are found when one token too many is on its way."""
    kinds = {kind: records(kind) for kind in ("greedy", "sampled", "truncated", "choices", "prompts")}
    kinds["stops"] = [(p, replace(params, max_tokens=40, stop=STOPS, temperature=1.0)) for p, params in records("sampled")]
    base_engine = start(tiny_llama, dtype)
    base = {kind: answers(base_engine, made) for kind, made in kinds.items()}
    assert len({o.outputs[0].stop_reason for o in base["stops"]}) > 2
    for name, settings in SCHEDULES.items():
        if "lanes" in settings:
            continue
        engine, num_ahead = overlapping(start(tiny_llama, dtype, **settings))
        for kind, made in kinds.items():
            before, done = num_ahead(), engine.stats.num_output_tokens
            for expected, got in zip(base[kind], answers(engine, made), strict=True):
                assert got.outputs == expected.outputs, f"{kind}, {name}"
                assert got.prompt_logprobs == expected.prompt_logprobs, f"{kind}, {name}"
            if kind != "truncated":  # it has penalties
                assert num_ahead() > before + 5, f"{kind}, {name}"
            if kind != "prompts":  # not all choices are in its answers
                tokens = sum(len(c.token_ids) for o in base[kind] for c in o.outputs)
                assert engine.stats.num_output_tokens - done == tokens
        if "num_gpu_blocks_override" in settings:
            assert engine.stats.num_preemptions > 0


def needs_host(params: SamplingParams) -> bool:
    p = params
    penalized = p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1
    return bool(penalized or p.bad_words or p.logits_processors or p.structured_outputs)


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_every_mix_of_parameters(tiny_llama: Path, mode: str) -> None:
    drawn = [r for seed in (11, 12, 13) for r in mixed.records(seed)]
    heavy, light = [r for r in drawn if needs_host(r.params)], [r for r in drawn if not needs_host(r.params)]
    assert len(light) > 12
    made = [r for i, r in enumerate(light) for r in ([r, heavy[i]] if i % 4 == 3 else [r])]
    made = [Request(str(i), r.prompt_token_ids, r.params, i, priority=r.priority) for i, r in enumerate(made)]
    plain = mixed.start(tiny_llama, "float32", logprobs_mode=mode)
    for request in made:
        plain.add(request)
    expected = mixed.drain(plain)
    engine, num_ahead = overlapping(mixed.start(tiny_llama, "float32", logprobs_mode=mode, num_gpu_blocks_override=40, max_num_seqs=4))
    # One after another, so that steps with and without work for the host take turns.
    got = {}
    for request in made:
        engine.add(request)
        got.update({o.request_id: o for o in engine.step()})
    got.update(mixed.drain(engine))
    assert not [r.params for r in made if not mixed.same(got[r.request_id], expected[r.request_id])]
    assert num_ahead() > 20


def test_searches_come_and_go(tiny_llama: Path) -> None:
    """While beams are searched for nothing overlaps; before and after it does."""
    outputs = []
    for engine, num_ahead in (overlapping(start(tiny_llama, "float32", max_num_seqs=8)), (start(tiny_llama, "float32"), lambda: 99)):
        assert engine.tokenizer is not None
        for i in range(3):
            prompt = engine.tokenizer.encode(TEXT[i : 20 + i])
            engine.add(Request(str(i), prompt, SamplingParams(temperature=0.8, max_tokens=50, ignore_eos=True), i))
        got = {}
        for _ in range(4):
            got.update({o.request_id: o for o in engine.step()})
        assert num_ahead() > 3
        beam = BeamSearchParams(beam_width=3, max_tokens=6)
        engine.add(Request("beam", engine.tokenizer.encode(TEXT[:30]), beam.sampling(), 3, beam=beam))
        while engine.is_open("beam"):
            before = num_ahead()
            got.update({o.request_id: o for o in engine.step()})
            assert num_ahead() == before
        got.update(mixed.drain(engine))
        assert num_ahead() > 20
        outputs.append({i: o.outputs for i, o in got.items()})
    assert outputs[0] == outputs[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tiny_llama: Path) -> None:
    """Same answers with and without, and the host waits for nothing while it begins a step."""
    kinds = {kind: records(kind) for kind in ("greedy", "sampled", "choices")}
    engines = []
    for off in (True, False):
        args = EngineArgs.from_kwargs(
            model=str(tiny_llama), dtype="float32", device="cuda", seed=3, deterministic=True, disable_async_output_proc=off
        )
        engines.append(build_engine(make_plan(args)))
    plain, engine = engines
    assert plain.scheduler.overruns is None
    assert engine.scheduler.overruns is not None
    for kind, made in kinds.items():
        # The first time kernels are compiled and memory is taken, which may wait.
        assert [o.outputs for o in answers(engine, made)] == [o.outputs for o in answers(plain, made)], kind
    ahead = engine._begin_ahead

    def watched(*args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return ahead(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    engine._begin_ahead = watched  # type: ignore[method-assign]
    for kind in ("greedy", "sampled"):
        answers(engine, kinds[kind])


def test_ranks_get_the_tokens_that_were_drawn(tiny_llama: Path) -> None:
    """Greedy and sampled, whose tokens go from step to step without the host, to the other ranks too."""
    two: dict[str, Any] = {"tensor_parallel_size": 2, "disable_custom_all_reduce": True}  # as GPUs exchange
    plain = start(tiny_llama, "float32", **two)
    engine, num_ahead = overlapping(start(tiny_llama, "float32", **two))
    for kind in ("greedy", "sampled", "choices"):
        expected = answers(plain, records(kind))
        assert [o.outputs for o in answers(engine, records(kind))] == [o.outputs for o in expected]
    assert num_ahead() > 15
