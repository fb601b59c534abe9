"""Ranks that share a model give what one alone gives, and what a record gets does not depend on its batch with them either."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from infer.core import LLM, SamplingParams
from infer.core.errors import ConfigError, ModelError
from infer.core.types.outputs import RequestOutput

pytestmark = pytest.mark.usefixtures("forked_ranks")

#: Logits this close are a tie that rounding decides.
TIE = 1e-3
PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(9)]


@pytest.fixture(scope="module")
def six_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, six heads on three, an odd vocabulary, a tied head."""
    folder = tmp_path_factory.mktemp("six")
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=257,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.3)
    model.save_pretrained(folder)
    return folder


#: Config classes of other stacks, at sizes that two ranks can share.
OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 256},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 64},
    "minimax_m2": {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 16, "rotary_dim": 8},
    "qwen3_next": {
        "full_attention_interval": 2,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 12,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 64,
    },
    "gpt_oss": {"head_dim": 16, "sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "num_key_value_heads": 6,
        "kv_lora_rank": 24,
        "q_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 20},
    "gemma4_text": {  # all that it has: values of keys, layers that read others, per-layer embeddings, experts beside
        "head_dim": 16,
        "global_head_dim": 24,
        "sliding_window": 24,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "vocab_size_per_layer_input": 257,
        "hidden_size_per_layer_input": 12,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 48,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "conv_bias": True},
    "olmo2": {"pad_token_id": 0},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.25, "pad_token_id": 0},
    "falcon": {"num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True, "alibi": True, "ffn_hidden_size": 96},
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2}
    common = {"vocab_size": 257, "initializer_range": 0.2} | ({} if request.param == "gpt2" else sizes | {"max_position_embeddings": 256})
    config = AutoConfig.for_model(request.param, **{**common, **OTHERS[request.param]})
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith("_proj_bias"):
            torch.nn.init.normal_(parameter, 0.5 if "norm" in name or "ln_" in name else 0.0, 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def four_kv_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    torch.manual_seed(2)
    sizes = {"vocab_size": 250, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4, initializer_range=0.3, tie_word_embeddings=False)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    return folder


def answers(model: Path, size: int, **more: Any) -> list[RequestOutput]:
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 200, **more}
    llm = LLM(str(model), tensor_parallel_size=size, **settings)
    params = SamplingParams(temperature=0, max_tokens=12, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    return llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)


def assert_same_but_for_ties(alone: list[RequestOutput], shared: list[RequestOutput]) -> None:
    compared = 0
    for a, b in zip(alone, shared, strict=True):
        assert a.prompt_logprobs is not None
        assert b.prompt_logprobs is not None
        for one, other in zip(a.prompt_logprobs[1:], b.prompt_logprobs[1:], strict=True):
            assert one is not None
            assert other is not None
            for token in one.keys() & other.keys():
                assert abs(one[token].logprob - other[token].logprob) < TIE
        x, y = a.outputs[0], b.outputs[0]
        assert x.logprobs is not None
        for i, (token, other_token) in enumerate(zip(x.token_ids, y.token_ids, strict=True)):
            if token != other_token:
                first, second = sorted((entry.logprob for entry in x.logprobs[i].values()), reverse=True)[:2]
                assert first - second < TIE, f"token {i} differs, and is no tie"
                break
            compared += 1
    assert compared > 6 * len(alone)


@pytest.mark.parametrize("size", [2, 4])  # with four ranks, two hold the same key/value head
def test_even_shares_and_copies_of_heads(tiny_llama: Path, size: int) -> None:
    shared = answers(tiny_llama, size, threads=2, lanes=2)  # ranks take one step after the other, whatever the threads
    assert_same_but_for_ties(answers(tiny_llama, 1), shared)
    for more in ({"max_num_seqs": 1}, {"max_num_batched_tokens": 32, "enable_prefix_caching": False}):
        again = answers(tiny_llama, size, **more)
        assert [o.outputs[0].token_ids for o in again] == [o.outputs[0].token_ids for o in shared]
        assert [o.outputs[0].logprobs for o in again] == [o.outputs[0].logprobs for o in shared]
        assert [o.prompt_logprobs for o in again] == [o.prompt_logprobs for o in shared]


def test_other_stacks_are_shared_and_do_not_depend_on_the_schedule(other: Path) -> None:
    alone, shared = answers(other, 1), answers(other, 2)
    assert_same_but_for_ties(alone, shared)
    for size, first in ((1, alone), (2, shared)):
        again = answers(other, size, max_num_seqs=2, max_num_batched_tokens=16, enable_prefix_caching=False)
        assert [o.outputs[0].token_ids for o in again] == [o.outputs[0].token_ids for o in first]
        assert [o.outputs[0].logprobs for o in again] == [o.outputs[0].logprobs for o in first]
        assert [o.prompt_logprobs for o in again] == [o.prompt_logprobs for o in first]


def test_other_stacks_are_transformers(other: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32).eval()
    for ids, got in zip(PROMPTS, answers(other, 1), strict=True):
        tokens = [*ids, *got.outputs[0].token_ids]
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for place, (token, entries) in enumerate(zip(got.outputs[0].token_ids, got.outputs[0].logprobs or [], strict=True), len(ids) - 1):
            assert abs(entries[token].logprob - expected[place, token].item()) < TIE
            assert expected[place].max().item() - expected[place, token].item() < TIE, "the likeliest, but for a tie"


def test_other_stacks_in_int8_do_not_depend_on_the_schedule(other: Path, int8: dict[str, Any]) -> None:
    first = answers(other, 1, **int8)
    again = answers(other, 1, **int8, max_num_seqs=2, max_num_batched_tokens=16)
    assert [o.outputs[0].logprobs for o in again] == [o.outputs[0].logprobs for o in first]


def test_three_ranks_biases_and_a_padded_vocabulary(six_heads: Path) -> None:
    alone = answers(six_heads, 1)
    assert_same_but_for_ties(alone, answers(six_heads, 3))
    assert {o.outputs[0].token_ids[0] for o in alone} > {alone[0].outputs[0].token_ids[0]}


@pytest.mark.parametrize("size", [2, 4])
def test_as_many_key_heads_as_query_heads(four_kv_heads: Path, size: int) -> None:
    assert_same_but_for_ties(answers(four_kv_heads, 1), answers(four_kv_heads, size))


def test_int8_is_shared_too(six_heads: Path, int8: dict[str, Any]) -> None:
    alone, shared = (answers(six_heads, size, **int8) for size in (1, 3))
    close = [
        abs(one[token].logprob - other[token].logprob)
        for a, b in zip(alone, shared, strict=True)
        for one, other in zip((a.prompt_logprobs or [])[1:], (b.prompt_logprobs or [])[1:], strict=True)
        for token in (one or {}).keys() & (other or {}).keys()
    ]
    assert sum(close) / len(close) < 0.15  # other scales, hence other roundings, but the same model


def test_where_ranks_meet_stays_as_long_as_they_do(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend may connect to more of them later, and looks there how. With the `LLM` all of it goes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "num_gpu_blocks_override": 20}
    llm = LLM(str(tiny_llama), tensor_parallel_size=2, disable_custom_all_reduce=True, **settings)
    assert len(list(tmp_path.glob("infer-ranks-*/ranks*"))) == 1
    processes = [worker.process for worker in llm.engine.runner.ranks.workers]  # type: ignore[union-attr]
    del llm
    assert list(tmp_path.iterdir()) == []
    assert all(process.returncode is not None for process in processes)


def test_what_cannot_be_shared_is_refused_before_anything_starts(tiny_llama: Path, six_heads: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 attention heads, 2 key/value heads .* sizes that work: 1, 2, 4$"):
        answers(tiny_llama, 3)
    (tmp_path / "config.json").write_bytes((six_heads / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"no model\.safetensors"):  # what a rank finds wrong is told as if it were alone
        answers(tmp_path, 3)


@pytest.mark.real
def test_the_real_model_on_three_ranks(smollm2: Path) -> None:
    def texts(size: int) -> list[RequestOutput]:
        llm = LLM(str(smollm2), dtype="float32", device="cpu", tensor_parallel_size=size, num_gpu_blocks_override=100)
        prompts = ["The capital of France is", "Water boils at", "1, 2, 3, 4,", "Once upon a time there was"]
        return llm.generate(prompts, SamplingParams(temperature=0, max_tokens=16, logprobs=2, prompt_logprobs=1), use_tqdm=False)

    alone, shared = texts(1), texts(3)
    assert_same_but_for_ties(alone, shared)
    assert "Paris" in shared[0].outputs[0].text
