"""Embeddings in the place of a prompt's first tokens: equal to transformers, and the same bytes whatever the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.engine.engine import Engine
from infer.core.errors import ConfigError, RecordError
from infer.core.settings.args import EngineArgs
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.outputs import RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.prompt_embeds import PLACEHOLDER, PromptEmbeds
from infer.core.types.request import Request

from .stepping import drain

SIZE = 64


def embeds(count: int, seed: int, size: int = SIZE) -> PromptEmbeds:
    return PromptEmbeds(np.random.default_rng(seed).normal(0, 0.5, (count, size)).astype(np.float32))


def request(index: int, given: PromptEmbeds | None, ids: list[int], params: SamplingParams, **more: Any) -> Request:
    placeholders = [] if given is None else [PLACEHOLDER] * len(given)
    return Request(str(index), [*placeholders, *ids], params, index, embeds=given, **more)


def start(model: Path, **kwargs: Any) -> Engine:
    settings = {"dtype": "float32", "device": "cpu", "seed": 3, "enable_prompt_embeds": True, **kwargs}
    return build_engine(make_plan(EngineArgs.from_kwargs(model=str(model), **settings)))


def answers(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    for one in requests:
        engine.add(one)
    got = drain(engine)
    return [got[one.request_id] for one in requests]


def records() -> list[Request]:
    """Virtual tokens before tokens, alone and without; some equal, some with a common beginning that ends within a block."""
    sampled = SamplingParams(temperature=0.8, max_tokens=20, n=2, logprobs=2, repetition_penalty=1.2)
    asks = SamplingParams(temperature=0, max_tokens=5, prompt_logprobs=1)
    long, ids = embeds(40, 1), list(range(10, 60))
    made = [
        *((long, ids[:n], sampled) for n in (0, 1, 9, 50)),
        (PromptEmbeds(long.values[:21]), [], sampled),
        (PromptEmbeds(long.values[:21]), ids[:5], asks),
        (embeds(21, 2), ids[:5], asks),
        (None, [PLACEHOLDER] * 21 + ids[:5], asks),
        *((embeds(8, 3), ids[:n], sampled) for n in (30, 30, 31)),
        (embeds(1, 4), [], asks),
    ]
    return [request(i, *one) for i, one in enumerate(made)]


def oracle(model: Path, given: PromptEmbeds, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of transformers in float32."""
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        words = made.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
        return made(inputs_embeds=torch.cat((torch.from_numpy(given.values), words))[None]).logits[0].log_softmax(-1)


@pytest.mark.parametrize("size", [3, 40])
def test_equal_to_transformers(tiny_llama: Path, size: int) -> None:
    given, ids = embeds(17, size), list(range(5, 5 + size))
    params = SamplingParams(temperature=0, max_tokens=6, logprobs=1, prompt_logprobs=0)
    (got,) = answers(start(tiny_llama), [request(0, given, ids, params)])
    choice, prompt = got.outputs[0], got.prompt_logprobs
    assert choice.logprobs is not None
    assert prompt is not None
    expected = oracle(tiny_llama, given, [*ids, *choice.token_ids])
    for place, token in enumerate(choice.token_ids, start=len(given) + size - 1):
        assert token == int(expected[place].argmax())
        assert choice.logprobs[place - len(given) - size + 1][token].logprob == pytest.approx(float(expected[place, token]), abs=1e-4)
    assert prompt[: len(given)] == [None] * len(given)
    assert len(prompt) == len(given) + size
    for place, token in enumerate(ids, start=len(given)):
        entry = prompt[place]
        assert entry is not None
        assert entry[token].logprob == pytest.approx(float(expected[place - 1, token]), abs=1e-4)
    assert got.num_virtual_tokens == len(given)
    assert got.prompt_ids == ids


@pytest.mark.parametrize("architecture", ["granite", "gemma2", "gpt2"])
def test_scales_and_positions_are_those_of_transformers(compiled_kernels: None, tmp_path: Path, architecture: str) -> None:
    """Granite multiplies embeddings whoever gives them, Gemma 2 those of tokens alone; GPT-2 adds positions to them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(2)
    shape = {"hidden_size": SIZE, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    shape = {"n_embd": SIZE, "n_layer": 2, "n_head": 4} if architecture == "gpt2" else shape
    scale = {"embedding_multiplier": 3.0} if architecture == "granite" else {}
    config = AutoConfig.for_model(
        architecture, **shape, **scale, vocab_size=80, intermediate_size=96, initializer_range=0.2, max_position_embeddings=128
    )
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path)
    given, ids = embeds(9, 5), [3, 1, 4, 1, 5]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    (got,) = answers(start(tmp_path, skip_tokenizer_init=True), [request(0, given, ids, params)])
    expected = oracle(tmp_path, given, ids)
    assert got.prompt_logprobs is not None
    told = [next(iter(entry.values())).logprob for entry in got.prompt_logprobs if entry is not None]
    assert told == pytest.approx([float(expected[len(given) - 1 + i, token]) for i, token in enumerate(ids)], abs=1e-4)


def test_no_schedule_changes_an_answer(tiny_llama: Path) -> None:
    base = answers(start(tiny_llama), records())
    assert base[5].outputs != base[6].outputs != base[7].outputs
    assert base[8].outputs[0].logprobs != base[10].outputs[0].logprobs
    schedules: list[dict[str, Any]] = [
        {"max_num_seqs": 1},
        {"max_num_batched_tokens": 5, "max_num_seqs": 4},
        {"enable_prefix_caching": False},
        {"num_gpu_blocks_override": 11},
        {"num_gpu_blocks_override": 11, "max_num_batched_tokens": 24},
        {"block_size": 4},
    ]
    for settings in schedules:
        engine = start(tiny_llama, **settings)
        for expected, got in zip(base, answers(engine, records()), strict=True):
            assert (got.outputs, got.prompt_logprobs) == (expected.outputs, expected.prompt_logprobs), settings
        if "num_gpu_blocks_override" in settings:
            assert engine.stats.num_preemptions > 0
    again = start(tiny_llama)
    answers(again, records())
    for expected, got in zip(base, answers(again, records()), strict=True):  # found in the cache, and only where it is the same
        assert got.outputs == expected.outputs
    cached = answers(again, records())
    assert cached[3].num_cached_tokens >= 80
    assert cached[7].num_cached_tokens == 0


def test_alone_is_as_beside_others(tiny_llama: Path) -> None:
    together = answers(start(tiny_llama), records())
    for i in (2, 4, 11):
        (alone,) = answers(start(tiny_llama), [records()[i]])
        assert alone.outputs == together[i].outputs


def test_beams(tiny_llama: Path) -> None:
    search = BeamSearchParams(beam_width=3, max_tokens=6)
    made = [request(i, embeds(20, i), [7, 8], search.sampling(), beam=search) for i in range(3)]
    roomy = answers(start(tiny_llama), made)
    scarce = start(tiny_llama, num_gpu_blocks_override=7, max_num_batched_tokens=16)
    assert [o.outputs for o in answers(scarce, made)] == [o.outputs for o in roomy]
    assert scarce.stats.num_preemptions or scarce.stats.num_steps > 12


def test_virtual_tokens_are_no_tokens(tiny_llama: Path) -> None:
    """A penalty for what is in the prompt does not meet the placeholder, and a processor is shown tokens alone."""
    seen: list[list[int]] = []

    def look(prompt: list[int], output: list[int], logits: torch.Tensor) -> torch.Tensor:
        seen.append(prompt)
        return logits

    bias = {PLACEHOLDER: 100}
    params = SamplingParams(temperature=0, max_tokens=1, repetition_penalty=50.0, logit_bias=bias, logits_processors=[look])
    (got,) = answers(start(tiny_llama), [request(0, embeds(4, 0), [9], params)])
    assert got.outputs[0].token_ids == [PLACEHOLDER]
    assert seen == [[9]]


def test_limits(tiny_llama: Path) -> None:
    engine, greedy = start(tiny_llama, max_model_len=32), SamplingParams(temperature=0, max_tokens=2)
    for given, ids, code in ((embeds(2, 0, 63), [1], "invalid_value"), (embeds(30, 0), [1, 2], "prompt_too_long")):
        with pytest.raises(RecordError) as caught:
            engine.add(request(0, given, ids, greedy))
        assert caught.value.code == code
    huge = PromptEmbeds(np.full((3, SIZE), 3e38, np.float32))
    beside = answers(engine, [request(0, huge, [1], greedy), request(1, embeds(3, 0), [1], greedy)])
    (alone,) = answers(start(tiny_llama, max_model_len=32), [request(1, embeds(3, 0), [1], greedy)])
    assert beside[1].outputs == alone.outputs
    with pytest.raises(RecordError, match="enable-prompt-embeds"):
        start(tiny_llama, enable_prompt_embeds=False).add(request(0, embeds(3, 0), [1], greedy))
    with pytest.raises(ConfigError, match="transformers' code"):
        start(tiny_llama, model_impl="transformers")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.zeros((2, 3), np.int64), "invalid_type"),
        (torch.zeros(2, 3, dtype=torch.int32), "invalid_type"),
        ([[1.0]], "invalid_type"),
        (np.zeros((3,), np.float32), "invalid_value"),
        (np.zeros((0, 3), np.float32), "invalid_value"),
        (np.zeros((2, 2, 3), np.float32), "invalid_value"),
        (np.full((2, 3), np.nan, np.float32), "invalid_value"),
        (np.full((2, 3), 1e300), "invalid_value"),
    ],
)
def test_wrong_values(value: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        PromptEmbeds.of(value)
    assert (caught.value.code, caught.value.param) == (code, "prompt_embeds")


def test_values_of_any_float_type() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert PromptEmbeds.of(torch.full((1, 2, 3), 0.5, dtype=dtype, requires_grad=True)).values.tolist() == [[0.5] * 3] * 2
    assert PromptEmbeds.of(np.full((2, 3), 0.5, np.float16)).values.dtype == np.float32
