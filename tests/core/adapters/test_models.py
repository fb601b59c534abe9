"""Adapters in models of many kinds, mixed in a step with rows of others and of none, against merged models of transformers in float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer import LLM, LoRARequest, SamplingParams
from infer.core.errors import AdapterError, ConfigError

from .making import merge, random_matrices, write_adapter

TINY: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
MLA = {"num_key_value_heads": 6, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 16}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}
DEEPSEEK = {**MLA, **MOE, "q_lora_rank": 20, "first_k_dense_replace": 1, "n_routed_experts": 4}
QWEN_MOE = {**MOE, "num_experts": 4, "shared_expert_intermediate_size": 48}
GPT2 = {"n_embd": 48, "n_head": 6, "n_layer": 2, "n_positions": 256, "n_inner": 80, "vocab_size": 160}
#: Kind, config over TINY, layers with a pair. The first three: separate, fused and transposed in the checkpoint; then rows in other orders,
#: positions that turn with their neighbours, projections around the layers, parallel parts, latents, an expert for all, gates.
MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {}, r".*_proj|lm_head"),
    ("phi3", {"pad_token_id": 0}, r".*(qkv_proj|gate_up_proj|o_proj)"),
    ("gpt2", GPT2, r".*(c_attn|c_proj|c_fc)|lm_head"),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, r".*(q|v|up)_proj|lm_head"),
    ("gpt_neox", {"hidden_size": 96}, r".*(query_key_value|dense|dense_h_to_4h)"),
    ("gptj", {"rotary_dim": 4}, r".*(q_proj|k_proj|v_proj|fc_in|fc_out)"),
    ("falcon", {"num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}, r".*(query_key_value|dense)"),
    ("opt", {"ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32, "dropout": 0.0}, r".*(_proj|fc1|fc2|project_.*)"),
    ("cohere", {"use_qk_norm": True, "tie_word_embeddings": True}, r".*_proj"),
    ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 20, "tie_word_embeddings": True}, r".*_proj"),
    ("deepseek_v2", DEEPSEEK, r".*(q_a_proj|q_b_proj|kv_a_proj_with_mqa|o_proj)|.*0.mlp.up_proj"),
    ("qwen2_moe", QWEN_MOE, r".*(q_proj|shared_expert\.\w+)"),
]  # fmt: skip
PROMPTS = [[7, 99, 23, 54, 8, 31, 140, 77, 12, 66, 91], [1, 2, 3, 4, 5], [9] * 20]


def model_of(kind: str, changes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig()
    return model


def started(folder: Path, **settings: Any) -> LLM:
    usual = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 60, "enable_lora": True}
    return LLM(str(folder), **{**usual, "max_loras": 2, **settings})


def check(llm: LLM, oracles: dict[str | None, Any], paths: dict[str, Path], tolerance: float = 1e-4) -> None:
    """Every prompt with every adapter and none, in one batch: log-probabilities of the prompt's tokens and of the next."""
    pairs = [(prompt, name) for prompt in PROMPTS for name in oracles]
    loras = [None if name is None else LoRARequest(name, 1, str(paths[name])) for _, name in pairs]
    params = SamplingParams(temperature=0, max_tokens=2, logprobs=1, prompt_logprobs=1, ignore_eos=True)
    outputs = llm.generate([prompt for prompt, _ in pairs], params, lora_request=loras, use_tqdm=False)
    for output, lora, (prompt, name) in zip(outputs, loras, pairs, strict=True):
        ids = prompt + list(output.outputs[0].token_ids)
        with torch.inference_mode():
            theirs = oracles[name](torch.tensor([ids])).logits[0].log_softmax(-1)
        found = [*(output.prompt_logprobs or [])[1:], *(output.outputs[0].logprobs or [])]
        ours = torch.tensor([one[token].logprob for one, token in zip(found, ids[1:], strict=True)])
        wanted = theirs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(ours, wanted, atol=tolerance, rtol=tolerance)
        assert output.lora_request is lora
        assert output.outputs[0].lora_request is lora


@pytest.mark.parametrize(("kind", "changes", "layers"), MODELS, ids=[f"{kind}-{number}" for number, (kind, _, _) in enumerate(MODELS)])
def test_equals_the_merged_model(tmp_path: Path, kind: str, changes: dict[str, Any], layers: str) -> None:
    model = model_of(kind, changes)
    model.save_pretrained(tmp_path / "model")
    oracles: dict[str | None, Any] = {None: model}
    paths = {}
    for number, name in enumerate(("a", "b")):
        matrices = random_matrices(model, layers, 3 + number, number, size=1.0)
        some = matrices if not number else {layer: both for layer, both in matrices.items() if "1" in layer}
        paths[name] = write_adapter(tmp_path / name, some or matrices)
        with torch.no_grad():
            oracle = copy.deepcopy(model)
            if oracle.config.tie_word_embeddings and any(layer == "lm_head" for layer in some):
                oracle.lm_head.weight = torch.nn.Parameter(oracle.lm_head.weight.clone())
            oracles[name] = merge(oracle, some or matrices, 2.0)
    check(started(tmp_path / "model", kernels="reference" if kind != "llama" else "auto"), oracles, paths)


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_embeddings_and_what_writes(tmp_path: Path, kernels: str) -> None:
    model = model_of("llama", {"tie_word_embeddings": True})
    model.save_pretrained(tmp_path / "model")
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, 160, generator=generator), torch.randn(48, 4, generator=generator) * 0.1
    paths = {"words": write_adapter(tmp_path / "words", {}, embeddings={"model.embed_tokens": (a, b)})}
    changed = copy.deepcopy(model)
    changed.lm_head.weight = torch.nn.Parameter(changed.lm_head.weight.clone())  # a tied head stays as it was
    with torch.no_grad():
        changed.model.embed_tokens.weight = torch.nn.Parameter(changed.model.embed_tokens.weight + 2 * (b @ a).T)
    check(started(tmp_path / "model", kernels=kernels), {None: model, "words": changed}, paths)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_weights_are_added_to_as_well(tmp_path: Path, dtype: str) -> None:
    """Near the merged model in float32: the base is rounded to 8 bits, and the adapter reads rows of 8 bits."""
    model = model_of("llama", {"hidden_size": 96, "num_attention_heads": 6, "initializer_range": 0.05})
    model.save_pretrained(tmp_path / "model")
    matrices = random_matrices(model, r".*_proj", 8, 1, size=0.5)
    paths = {"a": write_adapter(tmp_path / "a", matrices)}
    oracles = {None: model, "a": merge(copy.deepcopy(model), matrices, 2.0)}
    check(started(tmp_path / "model", quantization="int8", dtype=dtype), oracles, paths, tolerance=0.1)
    with pytest.raises(AssertionError):
        check(started(tmp_path / "model", quantization="int8", dtype=dtype), {"a": model}, paths, tolerance=0.1)


@pytest.mark.parametrize("case", ["plain", "tied head", "tied words", "fused", "transposed"])
def test_a_merged_adapter_is_part_of_the_weights(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    kind, changes, layers = {"fused": MODELS[1], "transposed": MODELS[2]}.get(case, ("llama", {"tie_word_embeddings": "tied" in case}, ""))
    model = model_of(kind, changes)
    model.save_pretrained(tmp_path / "model")
    matrices = (
        {} if case == "tied words" else random_matrices(model, layers or (r".*_proj|lm_head" if "tied" in case else r".*_proj"), 4, 1)
    )
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, 160, generator=generator), torch.randn(48, 4, generator=generator) * 0.1
    words = {"model.embed_tokens": (a, b)} if case == "tied words" else None
    path = write_adapter(tmp_path / "a", matrices, embeddings=words)
    oracle = copy.deepcopy(model)
    if "tied" in case:
        oracle.lm_head.weight = torch.nn.Parameter(oracle.lm_head.weight.clone())
    if words is not None:
        with torch.no_grad():
            oracle.model.embed_tokens.weight = torch.nn.Parameter(oracle.model.embed_tokens.weight + 2 * (b @ a).T)
    oracle = merge(oracle, matrices, 2.0)
    with caplog.at_level("INFO"):
        llm = started(tmp_path / "model", lora_merge=str(path), enable_lora=False)
    assert "of rank 4, is part of the weights" in caplog.text
    check(llm, {None: oracle}, {})


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    model = model_of("llama", {})
    model.save_pretrained(tmp_path / "model")
    path = write_adapter(tmp_path / "a", random_matrices(model, r".*_proj", 4, 1))
    with pytest.raises(ConfigError, match="lora_merge: random weights"):
        started(tmp_path / "model", lora_merge=str(path), load_format="dummy")
    with pytest.raises(AdapterError, match="there is no adapter"):
        started(tmp_path / "model", lora_merge=str(tmp_path / "none"))
