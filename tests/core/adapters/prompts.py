"""Prompt adapters for tests, as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_prompt_adapter(folder: Path, embeddings: Tensor, **config: Any) -> Path:
    """A folder with these embeddings [virtual tokens, features]; `config` over what PEFT says of prompt tuning."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": len(embeddings), "num_transformer_submodules": 1}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    save_file({"prompt_embeddings": embeddings.contiguous()}, folder / "adapter_model.safetensors")
    return folder


def peft_prompt_adapter(model: Path, folder: Path, kind: str, seed: int, *, count: int = 6, features: int = 64) -> Path:
    """One that PEFT made for a model and saved: "PROMPT_TUNING" or "P_TUNING", with random values."""
    from peft import PromptEncoderConfig, PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    more: dict[str, Any] = {"task_type": TaskType.CAUSAL_LM, "num_virtual_tokens": count}
    config: Any = PromptTuningConfig(**more) if kind == "PROMPT_TUNING" else PromptEncoderConfig(**more, encoder_hidden_size=features)
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    for parameter in made.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    made.save_pretrained(folder)
    return folder
