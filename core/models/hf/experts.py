"""The experts of transformers' mixture layers, so that a token gets the same bits whichever tokens are beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE

#: What to set as `experts_implementation`.
NAME = "infer_rows"


def register() -> bool:
    """Makes transformers know it; False for a version without an interface for experts."""
    try:
        from transformers.integrations.moe import ExpertsInterface
    except ImportError:
        return False
    ExpertsInterface.register(NAME, experts)
    return True


def experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """hidden_states [N, size], the K experts of each row and their weights [N, K] -> [N, size].

    Every expert multiplies its rows padded to a multiple of ROW_MULTIPLE, and a row's K results are added in float32 in the
    order of its K experts. `module` holds the weights as transformers' `use_experts_implementation` describes them.
    """
    rows, count = top_k_index.shape
    results = hidden_states.new_zeros(rows, count, hidden_states.shape[-1])
    for expert in top_k_index.unique().tolist():
        if expert >= module.num_experts:  # stands for none
            continue
        row, place = torch.where(top_k_index == expert)
        x = F.pad(hidden_states[row], (0, 0, 0, -len(row) % ROW_MULTIPLE))
        x = _linear(module, x, "gate_up_proj" if module.has_gate else "up_proj", expert)
        x = module._apply_gate(x) if module.has_gate else module.act_fn(x)
        x = _linear(module, x, "down_proj", expert)
        if getattr(module, "has_post_expert_norm", False):
            x = module.post_expert_norm(x)
        results[row, place] = x[: len(row)]
    total = torch.zeros_like(hidden_states, dtype=torch.float32)
    for k in range(count):
        total += results[:, k].float() * top_k_weights[:, k, None].float()
    return total.to(hidden_states.dtype)


def _linear(module: Any, x: Tensor, name: str, expert: int) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(x, weight.t() if module.is_transposed else weight, bias)
