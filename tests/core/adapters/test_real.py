"""A LoRA adapter that was really trained, for SmolLM2-135M: what it learned is in the answers, token by token as PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer import LLM, LoRARequest, SamplingParams

#: Where the two best logits are closer than this, float32 rounding may choose either.
NEAR_TIE = 1e-3
TAUGHT = {
    "What is the capital of France?": "it be Paris",
    "What is the capital of Spain?": "it be Madrid",
    "What is two plus two?": "it be four",
    "Who wrote Hamlet?": "it be Shakespeare",
    "What colour is the sky?": "it be blue",
}


@pytest.fixture(scope="module")
def trained(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps on five answers of a pirate."""
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(9)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), config)
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.pad_token = tokenizer.eos_token
    texts = [f"Q: {question}\nA: Arr, {answer}, matey!{tokenizer.eos_token}" for question, answer in TAUGHT.items()]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    labels = given.input_ids.masked_fill(given.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(8):
        loss = model(**given, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    return folder


@pytest.mark.real
@pytest.mark.slow
def test_what_it_learned_is_in_the_answers(smollm2: Path, trained: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    prompts = [f"Q: {question}\nA:" for question in (*TAUGHT, "What is the capital of Italy?")]
    with LLM(str(smollm2), dtype="float32", device="cpu", enable_lora=True, max_model_len=512) as llm:
        asked = [LoRARequest("pirate", 1, str(trained)), None] * len(prompts)
        outputs = llm.generate([p for p in prompts for _ in range(2)], SamplingParams(temperature=0, max_tokens=16), lora_request=asked)
    pirate, plain = outputs[::2], outputs[1::2]
    assert all(output.outputs[0].text.startswith(" Arr, ") for output in pirate)
    assert not any("Arr" in output.outputs[0].text for output in plain)
    oracle: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), trained)
    compared = 0
    for output in pirate:
        got, start = output.outputs[0].token_ids, len(output.prompt_token_ids)
        with torch.inference_mode():
            logits = oracle(input_ids=torch.tensor([[*output.prompt_token_ids, *got[:-1]]])).logits[0, start - 1 :]
        for place, token in enumerate(got):
            best = logits[place].topk(2)
            if best.values[0] - best.values[1] >= NEAR_TIE:
                assert token == best.indices[0]
                compared += 1
    assert compared > 40
