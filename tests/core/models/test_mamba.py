"""Mamba's families against transformers in float32, and with the same bytes however steps are made up; ranks share what they can."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.core import SamplingParams
from infer.core.errors import ModelError
from infer.core.parallel.group import Group, sharding
from infer.core.parallel.sizes import fitting_sizes
from infer.core.spec.read import read_spec
from infer.kernels import load as load_kernels
from infer.kernels import usable

from .test_architectures import our_model, prompts_of, reference_model, run
from .test_schedules import TIGHT, answers, bytes_of

BAMBA = {"mamba_n_heads": 6, "mamba_d_state": 8, "mamba_chunk_size": 16}
GRANITE = {**BAMBA, "shared_intermediate_size": 56}
SCALES = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3}
MULTIPLIERS = {
    "embedding_multiplier": 2.5,
    "lm_head_multiplier": 0.4,
    "key_multiplier": 0.6,
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.7,
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.8,
    "ssm_multipliers": [0.7, 0.5, 0.9, 1.1, 0.6],
    "mlp_multipliers": [0.8, 0.3],
}
NEMOTRON = {
    "mamba_num_heads": 6,
    "mamba_head_dim": 10,
    "ssm_state_size": 8,
    "n_groups": 2,
    "chunk_size": 16,
    "time_step_min": 1e-6,  # transformers keeps times above it in whole passes, and nowhere else
    "moe_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 56,
    "head_dim": 16,
}
MAMBA2 = {"num_heads": 6, "head_dim": 16, "state_size": 8, "chunk_size": 16}
#: The first row of each has all kinds of its layers.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("bamba", {**BAMBA, "attn_layer_indices": [1], "mamba_n_groups": 2}),
    (
        "bamba",
        {
            **BAMBA,
            "attn_layer_indices": [2],
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_d_conv": 3,
            "time_step_limit": [0.4, 0.9],
        },
    ),
    (
        "granitemoehybrid",
        {**GRANITE, **SCALES, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 8, "num_experts_per_tok": 3},
    ),
    (
        "granitemoehybrid",
        {**GRANITE, "layer_types": ["attention", "mamba", "attention"], "num_local_experts": 0, "position_embedding_type": "rope"},
    ),
    ("falcon_h1", {**BAMBA, **MULTIPLIERS, "mamba_d_ssm": 72, "mamba_n_groups": 2}),
    ("falcon_h1", {**BAMBA, "mamba_d_ssm": 60, "mamba_rms_norm": True, "mamba_n_groups": 3, "projectors_bias": True}),
    ("falcon_h1", {**BAMBA, "mamba_d_ssm": None, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "attention_bias": True}),
    (
        "nemotron_h",
        {**NEMOTRON, "hybrid_override_pattern": "M-*EM", "n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    ),
    (
        "nemotron_h",
        {**NEMOTRON, "layers_block_type": ["mamba", "attention", "mlp"], "use_bias": True, "mlp_bias": True, "use_conv_bias": False},
    ),
    ("mamba2", {**MAMBA2, "n_groups": 2}),
    (
        "mamba2",
        {**MAMBA2, "n_groups": 1, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "tie_word_embeddings": True},
    ),
    ("mamba", {"state_size": 8, "time_step_rank": 5}),
    ("mamba", {"intermediate_size": 96, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True}),
    ("falcon_mamba", {"state_size": 6, "mixer_rms_eps": 1e-4}),
    ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 6, "num_experts": 4}),
    (
        "jamba",
        {
            "attn_layer_period": 3,
            "attn_layer_offset": 2,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_dt_rank": 7,
            "num_experts": 1,
        },
    ),
]
KINDS = dict(reversed(ROWS))


def name_of(row: Any) -> str:
    return row if isinstance(row, str) else ",".join(row)


def oracle_of(kind: str, changes: dict[str, Any]) -> Any:
    """Skips what older releases of transformers do otherwise: norms of Bamba and Mamba-2 that span all groups."""
    oracle = reference_model(kind, changes)
    norms = [module for module in oracle.modules() if type(module).__name__.endswith("RMSNormGated")]
    groups = changes.get("n_groups", changes.get("mamba_n_groups", 1))
    if groups > 1 and not all(hasattr(norm, "group_size") or hasattr(norm, "n_groups") for norm in norms):
        pytest.skip("this transformers norms all groups together")
    return oracle


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), ROWS, ids=name_of)
def test_logits_equal_transformers(kind: str, changes: dict[str, Any], backend: str) -> None:
    """In pieces, against one pass."""
    oracle = oracle_of(kind, changes)
    model = our_model(oracle, backend)
    prompts = prompts_of(70, 1, 33)
    with torch.inference_mode():
        for prompt, got in zip(prompts, run(model, prompts, chunk=24), strict=True):
            torch.testing.assert_close(got, oracle(torch.tensor([prompt])).logits[0], rtol=1e-4, atol=2e-4)


#: In float32 all of them; in narrower dtypes those with most kinds of parts.
HOWS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
}
NARROW = [(kind, how) for kind in ("granitemoehybrid", "falcon_h1", "jamba") for how in ("bfloat16", "int8")]


@pytest.mark.parametrize(("kind", "how"), [(kind, "float32") for kind in KINDS] + NARROW)
def test_no_schedule_changes_a_bit(kind: str, how: str, tmp_path: Path) -> None:
    """Pieces of prompts, states kept for what begins alike, sequences that are taken back, three of one prompt."""
    if how == "int8" and not load_kernels("cpu").supports_int8():
        pytest.skip("no exact int8 dot products here")
    reference_model(kind, KINDS[kind]).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    greedy = SamplingParams(temperature=0, max_tokens=12, logprobs=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    drawn = SamplingParams(n=3, seed=5, max_tokens=24, logprobs=0, detokenize=False, ignore_eos=True)
    params = [drawn, drawn, greedy, greedy]
    base = answers(tmp_path, params, **HOWS[how])
    assert bytes_of(base) == bytes_of(answers(tmp_path, params, **HOWS[how], **TIGHT))


class Meeting(Group):
    """One of two ranks in threads of one process."""

    size = 2

    def __init__(self, rank: int, barrier: threading.Barrier, table: list[Tensor]) -> None:
        self.rank, self._barrier, self._table = rank, barrier, table

    def _all(self, x: Tensor) -> list[Tensor]:
        self._table[self.rank] = x.clone()
        self._barrier.wait()
        found = list(self._table)
        self._barrier.wait()
        return found

    def all_reduce(self, x: Tensor) -> Tensor:
        first, second = self._all(x)
        return first + second

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._all(x), dim=1)

    def broadcast(self, x: Tensor) -> Tensor:
        return self._all(x)[0]


#: The groups of the last heads, a norm over all features, no norm, experts; one KV head for both ranks.
SHARED = [row for row in ROWS if row[0] != "mamba" and row[1].get("mamba_n_groups") != 3 and "conv_kernel" not in row[1]]


@pytest.mark.parametrize(("kind", "changes"), SHARED, ids=name_of)
def test_two_ranks_give_what_one_gives(kind: str, changes: dict[str, Any]) -> None:
    oracle = oracle_of(kind, changes)
    prompts = prompts_of(20, 7)
    barrier, table, found = threading.Barrier(2), [torch.empty(0)] * 2, {}

    def work(rank: int) -> None:
        try:
            with sharding(Meeting(rank, barrier, table)), torch.inference_mode():
                found[rank] = run(our_model(oracle), prompts, chunk=8)
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        for prompt, got in zip(prompts, found[0], strict=True):
            torch.testing.assert_close(got, oracle(torch.tensor([prompt])).logits[0], rtol=1e-4, atol=2e-4)


def config(kind: str, **changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96}
    return {"model_type": kind, **sizes, **changes}


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"mamba_num_heads": 12, "n_groups": 4}, [1, 2, 4]),
        ({"mamba_num_heads": 12, "n_groups": 1}, [1, 2, 4]),
        ({"mamba_num_heads": 6, "n_groups": 3}, [1]),
    ],
)
def test_ranks_share_groups_of_heads(changes: dict[str, Any], sizes: list[int]) -> None:
    shares = read_spec(config("nemotron_h", hybrid_override_pattern="M*-", **changes)).shares
    assert fitting_sizes(shares, 8) == sizes


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("bamba", {"mamba_n_heads": 7, "mamba_d_head": 16}, "7 Mamba heads of 16 features .* are not 128"),
        ("bamba", {"mamba_n_heads": 8, "mamba_n_groups": 3}, "8 Mamba heads cannot share 3 groups"),
        ("bamba", {"hidden_act": "relu", "mamba_n_heads": 8}, "activation 'relu' of Mamba layers"),
        ("granitemoehybrid", {"layer_types": ["mamba", "conv"], "mamba_n_heads": 8}, "layers of conv are not supported"),
        ("nemotron_h", {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern has X"),
        ("nemotron_h", {}, "neither layers_block_type nor hybrid_override_pattern"),
        ("nemotron_h", {"hybrid_override_pattern": "ME", "moe_latent_size": 32}, "moe_latent_size 32"),
        ("falcon_h1", {"mamba_n_heads": 8, "ssm_multipliers": [1.0]}, "ssm_multipliers has 1 numbers; it must have 5"),
        ("falcon_h1", {"mamba_n_heads": 8, "attention_bias": True, "attention_in_multiplier": 2.0}, "attention_bias with attention_in"),
        ("mamba2", {"num_heads": 3}, "3 heads of 64 features are not 128"),
        ("jamba", {"attn_layer_offset": 8}, "attn_layer_offset must be below"),
        ("mamba2", {"time_step_limit": [0.0]}, "two numbers from 0 to infinity"),
    ],
)
def test_what_does_not_fit_is_named(kind: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        read_spec(config(kind, **changes)).need_stack()
