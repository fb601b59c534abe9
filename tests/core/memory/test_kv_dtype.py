"""A KV cache in 8 bits: what rounded keys and values answer, in less memory, whatever the schedule; refused where it is not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, SamplingParams
from infer.core.errors import ConfigError
from infer.core.memory import kv_cache
from infer.core.settings.args import EngineArgs
from infer.kernels import load
from infer.kernels.ops import KVCache
from infer.kernels.reference.kv import narrowed, widened

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(4)] + [[(21 + j * j) % 250 for j in range(41)]]
SETTINGS: dict[str, Any] = {"device": "cpu", "kernels": "reference", "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 64}


def answers(llm: LLM, **params: Any) -> list[Any]:
    asked = SamplingParams(**{"temperature": 0.8, "seed": 1, "max_tokens": 12, "logprobs": 2, "ignore_eos": True, **params})
    return llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], asked)


@pytest.mark.parametrize("kept", ["fp8", "fp8_e5m2"])
def test_answers_are_those_of_rounded_keys_and_values_whatever_the_schedule(
    tiny_llama: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    allocate = kv_cache.allocate

    def watched(*args: Any) -> list[KVCache]:
        caches = allocate(*args)
        sizes.append(sum(tensor[0].nbytes for cache in caches for tensor in cache))
        return caches

    monkeypatch.setattr(kv_cache, "allocate", watched)
    roomy = LLM(str(tiny_llama), **SETTINGS, kv_cache_dtype=kept, num_gpu_blocks_override=100)
    whole = [one.outputs[0].logprobs for one in answers(roomy)]
    tight: dict[str, Any] = {"num_gpu_blocks_override": 4, "max_num_seqs": 3, "max_num_batched_tokens": 16, "enable_prefix_caching": False}
    cramped = LLM(str(tiny_llama), **SETTINGS, **tight, kv_cache_dtype=kept)
    assert [one.outputs[0].logprobs for one in answers(cramped)] == whole
    assert cramped.engine.stats.num_preemptions > 0

    wide = LLM(str(tiny_llama), **SETTINGS, num_gpu_blocks_override=100)
    assert sizes[0] == sizes[1] == sizes[2] // 4
    assert [one.outputs[0].logprobs for one in answers(wide)] != whole
    name, most = (torch.float8_e4m3fn, 448) if kept == "fp8" else (torch.float8_e5m2, 57344)
    monkeypatch.setattr("infer.kernels.reference.kv.narrowed", lambda x, dtype: x.clamp(-most, most).to(name).to(dtype))
    rounded = LLM(str(tiny_llama), **SETTINGS, num_gpu_blocks_override=100)
    assert [one.outputs[0].logprobs for one in answers(rounded)] == whole


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_int8_answers_are_those_of_rounded_keys_and_values_whatever_the_schedule(
    tiny_llama: Path, compiled_kernels: None, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "cpu" and not _compiled():
        pytest.skip("no CPU kernels here")
    settings = SETTINGS | {"kernels": kernels, "kv_cache_dtype": "int8"}
    roomy = LLM(str(tiny_llama), **settings, num_gpu_blocks_override=100)
    whole = [one.outputs[0].logprobs for one in answers(roomy)]
    tight: dict[str, Any] = {"num_gpu_blocks_override": 4, "max_num_seqs": 3, "max_num_batched_tokens": 16}
    for caching in (False, True):
        cramped = LLM(str(tiny_llama), **settings, **tight, enable_prefix_caching=caching)
        assert [one.outputs[0].logprobs for one in answers(cramped)] == whole
        assert cramped.engine.stats.num_preemptions > 0

    one_token = {"max_tokens": 1, "logprobs": 5}
    found = [one.outputs[0].logprobs[0] for one in answers(roomy, **one_token)]
    monkeypatch.setattr("infer.kernels.reference.kv.narrowed", lambda x, dtype: widened(narrowed(x, torch.int8)).to(dtype))
    rounded = LLM(str(tiny_llama), **SETTINGS, num_gpu_blocks_override=100)
    for mine, theirs in zip(found, [one.outputs[0].logprobs[0] for one in answers(rounded, **one_token)], strict=True):
        if kernels == "reference":
            assert mine == theirs
        else:  # which rounds queries and weights too, to 14 bits
            assert all(abs(mine[token].logprob - theirs[token].logprob) < 0.02 for token in mine.keys() & theirs.keys())


def test_the_setting(tiny_llama: Path) -> None:
    for name in ("fp8_e4m3", "int8"):
        assert EngineArgs(kv_cache_dtype=name).kv_cache_dtype == name
    with pytest.raises(ConfigError, match=r"kv_cache_dtype must be one of auto, int8, fp8"):
        EngineArgs(kv_cache_dtype="int4")
    assert "set fp8" in load("cuda").kv_refusal(torch.int8)


def test_refused_where_kernels_keep_none(compiled_kernels: None, tiny_llama: Path) -> None:
    if not _compiled():
        pytest.skip("no CPU kernels here")
    with pytest.raises(ConfigError, match=r"kv_cache_dtype=fp8_e4m3: the CPU kernels keep keys and values in the model's dtype or in int8"):
        LLM(str(tiny_llama), **SETTINGS | {"kernels": "cpu"}, kv_cache_dtype="fp8")


def _compiled() -> bool:
    from infer.kernels.cpu.library import BuildError, load

    try:
        load()
    except BuildError:
        return False
    return True
