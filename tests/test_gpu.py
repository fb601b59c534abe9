"""The whole program on a GPU: `pytest -m gpu`. The kernels by themselves are in tests/kernels/cuda."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, SamplingParams
from infer.core.types.outputs import RequestOutput

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(12)]
#: About 150 million parameters, of no particular value: enough for the device to be what is measured.
WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4}
WIDE |= {"head_dim": 64, "max_position_embeddings": 4096}


def answers(model: Path, prompts: list[list[int]] = PROMPTS, *, drawn: bool = False, **more: Any) -> list[RequestOutput]:
    """Greedy unless `drawn`."""
    settings: dict[str, Any] = {"device": "cuda", "skip_tokenizer_init": True, "num_gpu_blocks_override": 400, **more}
    llm = LLM(str(model), **settings)
    params = SamplingParams(temperature=float(drawn), seed=3, top_p=0.9, max_tokens=24, logprobs=2, detokenize=False, ignore_eos=True)
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def same_but_for_ties(one: list[RequestOutput], other: list[RequestOutput]) -> None:
    """Tokens agree up to where the two best are closer than rounding tells apart; most of all tokens are before that."""
    compared = 0
    for a, b in zip(one, other, strict=True):
        x, y = a.outputs[0], b.outputs[0]
        assert x.logprobs is not None
        for entries, token, other_token in zip(x.logprobs, x.token_ids, y.token_ids, strict=True):
            if token != other_token:
                first, second = sorted((entry.logprob for entry in entries.values()), reverse=True)[:2]
                assert first - second < 1e-3
                break
            compared += 1
    assert compared > 12 * len(one)


def exactly(outputs: list[RequestOutput]) -> list[Any]:
    return [(list(o.outputs[0].token_ids), o.outputs[0].logprobs) for o in outputs]


@pytest.mark.parametrize("more", [{}, {"deterministic": True}, {"kernels": "reference"}], ids=str)
@pytest.mark.parametrize("enforce_eager", [False, True])
def test_greedy_text_is_that_of_the_cpu(tiny_llama: Path, more: dict[str, Any], enforce_eager: bool) -> None:
    expected = answers(tiny_llama, device="cpu", dtype="float32")
    same_but_for_ties(expected, answers(tiny_llama, dtype="float32", enforce_eager=enforce_eager, **more))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("drawn", [False, True])
def test_deterministic_answers_do_not_depend_on_the_batch(tiny_llama: Path, dtype: str, drawn: bool) -> None:
    together = exactly(answers(tiny_llama, dtype=dtype, deterministic=True, drawn=drawn))
    for more in ({"max_num_seqs": 1}, {"max_num_batched_tokens": 32, "enable_prefix_caching": False}, {"enforce_eager": True}):
        assert exactly(answers(tiny_llama, dtype=dtype, deterministic=True, drawn=drawn, **more)) == together
    assert exactly(answers(tiny_llama, PROMPTS[:1], dtype=dtype, deterministic=True, drawn=drawn)) == together[:1]


def test_memory_stays_within_the_share(tiny_llama: Path) -> None:
    """Weights, cache, activations and captured graphs; torch's own context is not counted."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    share, total = 0.3, torch.cuda.mem_get_info()[1]
    wide = {"hf_overrides": WIDE, "load_format": "dummy"}
    answers(tiny_llama, dtype="bfloat16", gpu_memory_utilization=share, num_gpu_blocks_override=None, **wide)
    peak = torch.cuda.max_memory_reserved()
    print(f"\npeak {peak / 2**30:.2f} GiB of {share * total / 2**30:.2f} GiB asked for")
    assert peak <= share * total


@pytest.mark.parametrize("more", [{"kv_cache_dtype": "fp8"}, {"quantization": "int8"}], ids=str)
def test_graphs_give_the_bytes_of_eager_steps(tiny_llama: Path, more: dict[str, Any]) -> None:
    settings = {"dtype": "bfloat16", "deterministic": True, **more}
    assert exactly(answers(tiny_llama, **settings)) == exactly(answers(tiny_llama, enforce_eager=True, **settings))


@TWO_GPUS
@pytest.mark.parametrize("more", [{}, {"deterministic": True}], ids=str)
def test_two_gpus_share_a_model(tiny_llama: Path, more: dict[str, Any]) -> None:
    same_but_for_ties(answers(tiny_llama, dtype="float32"), answers(tiny_llama, dtype="float32", tensor_parallel_size=2, **more))


@TWO_GPUS
def test_two_gpus_share_the_work(tiny_llama: Path) -> None:
    one = exactly(answers(tiny_llama, dtype="float32", deterministic=True))
    assert exactly(answers(tiny_llama, dtype="float32", deterministic=True, data_parallel_size=2)) == one


@TWO_GPUS
def test_another_gpu_than_the_first(tiny_llama: Path) -> None:
    same_but_for_ties(answers(tiny_llama, device="cuda:0", dtype="float32"), answers(tiny_llama, device="cuda:1", dtype="float32"))


@pytest.mark.parametrize("enforce_eager", [False, True])
def test_throughput(tiny_llama: Path, enforce_eager: bool) -> None:
    """Prints a line; that it is not slower than a CPU's is all that is asked."""
    wide = {"hf_overrides": WIDE, "load_format": "dummy", "dtype": "bfloat16", "device": "cuda", "skip_tokenizer_init": True}
    llm = LLM(str(tiny_llama), enforce_eager=enforce_eager, **wide)
    params = SamplingParams(temperature=0, max_tokens=128, detokenize=False, ignore_eos=True)
    prompts = [{"prompt_token_ids": [(i * 31 + j) % 250 for j in range(128)]} for i in range(256)]
    llm.generate(prompts[:8], params, use_tqdm=False)  # compiles
    stats = llm.engine.stats
    before, steps = dict(stats.seconds), stats.num_steps
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds, steps = time.perf_counter() - started, stats.num_steps - steps
    rate = sum(len(o.outputs[0].token_ids) for o in outputs) / seconds
    parts = ", ".join(f"{name} {1e3 * (value - before[name]) / steps:.2f}" for name, value in stats.seconds.items())
    print(f"\n{torch.cuda.get_device_name()}, {'eager' if enforce_eager else 'graphs'}: {rate:,.0f} output tokens/s")
    print(f"{steps} steps of {1e3 * seconds / steps:.2f} ms; by the host's clock, ms of one: {parts}")
    assert rate > 2000
