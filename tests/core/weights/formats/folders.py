"""Folders of tiny quantized models, and transformers' model with what their weights mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from .packer import Packer

SIZES: dict[str, Any] = {
    "vocab_size": 250,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Made:
    folder: Path
    model: Any
    """In float32, with what the folder's weights mean."""
    num_packed: int


def write(
    folder: Path,
    packer: Packer,
    *,
    is_packed: Callable[[str], bool] = lambda layer: ".layers." in layer,
    changed: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    config: dict[str, Any] | None = None,
    **sizes: Any,
) -> Made:
    """A llama with random weights, the linear layers for which `is_packed` quantized.

    Args:
        changed: called with all tensors before they are written.
        config: the quantization_config, if not the packer's.
    """
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes}, initializer_range=0.2, tie_word_embeddings=False)).eval()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and is_packed(name)}
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    num_packed = 0
    for name, module in layers.items():
        if (pack := packer.of(name)) is None:
            continue
        num_packed += 1
        packed = pack(module.weight.detach())
        del tensors[f"{name}.weight"]
        tensors.update({name + suffix: tensor for suffix, tensor in packed.tensors.items()})
        module.weight.data = packed.means
    changed(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    raw = json.loads(model.config.to_json_string()) | {"quantization_config": packer.config if config is None else config}
    (folder / "config.json").write_text(json.dumps(raw))
    return Made(folder, model, num_packed)
