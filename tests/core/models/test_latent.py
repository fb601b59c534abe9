"""Models with latent attention: what their caches hold, quantized checkpoints, beams, and latents in 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from infer.core import LLM, SamplingParams
from infer.core.errors import ConfigError
from infer.core.types.beam_params import BeamSearchParams
from infer.kernels.ops import KVCache

from ..weights.formats.packers import PACKERS
from .test_architectures import ARCHITECTURES, MLA, prompts_of, reference_model

KIND, CHANGES = next(row for row in ARCHITECTURES if row[0] == "deepseek_v3")
PROMPTS = prompts_of(40, 9, 33)
ROOMY: dict[str, Any] = {"num_gpu_blocks_override": 100}
TIGHT: dict[str, Any] = {"num_gpu_blocks_override": 9, "max_num_batched_tokens": 16, "enable_prefix_caching": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(KIND)
    reference_model(KIND, CHANGES).save_pretrained(made)
    return made


def started(folder: Path, **settings: Any) -> LLM:
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 96}
    return LLM(str(folder), **{**given, **ROOMY, **settings})


def answers(llm: LLM) -> list[Any]:
    params = SamplingParams(temperature=0, max_tokens=8, logprobs=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    return [(one.prompt_logprobs, one.outputs[0].token_ids, one.outputs[0].logprobs) for one in outputs]


def test_int8_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"kv_cache_dtype=int8: model .* keeps latents"):
        started(folder, kv_cache_dtype="int8")


def test_a_token_is_one_vector_a_layer(folder: Path) -> None:
    llm = started(folder, dtype="bfloat16")
    caches: list[KVCache] = llm.engine.runner.caches  # type: ignore[attr-defined]
    block = sum(tensor[0].nbytes for cache in caches for tensor in cache)
    assert block == 16 * 3 * (MLA["kv_lora_rank"] + MLA["qk_rope_head_dim"]) * 2


def test_beams_do_not_depend_on_the_schedule(folder: Path) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=12, ignore_eos=True)
    found = [
        [[(one.tokens, one.cum_logprob) for one in output.sequences] for output in llm.beam_search(asked, params)]
        for llm in (started(folder), started(folder, **TIGHT))
        for asked in [[{"prompt_token_ids": ids} for ids in PROMPTS]]
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["fp8-small-blocks", "fp8-rows"])
def test_every_matrix_of_attention_may_be_quantized(folder: Path, tmp_path: Path, form: str) -> None:
    """What the values mean, stored plainly, gives the same."""
    weights, packer = load_file(folder / "model.safetensors"), PACKERS[form]
    meant, stored = dict(weights), dict(weights)
    for name in [name for name in weights if (".self_attn." in name and name.endswith("_proj.weight")) or "with_mqa.weight" in name]:
        packed = packer.pack(weights[name])
        meant[name] = packed.means
        del stored[name]
        stored |= {name.removesuffix(".weight") + suffix: tensor.contiguous() for suffix, tensor in packed.tensors.items()}
    config = json.loads((folder / "config.json").read_text())
    for place, tensors, more in (("meant", meant, {}), ("stored", stored, {"quantization_config": packer.config})):
        (tmp_path / place).mkdir()
        save_file(tensors, tmp_path / place / "model.safetensors", {"format": "pt"})
        (tmp_path / place / "config.json").write_text(json.dumps(config | more))
    plain, quantized = (answers(started(tmp_path / place, activation_dtype="model")) for place in ("meant", "stored"))
    for (expected, *_), (got, *_) in zip(plain, quantized, strict=True):
        for one, other in zip(expected[1:], got[1:], strict=True):
            assert all(abs(one[token].logprob - other[token].logprob) < 1e-3 for token in one.keys() & other.keys())
    assert [tokens for _, tokens, _ in plain] == [tokens for _, tokens, _ in quantized]


def test_latents_in_8_bits_do_not_depend_on_the_schedule(folder: Path) -> None:
    settings: dict[str, Any] = {"kernels": "reference", "kv_cache_dtype": "fp8"}
    whole = answers(started(folder, **settings))
    assert answers(started(folder, **settings, **TIGHT)) == whole
    assert answers(started(folder, kernels="reference")) != whole
