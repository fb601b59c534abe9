"""Every architecture and option against transformers in float32: a row here is what adding an architecture needs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import transformers

from infer.core import models
from infer.core.build.probe import make_rows_alike
from infer.core.errors import ModelError
from infer.core.layers.mixers import new_pools
from infer.core.quant.int8 import Int8
from infer.core.spec.read import read_spec
from infer.core.weights.folder import FolderSource
from infer.core.weights.loader import load
from infer.core.weights.renamed import fit
from infer.kernels import load as load_kernels
from infer.kernels import usable
from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, Ops

TINY: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}

MOE = {"moe_intermediate_size": 40}
GEMMA4 = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 20, "vocab_size_per_layer_input": 160}
#: Latent attention, of sizes that are all different and multiples of 4: MKL does not treat all rows of some odd ones alike.
MLA = {**MOE, "num_key_value_heads": 6, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 16}
LLAMA4 = {"head_dim": 8, "intermediate_size_mlp": 72, "attention_chunk_size": 32, "floor_scale": 20, "attn_scale": 0.2}
#: Layers that attend are every other one; of value heads, two each have the same keys.
DELTA = {
    "head_dim": 32,
    "full_attention_interval": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
#: All experts of a token: which ones it has must not hang on rounding.
MIXED = [
    ("qwen2_moe", {**MOE, "num_experts": 4, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 48}),
    ("gpt_oss", {"head_dim": 16, "num_local_experts": 3, "num_experts_per_tok": 3}),
]

ARCHITECTURES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 32}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    ("llama", {"num_key_value_heads": 6}),
    ("llama", {"num_key_value_heads": 1, "head_dim": 20}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.3}}),
    ("llama", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}}),
    ("mistral", {"sliding_window": None, "head_dim": 16}),
    ("mistral", {"sliding_window": 24}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"head_dim": 24, "attention_bias": True, "tie_word_embeddings": True}),
    ("gpt2", {}),
    ("gpt2", {"n_inner": 80, "activation_function": "relu", "tie_word_embeddings": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}),
    ("mixtral", {"num_local_experts": 4}),
    ("mixtral", {"num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 24, "tie_word_embeddings": True}),
    ("qwen2_moe", {**MOE, "num_experts": 6, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 48, "norm_topk_prob": False}),
    (
        "qwen2_moe",
        {
            **MOE,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 56,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "qkv_bias": False,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 2,
        },
    ),
    ("qwen3_moe", {**MOE, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": True, "head_dim": 16, "mlp_only_layers": [1]}),
    ("qwen3_moe", {**MOE, "num_experts": 8, "num_experts_per_tok": 8, "use_sliding_window": True, "sliding_window": 20}),
    ("olmoe", {"num_experts": 8, "num_experts_per_tok": 5, "num_key_value_heads": 6}),
    ("olmoe", {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True, "clip_qkv": 1.5, "attention_bias": True}),
    (
        "granitemoe",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "embedding_multiplier": 12.0,
            "logits_scaling": 6.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "tie_word_embeddings": True,
        },
    ),
    ("minimax_m2", {"num_local_experts": 7, "num_experts_per_tok": 3, "head_dim": 16, "rotary_dim": 8}),
    ("ernie4_5_moe", {**MOE, "moe_num_experts": 6, "moe_k": 3, "tie_word_embeddings": True}),
    (
        "ernie4_5_moe",
        {
            **MOE,
            "moe_num_experts": 6,
            "moe_k": 2,
            "moe_num_shared_experts": 0,
            "moe_layer_start_index": 0,
            "moe_layer_end_index": 1,
            "use_bias": True,
        },
    ),
    ("glm4_moe", {**MOE, "n_routed_experts": 8, "num_experts_per_tok": 3, "head_dim": 16, "attention_bias": True, "use_qk_norm": True}),
    (
        "glm4_moe",
        {
            **MOE,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "n_shared_experts": 2,
            "first_k_dense_replace": 2,
            "partial_rotary_factor": 1.0,
        },
    ),
    (
        "llama4_text",
        {
            **LLAMA4,
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "rope_parameters": {**LLAMA3, "high_freq_factor": 1.0},
        },
    ),
    ("llama4_text", {**LLAMA4, "num_local_experts": 6, "num_experts_per_tok": 2, "use_qk_norm": False, "no_rope_layers": [1, 0, 1]}),
    ("gpt_oss", {"head_dim": 16, "sliding_window": 24, "num_local_experts": 6, "num_experts_per_tok": 3}),
    ("gpt_oss", {"head_dim": 8, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 4, "rope_parameters": YARN}),
    (
        "deepseek_v2",
        {**MLA, "q_lora_rank": None, "n_routed_experts": 6, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "rms_norm_eps": 1e-2},
    ),
    (
        "deepseek_v2",
        {
            **MLA,
            "q_lora_rank": 20,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 16.0,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    (
        "deepseek_v3",
        {
            **MLA,
            "q_lora_rank": 20,
            "n_routed_experts": 12,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8},
        },
    ),
    (
        "deepseek_v3",
        {
            **MLA,
            "q_lora_rank": None,
            "n_routed_experts": 6,
            "num_experts_per_tok": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "rope_interleave": False,
            "norm_topk_prob": False,
            "n_shared_experts": 2,
        },
    ),
    (
        "glm4_moe_lite",
        {
            **MLA,
            "q_lora_rank": 20,
            "n_routed_experts": 6,
            "num_experts_per_tok": 3,
            "attention_bias": True,
            "mlp_layer_types": ["sparse", "dense", "sparse"],
        },
    ),
    ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 20, "tie_word_embeddings": True}),
    ("gemma2", {"head_dim": 24, "final_logit_softcapping": None, "attn_logit_softcapping": 2.0, "layer_types": ["full_attention"] * 3}),
    ("gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    (
        "gemma3_text",
        {
            "head_dim": 24,
            "sliding_window": 20,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
    ),
    (
        "gemma4_text",  # as E2B: per-layer embeddings, later layers that read the keys and values of others
        {
            **GEMMA4,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 12,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
    ),
    (
        "gemma4_text",  # as 26B-A4B: experts beside, values made of keys
        {
            **GEMMA4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 40,
        },
    ),
    ("gemma4_unified_text", {**GEMMA4, "attention_k_eq_v": True, "attention_bias": True, "use_bidirectional_attention": "vision"}),
    ("phi3", {}),
    (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.3, 1.9],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
            },
            "original_max_position_embeddings": 512,
            "max_position_embeddings": 2048,
            "sliding_window": 30,
        },
    ),
    (
        "phi3",
        {
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
    ),
    ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22, "attention_multiplier": 0.09}),
    ("granite", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("smollm3", {"no_rope_layer_interval": 2}),
    ("smollm3", {"no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 20}),
    ("olmo2", {"attention_bias": True}),
    ("olmo3", {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    ("glm", {"head_dim": 16}),
    ("glm4", {"head_dim": 16, "attention_bias": False}),
    ("cohere", {"use_qk_norm": True, "tie_word_embeddings": True, "logit_scale": 0.25}),
    ("cohere", {"attention_bias": True}),
    (
        "cohere2",
        {"sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "tie_word_embeddings": True},
    ),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    ("exaone4", {"sliding_window": 20, "sliding_window_pattern": 2}),
    ("seed_oss", {"head_dim": 16}),
    ("hunyuan_v1_dense", {"head_dim": 16}),
    ("ernie4_5", {"head_dim": 16, "use_bias": True, "tie_word_embeddings": True}),
    ("apertus", {}),
    ("arcee", {"head_dim": 8, "mlp_bias": True}),
    ("ministral", {"head_dim": 16, "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    (
        "ministral3",
        {
            "head_dim": 16,
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 32,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
    ("gpt_bigcode", {}),
    ("gpt_bigcode", {"multi_query": False, "n_inner": 80, "tie_word_embeddings": False}),
    ("gptj", {"rotary_dim": 4}),
    ("gptj", {"rotary_dim": 8, "n_inner": 80}),
    ("gpt_neo", {"window_size": 20, "attention_types": [[["global", "local"], 1], [["local"], 1]]}),
    ("gpt_neox", {"hidden_size": 96}),
    (
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
    ),
    ("phi", {"num_attention_heads": 3, "num_key_value_heads": 1}),
    ("phi", {"qk_layernorm": True}),
    ("opt", {"ffn_dim": 80, "dropout": 0.0, "word_embed_proj_dim": 48}),
    ("opt", {"ffn_dim": 80, "enable_bias": False, "tie_word_embeddings": False, "activation_function": "gelu", "word_embed_proj_dim": 48}),
    ("opt", {"ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    ("opt", {"ffn_dim": 80, "_remove_final_layer_norm": True, "word_embed_proj_dim": 48}),
    ("starcoder2", {"sliding_window": 20}),
    ("starcoder2", {"use_bias": False, "tie_word_embeddings": True}),
    ("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.25}),
    ("nemotron", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    ("bloom", {"n_head": 6, "n_layer": 3}),
    ("bloom", {"n_head": 6, "n_layer": 3, "apply_residual_connection_post_layernorm": True}),
    ("falcon", {"num_attention_heads": 4}),
    ("falcon", {"num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "ffn_hidden_size": 80}),
    ("falcon", {"num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    ("falcon", {"num_attention_heads": 8, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    (
        "lfm2",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "block_multiple_of": 16,
            "conv_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    ("lfm2", {"full_attn_idxs": [0], "conv_L_cache": 4, "block_auto_adjust_ff_dim": False}),
    (
        "lfm2_moe",
        {**MOE, "layer_types": ["conv", "full_attention", "conv"], "num_experts": 6, "num_experts_per_tok": 3, "num_dense_layers": 1},
    ),
    ("qwen3_next", {**DELTA, **MOE, "num_experts": 6, "num_experts_per_tok": 3, "shared_expert_intermediate_size": 48}),
    (
        "qwen3_next",
        {
            **DELTA,
            **MOE,
            "layer_types": ["full_attention", "linear_attention", "linear_attention"],
            "num_experts": 5,
            "num_experts_per_tok": 5,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [1],
            "norm_topk_prob": False,
            "attention_bias": True,
            "linear_conv_kernel_dim": 3,
            "partial_rotary_factor": 0.5,
        },
    ),
    ("qwen3_5_text", {**DELTA, "rope_parameters": MROPE, "tie_word_embeddings": True}),
    ("qwen3_5_text", {**DELTA, "linear_num_key_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20}),
    ("qwen3_5_moe_text", {**DELTA, **MOE, "num_experts": 6, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 48}),
    ("mpt", {"n_heads": 4}),
    ("mpt", {"n_heads": 6, "attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.3}}),
]
#: Keys of config.json that are spelled in another way.
GPT2 = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "max_position_embeddings": "n_positions"}
SPELLED: dict[str, dict[str, str]] = {
    **dict.fromkeys(("gpt2", "gptj", "gpt_bigcode"), GPT2),
    "gpt_neo": {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    "mpt": {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    },
}


def reference_model(kind: str, changes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    spelled = SPELLED.get(kind, {})
    tiny = {spelled.get(key, key): value for key, value in TINY.items()}
    if kind in SPELLED:  # what is not a key of theirs would stand beside their own word for it
        tiny = {key: value for key, value in tiny.items() if key not in ("intermediate_size", "num_key_value_heads", "tie_word_embeddings")}
    config = transformers.AutoConfig.for_model(kind, **{**tiny, "pad_token_id": 0, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms are all ones and biases zeros at first: that would hide a missing one
            torch.nn.init.normal_(parameter, 0.5 if "norm" in name else 0.0, 0.3)
    for name, state in chain(model.named_parameters(), model.named_buffers()):
        if name.endswith(("e_score_correction_bias", "_proj_bias", "expert_bias")):
            torch.nn.init.normal_(state, 0.0, 0.3)
        if name.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
            torch.nn.init.normal_(state, 0.9, 0.2)
    return model


def our_model(
    oracle: Any,
    backend: str = "reference",
    *,
    int8: bool | Callable[[str], bool] = False,
    dtype: torch.dtype = torch.float32,
    wrap: Callable[[Ops], Any] = lambda ops: ops,
) -> Any:
    """int8: all layers are, or those whose names it holds for."""
    ops = wrap(load_kernels(backend))
    in_int8 = int8 if callable(int8) else lambda _: int8
    model = models.build(read_spec(oracle.config.to_dict()), ops, choose=lambda name: Int8(ops) if in_int8(name) else None)
    with TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        wanted = {part.name for parameter in model.parameters() for part in parameter.parts}
        load(model.parameters(), fit(FolderSource("tiny", Path(folder)), model.stack, wanted, whole=True), dtype, torch.device("cpu"))
    model.allocate(512, torch.device("cpu"))
    with torch.inference_mode():
        make_rows_alike(model.ops, chain(model.linears(), [model.head]), dtype, torch.device("cpu"))  # as a run does
    return model


def run(
    model: Any,
    prompts: list[list[int]],
    chunk: int,
    *,
    wanted: int | None = None,
    multiple: int = ROW_MULTIPLE,
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    """Logits of every position, the prompts prefilled side by side in chunks over shuffled pages.

    wanted: ask the model for this many rows of every chunk only, the last ones, and for none of the first chunk.
    multiple: what numbers of rows are padded to.
    dtype: of the model's rows.
    """
    block_size, blocks = 8, 64
    table = torch.randperm(len(prompts) * blocks, generator=torch.Generator().manual_seed(1)).view(len(prompts), blocks).int() + 1
    caches = [
        model.ops.new_kv_cache(
            len(prompts) * blocks + 1, block_size, one.num_kv_heads, one.head_dim, dtype, torch.device("cpu"), latent=one.latent
        )
        for one in model.caches
    ]
    pools = new_pools(model.states, len(prompts) + 1, dtype, torch.device("cpu"))
    for pool in chain.from_iterable(pools):
        pool.fill_(float("nan"))
    for cache in caches:
        cache.key[1:] = cache.value[1:] = float("nan")  # unwritten slots must never be read into a result
    logits: list[list[torch.Tensor]] = [[] for _ in prompts]
    for start in range(0, max(map(len, prompts)), chunk):
        rows = [(i, p[start : start + chunk]) for i, p in enumerate(prompts) if p[start:]]
        tokens = [t for _, part in rows for t in part]
        positions = [start + j for _, part in rows for j in range(len(part))]
        starts = torch.tensor([0, *torch.tensor([len(p) for _, p in rows]).cumsum(0).tolist()], dtype=torch.int32)
        sequences = [i for i, part in rows for _ in part]
        slots = torch.tensor(
            [int(table[i, p // block_size]) * block_size + p % block_size for i, p in zip(sequences, positions, strict=True)]
        )
        meta = AttentionMeta(
            starts, torch.tensor([start + len(p) for _, p in rows], dtype=torch.int32), table[[i for i, _ in rows]], slots, block_size
        )
        meta.state_slots = torch.tensor([i + 1 for i, _ in rows], dtype=torch.int32)
        pad = -len(tokens) % multiple
        asked = None
        if wanted is not None:
            count = 0 if start == 0 else min(wanted, len(sequences))
            sequences = sequences[len(sequences) - count :]
            asked = torch.tensor([*range(len(tokens) - count, len(tokens)), *[0] * (-count % multiple)], dtype=torch.int64)
        hidden = model.forward(torch.tensor(tokens + [0] * pad), torch.tensor(positions + [0] * pad), caches, meta, asked, pools)
        assert hidden.shape == (len(asked) if asked is not None else len(tokens) + pad, model.hidden_size)
        if len(hidden):
            out = model.logits(hidden)
            for row, i in enumerate(sequences):
                logits[i].append(out[row])
    return [torch.stack(rows) if rows else torch.empty(0) for rows in logits]


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 160, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), ARCHITECTURES, ids=lambda v: v if isinstance(v, str) else ",".join(v) or "plain")
def test_logits_equal_transformers(kind: str, changes: dict[str, Any], backend: str) -> None:
    oracle = reference_model(kind, changes)
    model = our_model(oracle, backend)
    prompts = prompts_of(70, 1, 33, 129)
    with torch.inference_mode():
        ours = run(model, prompts, chunk=48)
        for prompt, got in zip(prompts, ours, strict=True):
            expected = oracle(torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma2"])
@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("backend", usable("cpu"))
def test_chunks_do_not_change_a_bit(backend: str, int8: bool, kind: str) -> None:
    model = our_model(reference_model(kind, {}), backend, int8=int8)
    prompts = prompts_of(70, 1, 33, 129, 200)
    with torch.inference_mode():
        whole = run(model, prompts, chunk=512)
        for chunk, count in ((1, 3), (7, 5), (64, 5)):  # a step a token: for the first ones, past a tile
            for a, b in zip(whole[:count], run(model, prompts[:count], chunk=chunk), strict=True):
                assert torch.equal(a, b)
        for prompt, expected in zip(prompts, whole, strict=True):
            assert torch.equal(run(model, [prompt], chunk=512)[0], expected)


@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(
    ("kind", "changes"), [("llama", {"mlp_bias": True}), next(row for row in ARCHITECTURES if "num_kv_shared_layers" in row[1])]
)
def test_rows_that_are_asked_for_are_those_of_all(kind: str, changes: dict[str, Any], backend: str, int8: bool) -> None:
    model = our_model(reference_model(kind, changes), backend, int8=int8)
    prompts = prompts_of(70, 1, 33, 129)
    with torch.inference_mode():
        whole = run(model, prompts, chunk=48)
        some = run(model, prompts, chunk=48, wanted=5)
    assert [len(rows) for rows in some] == [0, 0, 0, 10]
    # The longest prompt alone reaches its second and third chunk's end, 48 and 33 tokens; the first chunk was not asked for.
    assert torch.equal(some[3], torch.cat([whole[3][91:96], whole[3][124:129]]))


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 16}),
        ("gpt2", {}),
        ("gemma2", {"head_dim": 16}),
        *MIXED,
    ],
)
def test_int8_stays_near_the_plain_model(kind: str, changes: dict[str, Any], backend: str) -> None:
    if not load_kernels(backend).supports_int8():
        pytest.skip("no exact int8 dot products here")
    oracle = reference_model(kind, {**changes, "initializer_range": 0.1})
    prompts = prompts_of(70, 33)
    with torch.inference_mode():
        plain = torch.cat(run(our_model(oracle), prompts, chunk=48))
        int8 = torch.cat(run(our_model(oracle, backend, int8=True), prompts, chunk=48))
    assert 0 < (int8 - plain).norm() / plain.norm() < 0.05


def test_unknown_architectures_and_damaged_configs_are_named() -> None:
    ops = load_kernels("reference")
    with pytest.raises(ModelError, match=r"'lama' is not supported.*llama.*did you mean 'llama'"):
        models.build(read_spec({"model_type": "lama"}), ops)
    old = {"activation_function": "swiglu", "rotary_emb_fraction": 1.0, "mlp_fc1_bias": False, "mlp_fc2_bias": False}
    with pytest.raises(ModelError, match="no 'n_head', which a nomic_bert model needs"):
        models.build_encoder(read_spec({"model_type": "nomic_bert", "n_embd": 4, **old}), ops)
    with pytest.raises(ModelError, match="rope scaling 'ntk'"):
        models.build(read_spec({**TINY, "model_type": "llama", "rope_scaling": {"type": "ntk"}}), ops)
    with pytest.raises(ModelError, match=r"'llama3' lacks.*factor"):
        models.build(read_spec({**TINY, "model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}), ops)
    with pytest.raises(ModelError, match="6 attention heads cannot share 4"):
        models.build(read_spec({**TINY, "model_type": "llama", "num_key_value_heads": 4}), ops)
    with pytest.raises(ModelError, match="activation 'relu6'"):
        models.build(read_spec({**TINY, "model_type": "llama", "hidden_act": "relu6"}), ops)
