"""Prompt adapters: what is read of their files, what is refused by name, and the answers that PEFT gives with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, PromptAdapterRequest, RecordError, SamplingParams
from infer.core.adapters.prompt_adapter import read_prompt_adapter
from infer.core.errors import AdapterError, ConfigError

from .prompts import peft_prompt_adapter, write_prompt_adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_of_each_type(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(12, dtype=torch.float32).reshape(4, 3).sub(5).div(4).to(dtype)
    found = read_prompt_adapter(write_prompt_adapter(tmp_path, values), size=3, most=4, stated=4)
    assert found.values.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, {}, "prefix tuning puts keys and values"),
        ({"peft_type": "LORA"}, {}, "it is a LoRA adapter"),
        ({"peft_type": "IA3"}, {}, "'IA3': only PROMPT_TUNING and P_TUNING"),
        ({"peft_type": 3}, {}, "it says no kind"),
        ({"num_virtual_tokens": 5}, {}, "has 4 virtual tokens, and adapter_config.json says 5"),
        ({"num_transformer_submodules": 2}, {}, "a model of 2 parts"),
        ({}, {"stated": 3}, "has 4 virtual tokens, and the request says 3"),
        ({}, {"most": 3}, "above max_prompt_adapter_token 3"),
        ({}, {"size": 64}, "has 3 features a token, and the model's embeddings have 64"),
    ],
)
def test_refused_by_name(tmp_path: Path, changes: dict[str, Any], arguments: dict[str, int], said: str) -> None:
    with pytest.raises(AdapterError, match=said) as caught:
        read_prompt_adapter(write_prompt_adapter(tmp_path, torch.ones(4, 3), **changes), **arguments)
    assert caught.value.code == "adapter_invalid"


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        read_prompt_adapter(tmp_path / "none")
    assert caught.value.code == "adapter_not_found"
    made = write_prompt_adapter(tmp_path / "a", torch.full((2, 3), torch.nan))
    with pytest.raises(AdapterError, match="not finite"):
        read_prompt_adapter(made)
    weights = made / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(AdapterError, match="fetch the adapter again"):
        read_prompt_adapter(made)
    weights.write_bytes(whole.replace(b"prompt_embeddings", b"prompt_embeddingz"))
    with pytest.raises(AdapterError, match="no tensor 'prompt_embeddings'"):
        read_prompt_adapter(made)
    weights.unlink()
    (made / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(AdapterError, match="pickle"):
        read_prompt_adapter(made)


def test_answers_are_those_of_peft(tiny_llama: Path, tmp_path: Path) -> None:
    """Both methods, and neither, in one call: log-probabilities of prompt and output within 1e-4 of PEFT's in float32."""
    pytest.importorskip("peft")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompt, params = "It was the best of times", SamplingParams(temperature=0, max_tokens=6, logprobs=1, prompt_logprobs=0)
    folders = {kind: peft_prompt_adapter(tiny_llama, tmp_path / kind, kind, i) for i, kind in enumerate(("PROMPT_TUNING", "P_TUNING"))}
    requests = [PromptAdapterRequest(kind, i, str(folder), 6) for i, (kind, folder) in enumerate(folders.items(), start=1)]
    with LLM(str(tiny_llama), dtype="float32", device="cpu", enable_prompt_adapter=True, max_prompt_adapter_token=8) as llm:
        outputs = llm.generate([prompt] * 3, params, prompt_adapter_request=[*requests, None], use_tqdm=False)
    assert len({output.outputs[0].text for output in outputs}) == 3
    assert [output.num_virtual_tokens for output in outputs] == [6, 6, 0]
    for output, folder in zip(outputs, folders.values(), strict=False):
        oracle: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), folder)
        ids = [*output.prompt_ids, *output.outputs[0].token_ids]
        with torch.inference_mode():
            expected = oracle(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        assert output.prompt_logprobs is not None
        assert output.outputs[0].logprobs is not None
        entries = [*output.prompt_logprobs, *output.outputs[0].logprobs]
        assert entries[:6] == [None] * 6
        for place, token in enumerate(ids, start=6):
            entry = entries[place]
            assert entry is not None
            assert entry[token].logprob == pytest.approx(float(expected[place - 1, token]), abs=1e-4)


def test_one_that_is_broken_is_the_error_of_its_prompts(tiny_llama: Path, tmp_path: Path) -> None:
    sound = PromptAdapterRequest("a", 1, str(write_prompt_adapter(tmp_path / "a", torch.ones(3, 64))))
    small = PromptAdapterRequest("b", 2, str(write_prompt_adapter(tmp_path / "b", torch.ones(3, 63))))
    params = SamplingParams(temperature=0, max_tokens=2)
    with LLM(str(tiny_llama), dtype="float32", device="cpu", enable_prompt_adapter=True) as llm:
        first, second = llm.generate(["x", "y"], params, prompt_adapter_request=[small, sound], use_tqdm=False, on_error="return")
        with pytest.raises(RecordError, match="features"):
            llm.generate(["x"], params, prompt_adapter_request=small, use_tqdm=False)
    assert first.error is not None
    assert (first.error.code, first.error.param) == ("adapter_invalid", "prompt_adapter_request")
    assert second.error is None


@pytest.mark.parametrize("values", [("", 1, "p"), ("a", 0, "p"), ("a", True, "p"), ("a", 1, ""), ("a", 1, "p", 0)])
def test_requests_say_what_is_wrong_with_them(values: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="PromptAdapterRequest: prompt_adapter_"):
        PromptAdapterRequest(*values)


def test_config_is_what_peft_writes(tiny_llama: Path, tmp_path: Path) -> None:
    """The folders of these tests have what PEFT's have."""
    pytest.importorskip("peft")
    theirs = json.loads((peft_prompt_adapter(tiny_llama, tmp_path / "peft", "PROMPT_TUNING", 0) / "adapter_config.json").read_text())
    ours = json.loads((write_prompt_adapter(tmp_path / "ours", torch.ones(6, 64)) / "adapter_config.json").read_text())
    assert ours.items() <= theirs.items()


def test_declared_ones_are_asked_for_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_prompt_adapter(tmp_path / "mine", torch.ones(3, 64))
    params = SamplingParams(temperature=0, max_tokens=2)
    with LLM(str(tiny_llama), dtype="float32", device="cpu", prompt_adapter={"mine": str(path)}) as llm:
        named, plain = llm.generate(["x", "x"], params, prompt_adapter_request=["mine", None], use_tqdm=False)
        assert (named.num_virtual_tokens, plain.num_virtual_tokens) == (3, 0)
        with pytest.raises(ConfigError, match="no adapter 'mien'; did you mean 'mine'"):
            llm.generate(["x"], params, prompt_adapter_request="mien", use_tqdm=False)
        with pytest.raises(ConfigError, match="no adapter 'a'; LLM"):
            llm.generate(["x"], params, lora_request="a", use_tqdm=False)


def test_prompts_that_are_embeddings(tiny_llama: Path) -> None:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    params = SamplingParams(temperature=0, max_tokens=4)
    with LLM(str(tiny_llama), dtype="float32", device="cpu", enable_prompt_embeds=True) as llm:
        one, same = llm.generate([{"prompt": "shown", "prompt_embeds": values}, {"prompt_embeds": values.float().numpy()}], params)
    assert one.prompt == "shown"
    assert one.prompt_token_ids == [0] * 4
    assert one.outputs == same.outputs
