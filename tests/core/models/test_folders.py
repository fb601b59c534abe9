"""A model's folder with edits, run as jobs run it, against transformers in float32 over the same folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

from .test_architectures import TINY

PROMPT = [7, 99, 23, 54, 8, 31, 140, 77, 12, 66, 91]
Weights = dict[str, torch.Tensor]


def saved(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TINY, "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0, **changes})
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def edited(folder: Path, **changes: Any) -> Path:
    """With these keys in config.json; `...` takes one out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def with_weights(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, **change(weights)}, file, {"format": "pt"})
    return folder


def ours(folder: Path, num_tokens: int = 12, **settings: Any) -> list[int]:
    """The tokens that a run draws greedily."""
    given = {"device": "cpu", "dtype": "float32", "kernels": "reference", "skip_tokenizer_init": True, "num_gpu_blocks_override": 40}
    engine = build_engine(make_plan(EngineArgs.from_kwargs(model=str(folder), **{**given, **settings})))
    engine.add(Request("0", PROMPT, SamplingParams(temperature=0.0, max_tokens=num_tokens), 0))
    while engine.num_unfinished:
        for output in engine.step():
            return list(output.outputs[0].token_ids)
    raise AssertionError("no answer")


@torch.inference_mode()
def theirs(folder: Path, num_tokens: int = 12) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokens = list(PROMPT)
    for _ in range(num_tokens):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


LINEAR = {"rope_type": "linear", "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 50.0}


@pytest.mark.parametrize(
    ("kind", "edits"),
    [
        ("llama", {"rope_scaling": LINEAR, "rope_parameters": PLAIN}),
        ("llama", {"rope_scaling": None, "rope_parameters": PLAIN}),
        ("llama", {"rope_parameters": ..., "rope_scaling": LINEAR, "rope_theta": 70.0}),
        ("llama", {"rope_parameters": ..., "rope_theta": 70.0}),
        ("llama", {"rms_norm_eps": ..., "hidden_act": ..., "attention_bias": ..., "mlp_bias": ..., "tie_word_embeddings": ...}),
        ("llama", {"partial_rotary_factor": 0.5}),
        ("mistral", {"sliding_window": 4}),
        ("mistral", {"sliding_window": 4, "use_sliding_window": False}),
        ("mistral", {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "layer_types": ..., "max_window_layers": 1}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": False, "layer_types": ..., "max_window_layers": 0}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
        ("qwen2_moe", {"sliding_window": 4, "use_sliding_window": False, "layer_types": ..., "max_window_layers": 1}),
        ("qwen2_moe", {"sliding_window": 4, "use_sliding_window": True, "layer_types": ..., "max_window_layers": 2}),
        ("qwen2_moe", {"sliding_window": 4, "use_sliding_window": True, "layer_types": ["full_attention"] * 3}),
        ("qwen3_moe", {"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 0}),
        ("smollm3", {"sliding_window": 4, "use_sliding_window": False, "layer_types": ...}),
        ("gemma2", {"sliding_window": 4, "layer_types": ["full_attention"] * 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
@pytest.mark.parametrize("impl", ["auto", "transformers"])
def test_a_config_is_read_as_transformers_reads_it(tmp_path: Path, kind: str, edits: dict[str, Any], impl: str) -> None:
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    edited(saved(tmp_path, kind, head_dim=8, **(moe if "moe" in kind else {})), **edits)
    assert ours(tmp_path, model_impl=impl) == theirs(tmp_path)


@pytest.mark.parametrize("impl", ["auto", "transformers"])
def test_overrides_do_what_the_file_would(tmp_path: Path, impl: str) -> None:
    overrides: list[dict[str, Any]] = [
        {"rope_scaling": LINEAR},
        {"rope_parameters": PLAIN},
        {"rms_norm_eps": 0.5},
        {"hidden_act": "gelu"},
        {"model_type": "mistral", "sliding_window": 4},
        {"num_hidden_layers": 2},
    ]
    file = saved(tmp_path) / "config.json"
    plain, before = file.read_text(), ours(tmp_path, model_impl=impl)
    for override in overrides:
        file.write_text(plain)
        got = ours(tmp_path, model_impl=impl, hf_overrides=override)
        assert got == theirs(edited(tmp_path, **override)), override
        assert got != before, override


def test_a_variant_that_our_code_lacks_runs_in_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, hidden_act="relu6")
    with caplog.at_level(logging.INFO):
        assert ours(tmp_path) == theirs(tmp_path)
    assert caplog.text.count("model code: transformers' (model_type llama); ours lacks it: config.json: activation 'relu6'") == 1
    with pytest.raises(ModelError, match="activation 'relu6' is not supported"):
        ours(tmp_path, model_impl="infer")


def test_an_overridden_end_token_ends(tmp_path: Path) -> None:
    tokens = ours(saved(tmp_path))
    end = next(token for token in tokens[2:] if token not in tokens[:2])
    assert ours(tmp_path, hf_overrides={"eos_token_id": end}) == tokens[: tokens.index(end) + 1]
    assert ours(tmp_path, hf_overrides={"tie_word_embeddings": True}) == tokens, "both weights are in the file"
    assert ours(edited(tmp_path, eos_token_id=end)) == tokens[: tokens.index(end) + 1]
    assert ours(tmp_path, hf_overrides={"eos_token_id": None}) == tokens
    with pytest.raises(ModelError, match=r"missing: score\.weight, score\.bias"):
        ours(tmp_path, hf_overrides={"architectures": ["LlamaForTokenClassification"]})


class TestWeightsThatContradictTheConfig:
    """What is in the file and would change the answer is used as transformers does, or refused by its name."""

    @pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "gpt_neox"])
    @pytest.mark.parametrize("impl", ["auto", "transformers"])
    def test_another_head_beside_a_tie_is_used(self, tmp_path: Path, kind: str, impl: str) -> None:
        saved(tmp_path, kind, head_dim=8, tie_word_embeddings=True)
        tied = ours(tmp_path, model_impl=impl)
        head = "embed_out.weight" if kind == "gpt_neox" else "lm_head.weight"
        with_weights(tmp_path, lambda weights: {head: torch.randn(160, 48, generator=torch.Generator().manual_seed(1))})
        got = ours(tmp_path, model_impl=impl)
        assert got == theirs(tmp_path)
        assert got != tied

    def test_the_same_head_changes_nothing(self, tmp_path: Path) -> None:
        tied = ours(saved(tmp_path, tie_word_embeddings=True))
        with_weights(tmp_path, lambda weights: {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
        assert ours(tmp_path) == tied == theirs(tmp_path)

    @pytest.mark.parametrize("impl", ["auto", "transformers"])
    def test_a_tied_weight_under_the_heads_name(self, tmp_path: Path, impl: str) -> None:
        tied = ours(saved(tmp_path, tie_word_embeddings=True))
        weights = load_file(tmp_path / "model.safetensors")
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        assert ours(tmp_path, model_impl=impl) == tied == theirs(tmp_path)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("model.layers.3.mlp.up_proj.weight", (80, 48)),
            ("model.layers.0.self_attn.q_proj.bias", (48,)),
            ("model.layers.0.self_attn.o_proj.bias", (48,)),
            ("model.layers.0.mlp.down_proj.bias", (48,)),
            ("model.layers.0.self_attn.q_norm.weight", (8,)),
            ("model.layers.0.self_attn.bias", (1, 1, 8, 8)),
            ("model.layers.0.post_feedforward_layernorm.weight", (48,)),
            ("lm_head.bias", (160,)),
        ],
    )
    def test_tensors_that_the_config_has_no_place_for_are_refused(self, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
        with_weights(saved(tmp_path), lambda weights: {name: torch.ones(shape)})
        with pytest.raises(ModelError, match=f"unexpected: {name}"):
            ours(tmp_path)

    def test_transformers_code_says_what_it_does_not_use(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with_weights(saved(tmp_path), lambda weights: {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
        with caplog.at_level(logging.WARNING):
            assert ours(tmp_path, model_impl="transformers") == theirs(tmp_path)
        assert "1 weight of" in caplog.text
        assert "model.layers.0.self_attn.q_norm.weight" in caplog.text

    def test_frequencies_of_the_file_that_are_others_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        plain = 1 / 10000 ** (torch.arange(0, 8, 2) / 8)
        before = ours(saved(tmp_path))
        with caplog.at_level(logging.WARNING):
            assert ours(with_weights(tmp_path, lambda weights: {name: plain})) == before
            assert "frequencies" not in caplog.text
            assert ours(with_weights(tmp_path, lambda weights: {name: plain / 2})) == before == theirs(tmp_path)
        assert f"{name} has other frequencies than config.json makes; config.json's are used" in caplog.text

    def test_layers_that_an_override_leaves_out_are_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        saved(tmp_path)
        with caplog.at_level(logging.WARNING):
            ours(tmp_path, hf_overrides={"num_hidden_layers": 1})
        assert "hf_overrides: num_hidden_layers 1 leaves 18 tensors of later layers unused" in caplog.text
        with pytest.raises(ModelError, match=r"unexpected: model\.layers\.2\."):
            ours(edited(tmp_path, num_hidden_layers=2))

    @pytest.mark.parametrize("change", [{"intermediate_size": 79}, {"num_key_value_heads": 3}, {"vocab_size": 159}, {"head_dim": 16}])
    def test_shapes_that_contradict(self, tmp_path: Path, change: dict[str, int]) -> None:
        with pytest.raises(ModelError, match=r"do not fit its config\.json"):
            ours(edited(saved(tmp_path), **change))
