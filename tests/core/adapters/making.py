"""Adapters made on the spot, in PEFT's form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

#: Of one layer: A, B.
Matrices = tuple[torch.Tensor, torch.Tensor]


def write_adapter(
    folder: Path, matrices: Mapping[str, Matrices], *, embeddings: Mapping[str, Matrices] | None = None, **config: Any
) -> Path:
    """A folder as `PeftModel.save_pretrained` writes it.

    Args:
        matrices: of linear layers, by their names in the base model.
        embeddings: of embeddings.
        config: over what adapter_config.json has.
    """
    rank = next(iter({**matrices, **(embeddings or {})}.values()))[0].shape[0]
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "target_modules": ["q_proj"], **config}
    tensors = {}
    for name, (a, b) in matrices.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    for name, (a, b) in (embeddings or {}).items():
        tensors[f"base_model.model.{name}.lora_embedding_A"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_embedding_B"] = b.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def random_matrices(model: torch.nn.Module, wanted: str, rank: int, seed: int, *, size: float = 0.3) -> dict[str, Matrices]:
    """For every linear layer of a transformers model whose name fits `wanted` from the beginning to the end."""
    from transformers.pytorch_utils import Conv1D

    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, (torch.nn.Linear, Conv1D)) or not re.fullmatch(wanted, name):
            continue
        out, ins = layer.weight.shape if isinstance(layer, torch.nn.Linear) else layer.weight.shape[::-1]
        a = torch.randn(rank, ins, generator=generator) * size / ins**0.5
        made[name] = a, torch.randn(out, rank, generator=generator) * size / rank**0.5
    assert made, "no layer has such a name"
    return made


def merge(model: torch.nn.Module, matrices: Mapping[str, Matrices], scale: float) -> torch.nn.Module:
    """The same model, each matrix of a layer with scale * B A added."""
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for name, (a, b) in matrices.items():
            layer = model.get_submodule(name)
            added = scale * (b @ a)
            layer.weight += added.T if isinstance(layer, Conv1D) else added
    return model
