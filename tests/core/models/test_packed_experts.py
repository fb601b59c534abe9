"""Experts that a checkpoint stacks and packs, as gpt-oss does in MXFP4: transformers' numbers, and the same in any company and on ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from infer.core import LLM, SamplingParams
from infer.core.types.outputs import RequestOutput

pytestmark = pytest.mark.usefixtures("forked_ranks")

SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 8,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "initializer_range": 0.2,
    "max_position_embeddings": 256,
}
PROMPTS = [[(7 * i + j * j) % 160 for j in range(5 + 9 * i)] for i in range(5)]
#: Logits this close are a tie that rounding decides.
TIE = 1e-3


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with experts in MXFP4, and transformers' model with what they mean."""
    folder = tmp_path_factory.mktemp("packed")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("gpt_oss", **SIZES), dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith("_proj_bias"):
            torch.nn.init.normal_(parameter, 0.5 if "norm" in name else 0.0, 0.3)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, ins, outs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outs, ins // 32, 16), dtype=torch.uint8)
        scales = torch.randint(121, 125, (experts, outs, ins // 32), dtype=torch.uint8)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        model.get_parameter(name).data.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, model


def answers(folder: Path, **more: Any) -> list[RequestOutput]:
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100, **more}
    params = SamplingParams(temperature=0, max_tokens=10, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    return LLM(str(folder), **settings).generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)


@pytest.mark.parametrize("size", [1, 2])
def test_packed_experts_are_transformers(packed: tuple[Path, Any], size: int) -> None:
    folder, model = packed
    for ids, got in zip(PROMPTS, answers(folder, tensor_parallel_size=size), strict=True):
        tokens = [*ids, *got.outputs[0].token_ids]
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for place, (token, entries) in enumerate(zip(got.outputs[0].token_ids, got.outputs[0].logprobs or [], strict=True), len(ids) - 1):
            assert abs(entries[token].logprob - expected[place, token].item()) < TIE
            assert expected[place].max().item() - expected[place, token].item() < TIE, "the likeliest, but for a tie"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_schedule_changes_a_bit(packed: tuple[Path, Any], dtype: str) -> None:
    """In bfloat16, rows by packed weights are quantized as they come where the CPU can."""
    first = answers(packed[0], dtype=dtype)
    again = answers(packed[0], dtype=dtype, max_num_seqs=2, max_num_batched_tokens=16, enable_prefix_caching=False)
    assert [o.outputs[0].logprobs for o in again] == [o.outputs[0].logprobs for o in first]
    assert [o.prompt_logprobs for o in again] == [o.prompt_logprobs for o in first]
