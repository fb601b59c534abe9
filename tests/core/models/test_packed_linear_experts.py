"""Experts that a checkpoint packs one by one, as any linear layer of it, and those rounded as they are loaded: what their numbers mean,
kept in their few bytes, the same in any company."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from infer.core import LLM, SamplingParams
from infer.core.layers.moe import Experts
from infer.core.quant.grouped import InGroups
from infer.core.quant.stored import Stored
from infer.core.types.outputs import RequestOutput
from infer.kernels import load

from ..weights.formats.packers import PACKERS

SIZES: dict[str, Any] = {
    "vocab_size": 250,
    "hidden_size": 64,
    "moe_intermediate_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "initializer_range": 0.2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
FORMS = ["gptq-desc_act", "awq", "w4a16-asymmetric", "compressed-nvfp4", "w8a16"]
PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(5)]
SETTINGS: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "max_model_len": 128, "num_gpu_blocks_override": 100}
#: Logits this close are a tie that rounding decides.
TIE = 1e-3


def write(folder: Path, form: str) -> Any:
    """A folder with packed linear layers but for routers, and transformers' model with what they mean; `form` "": a plain one."""
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model("qwen3_moe", **SIZES)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    if form:
        meant = load_file(folder / "model.safetensors")
        packed: dict[str, torch.Tensor] = {}
        for name, tensor in meant.items():
            layer = name.removesuffix(".weight")
            pack = PACKERS[form].of(layer) if layer.endswith("_proj") else None
            if pack is None:
                packed[name] = tensor
                continue
            one = pack(tensor)
            packed |= {layer + suffix: part.clone().contiguous() for suffix, part in one.tensors.items()}
            meant[name] = one.means
        save_file({name: tensor.contiguous() for name, tensor in meant.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if form:
        save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": PACKERS[form].config}))
    return model


def answers(folder: Path, **more: Any) -> list[RequestOutput]:
    params = SamplingParams(temperature=0, max_tokens=8, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    return LLM(str(folder), **{**SETTINGS, **more}).generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)


@pytest.mark.parametrize("form", FORMS)
def test_transformers_numbers(tmp_path: Path, form: str) -> None:
    model = write(tmp_path, form)
    for ids, got in zip(PROMPTS, answers(tmp_path, dtype="float32"), strict=True):
        tokens = [*ids, *got.outputs[0].token_ids]
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for place, (token, entries) in enumerate(zip(got.outputs[0].token_ids, got.outputs[0].logprobs or [], strict=True), len(ids) - 1):
            assert abs(entries[token].logprob - expected[place, token].item()) < TIE
            assert expected[place].max().item() - expected[place, token].item() < TIE, "the likeliest, but for a tie"


@pytest.mark.parametrize("form", ["gptq-desc_act", "compressed-nvfp4", "int4"])
def test_no_schedule_changes_a_bit(tmp_path: Path, form: str) -> None:
    """Rows by packed weights are quantized as they come where the CPU can."""
    write(tmp_path, "" if form == "int4" else form)
    settings: dict[str, Any] = {"dtype": "bfloat16"}
    if form == "int4":
        settings |= {"quantization": "int4", **({} if kept_by("cpu") else {"kernels": "reference"})}
    first = answers(tmp_path, **settings)
    again = answers(tmp_path, **settings, max_num_seqs=2, max_num_batched_tokens=16, enable_prefix_caching=False)
    assert [o.outputs[0].logprobs for o in again] == [o.outputs[0].logprobs for o in first]
    assert [o.prompt_logprobs for o in again] == [o.prompt_logprobs for o in first]


def kept_by(backend: str) -> bool:
    return not load(backend).grouped_refusal(64, 32, quantize_input=False)


@pytest.mark.parametrize("form", ["gptq-desc_act", "awq", "compressed-nvfp4", "int4"])
def test_experts_stay_packed(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """All experts of a layer are one multiplication of codes, of little more than a quarter of bfloat16's bytes; the log says so."""
    write(tmp_path, "" if form == "int4" else form)
    settings: dict[str, Any] = {"quantization": "int4"} if form == "int4" else {}
    backend = "cpu" if kept_by("cpu") else "reference"
    with caplog.at_level(logging.INFO):
        llm = LLM(str(tmp_path), **SETTINGS, **settings, dtype="bfloat16", kernels=backend)
    assert "in 4 bits, groups of" in caplog.text
    for layer in llm.engine.runner.model.layers:  # type: ignore[union-attr]
        experts = layer.mlp
        assert isinstance(experts, Experts)
        for linears in (experts._ups, experts._downs):
            methods = [linear.method for linear in linears]
            assert len({method.kind for method in methods}) == 1
            for linear, method in zip(linears, methods, strict=True):
                assert isinstance(method, Stored)
                (kept,) = method._methods
                assert isinstance(kept, InGroups)
                if backend == "cpu":  # the reference keeps a byte for each code
                    assert sum(tensor.nbytes for tensor in kept.tensors()) <= 0.38 * 2 * linear.out_features * linear.in_features
