"""The trial of a model in transformers' code: each fault of ours is found in weights that were never trained, in which it hardly shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer.core.errors import ModelError
from infer.core.models.hf import attention as hooks
from infer.core.models.hf.attention import PagedAttention
from infer.core.models.hf.calls import Call
from infer.core.models.hf.model import HFModel

from .test_transformers_model import TINY, loaded

Patch = pytest.MonkeyPatch
UNTRAINED = {**TINY, "initializer_range": 0.02}
GEMMA2 = ("gemma2", {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16})
GEMMA2_FAR = ("gemma2", {"head_dim": 16, "sliding_window": 200, "query_pre_attn_scalar": 16})
GPT_OSS = ("gpt_oss", {"head_dim": 16, "sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2})
GPT_NEOX = ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}})
OPT = ("opt", {"ffn_dim": 80, "word_embed_proj_dim": 48, "do_layer_norm_before": True})


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, dict[str, Any]]], Path]:
    """The folder of a model as its class starts it; each is made once."""
    made: dict[str, Path] = {}

    def folder_of(model: tuple[str, dict[str, Any]]) -> Path:
        if (known := made.get(repr(model))) is not None:
            return known
        kind, changes = model
        folder = made[repr(model)] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **{**UNTRAINED, **changes})
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        return folder

    return folder_of


def other_calls(**changes: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """A break of what was learned of each call."""

    def apply(patch: Patch) -> None:
        plain = hooks.call_of

        def call_of(*args: Any) -> Call:
            call = plain(*args)
            c = call.config
            return replace(call, config=replace(c, **{key: change(getattr(c, key)) for key, change in changes.items()}))

        patch.setattr(hooks, "call_of", call_of)

    return apply


def positions_of_the_step(patch: Patch) -> None:
    plain = HFModel.forward

    def forward(self: HFModel, tokens: torch.Tensor, positions: torch.Tensor, *args: Any) -> torch.Tensor:
        return plain(self, tokens, torch.arange(len(positions)), *args)

    patch.setattr(HFModel, "forward", forward)


def positions_from_two(patch: Patch) -> None:
    plain = HFModel.forward

    def forward(self: HFModel, tokens: torch.Tensor, positions: torch.Tensor, *args: Any) -> torch.Tensor:
        return plain(self, tokens, positions + 2, *args)

    patch.setattr(HFModel, "forward", forward)


def other_heads(patch: Patch) -> None:
    plain = PagedAttention.store

    def store(self: PagedAttention, call: Call, query: Any, key: torch.Tensor, *args: Any) -> torch.Tensor:
        return plain(self, call, query, key.flip(1), *args)

    patch.setattr(PagedAttention, "store", store)


def without_last_block(patch: Patch) -> None:
    """Attention that does not look back over a block's border."""
    plain = PagedAttention.attend

    def attend(self: PagedAttention, call: Call, query: Any, key: Any, value: Any, cache: Any, meta: Any, plans: Any) -> torch.Tensor:
        near = replace(call, config=replace(call.config, sliding_window=16))
        return plain(self, near, query, key, value, cache, meta, plans)

    patch.setattr(PagedAttention, "attend", attend)


BREAKS: list[tuple[str, tuple[str, dict[str, Any]], Callable[[Patch], None]]] = [
    ("scale", GPT_NEOX, other_calls(scale=lambda scale: scale * 1.05)),
    ("window longer", GEMMA2, other_calls(sliding_window=lambda size: size and size + 1)),
    ("window shorter", GEMMA2, other_calls(sliding_window=lambda size: size and size - 1)),
    ("far window longer", GEMMA2_FAR, other_calls(sliding_window=lambda size: size and size + 1)),
    ("far window shorter", GEMMA2_FAR, other_calls(sliding_window=lambda size: size and size - 1)),
    ("no window", GEMMA2_FAR, other_calls(sliding_window=lambda size: None)),
    ("window in each layer", GEMMA2, other_calls(sliding_window=lambda size: 24)),
    ("no cap", GEMMA2, other_calls(soft_cap=lambda cap: None)),
    ("another cap", GEMMA2, other_calls(soft_cap=lambda cap: 40.0)),
    ("a cap", GPT_NEOX, other_calls(soft_cap=lambda cap: 50.0)),
    ("no sinks", GPT_OSS, other_calls(sinks=lambda sinks: None)),
    ("other sinks", GPT_OSS, other_calls(sinks=lambda sinks: sinks + 0.3)),
    ("heads", GPT_OSS, other_heads),
    ("a block alone", GPT_NEOX, without_last_block),
    ("rotation by rows of the step", GPT_NEOX, positions_of_the_step),
    ("learned positions by rows of the step", OPT, positions_of_the_step),
    ("learned positions from two", OPT, positions_from_two),
]


Untrained = Callable[[tuple[str, dict[str, Any]]], Path]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_untrained_models_pass(dtype: torch.dtype, untrained: Untrained) -> None:
    for model in (GEMMA2, GEMMA2_FAR, GPT_OSS, GPT_NEOX, OPT):
        loaded(untrained(model), dtype=dtype)


@pytest.mark.parametrize(("model", "apply"), [row[1:] for row in BREAKS], ids=[row[0] for row in BREAKS])
def test_a_fault_is_found_in_untrained_weights(
    model: tuple[str, dict[str, Any]], apply: Callable[[Patch], None], untrained: Untrained, monkeypatch: Patch
) -> None:
    apply(monkeypatch)
    with pytest.raises(ModelError, match=r"computes something else than our kernels|in their own way"):
        loaded(untrained(model), dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_state_between_tokens_is_found_in_untrained_weights(dtype: torch.dtype, untrained: Untrained, monkeypatch: Patch) -> None:
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP as Mixing

    plain = Mixing.forward

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        """With the token before."""
        return plain(self, hidden_states + torch.nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1])

    monkeypatch.setattr(Mixing, "forward", forward)
    with pytest.raises(ModelError, match="mlp in two steps and beside another differs"):
        loaded(untrained(GPT_NEOX), dtype=dtype)
