"""Models of images and text, whose language model alone is read: against transformers' whole model on text, in its files' names."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.spec.architectures import wrapper_of, wrappers
from infer.core.spec.read import read_spec

from .test_architectures import DELTA, GEMMA4, LLAMA4, MOE, TINY
from .test_folders import PROMPT, edited, ours

TEXT: dict[str, Any] = {**TINY, "head_dim": 8, "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
CLIP = {"model_type": "clip_vision_model", "projection_dim": 16, **SMALL}
SIGLIP = {"model_type": "siglip_vision_model", **SMALL}
QWEN = {"depth": 1, "hidden_size": 48, "num_heads": 2, "intermediate_size": 16}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
#: The wrapper's keys, and those of the language model in it.
WRAPPERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "internvl": (
        {"vision_config": {**SMALL, "model_type": "internvl_vision", "image_size": [8, 8], "patch_size": [4, 4]}, "downsample_ratio": 0.5},
        {"model_type": "qwen2", "use_sliding_window": False},
    ),
    "idefics3": ({"vision_config": SMALL, "scale_factor": 2}, {"model_type": "llama"}),
    "smolvlm": ({"vision_config": SMALL, "scale_factor": 2}, {"model_type": "llama"}),
    "mistral3": ({"vision_config": {"model_type": "pixtral", **SMALL, "head_dim": 8}}, {"model_type": "mistral", "sliding_window": None}),
    "gemma3": ({"vision_config": SIGLIP, "mm_tokens_per_image": 4}, {"model_type": "gemma3_text", "sliding_window": 5}),
    "paligemma": (
        {"vision_config": SIGLIP, "projection_dim": 48, "hidden_size": 48, "vocab_size": TINY["vocab_size"]},
        {"model_type": "gemma"},
    ),
    "gemma4": (
        {"vision_config": {**SMALL, "head_dim": 8, "num_key_value_heads": 2, "pooling_kernel_size": 1}, "audio_config": None},
        {"model_type": "gemma4_text", **GEMMA4, "hidden_size_per_layer_input": 12},
    ),
    "gemma4_unified": (
        {"vision_config": {"patch_size": 4, "pooling_kernel_size": 1, "mm_embed_dim": 16, "mm_posemb_size": 8}},
        {"model_type": "gemma4_unified_text", **GEMMA4},
    ),
    "llama4": (
        {"vision_config": {**SMALL, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}},
        {"model_type": "llama4_text", **LLAMA4, "num_local_experts": 4},
    ),
    "llava": ({"vision_config": CLIP}, {"model_type": "llama"}),
    "llava_next": ({"vision_config": CLIP}, {"model_type": "mistral"}),
    "llava_onevision": ({"vision_config": SIGLIP}, {"model_type": "qwen2"}),
    "vipllava": ({"vision_config": {**CLIP, "num_hidden_layers": 12}}, {"model_type": "llama"}),
    "qwen2_vl": ({"vision_config": {**QWEN, "embed_dim": 16}}, MROPE),
    "qwen2_5_vl": ({"vision_config": {**QWEN, "out_hidden_size": 48, "fullatt_block_indexes": [0]}}, MROPE),
    "qwen3_vl_moe": (
        {"vision_config": {**QWEN, "out_hidden_size": 48, "deepstack_visual_indexes": [0]}},
        {**MROPE, **MOE, "num_experts": 6, "num_experts_per_tok": 3, "mlp_only_layers": [1]},
    ),
    "qwen3_5": (
        {"vision_config": {**QWEN, "num_position_embeddings": 16, "out_hidden_size": 48}, "tie_word_embeddings": True},
        {**DELTA, "rope_parameters": {**MROPE["rope_parameters"], "partial_rotary_factor": 0.25}},
    ),
    "qwen3_5_moe": (
        {"vision_config": {**QWEN, "num_position_embeddings": 16, "out_hidden_size": 48}},
        {**DELTA, **MOE, **MROPE, "num_experts": 6, "num_experts_per_tok": 3, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_vl": ({"vision_config": {**QWEN, "out_hidden_size": 48, "deepstack_visual_indexes": [0]}}, MROPE),
}


def saved(folder: Path, kind: str, **text: Any) -> Path:
    torch.manual_seed(0)
    outer, inner = WRAPPERS[kind]
    config = transformers.AutoConfig.for_model(kind, **outer, text_config={**TEXT, **inner, **text})
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@torch.inference_mode()
def theirs(folder: Path, num_tokens: int = 12) -> list[int]:
    # Without a mask, transformers 5.24's PaliGemma sees texts in both directions; its eager attention always has one.
    model = transformers.AutoModelForImageTextToText.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager").eval()
    if model.config.model_type == "llama4":  # transformers 5.24's whole model asks its language model's output for images
        model = model.language_model
    tokens = list(PROMPT)
    for _ in range(num_tokens):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def test_every_wrapper_has_a_row() -> None:
    """But for those of two towers, which write nothing."""
    assert set(WRAPPERS) == {kind for kind in wrappers() if (one := wrapper_of(kind)) is not None and one.towers is None}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_text_is_what_the_whole_model_writes(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, kind)
    with caplog.at_level(logging.WARNING):
        assert ours(tmp_path) == theirs(tmp_path)
    ours_parts = ("language_model", "text_model", "lm_head")
    media = [name for name in load_file(tmp_path / "model.safetensors") if not any(part in name for part in ours_parts)]
    outside = ("model.layers", "model.embed_tokens", "model.norm")
    told = f"{len([name for name in media if not name.startswith(outside)])} tensors that read images"
    assert caplog.text.count(told) == 1


def test_what_no_layer_reads_is_not_read(tmp_path: Path) -> None:
    """Published files of Gemma 4 have keys and values of layers that read those of others."""
    kinds = ["sliding_attention", "full_attention"] * 2
    file = saved(tmp_path, "gemma4", num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=2) / "model.safetensors"
    expected, weights = ours(tmp_path), load_file(file)
    layer = "model.language_model.layers.3.self_attn."
    assert f"{layer}q_proj.weight" in weights
    assert f"{layer}k_proj.weight" not in weights
    more = {f"{layer}{name}.weight": torch.ones(4, 4) for name in ("k_proj", "v_proj", "k_norm")}
    save_file({**weights, **more}, file, {"format": "pt"})
    assert ours(tmp_path) == expected == theirs(tmp_path)


@pytest.mark.parametrize("prefix", [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")])
def test_both_spellings_of_its_names(tmp_path: Path, prefix: tuple[str, str]) -> None:
    """Files of before transformers 4.52 have the language model's own head and prefix within the wrapper's."""
    file = saved(tmp_path, "llava") / "model.safetensors"
    expected = ours(tmp_path)
    weights = load_file(file)
    bare = {name: name for name in weights}
    for name in weights:
        for start, new in (
            ("language_model.model.", prefix[0]),
            ("model.language_model.", prefix[0]),
            ("language_model.lm_head.", prefix[1]),
        ):
            if name.startswith(start):
                bare[name] = new + name.removeprefix(start)
                break
        else:
            bare[name] = prefix[1] + name.removeprefix("lm_head.") if name.startswith("lm_head.") else name
    save_file({bare[name]: tensor for name, tensor in weights.items()}, file, {"format": "pt"})
    assert ours(tmp_path) == expected


def test_experts_in_one_tensor_lie_either_way(tmp_path: Path) -> None:
    """transformers writes [experts, out, in] and reads what was published too, [experts, in, out]."""
    file = saved(tmp_path, "qwen3_vl_moe") / "model.safetensors"
    expected, weights = ours(tmp_path), load_file(file)
    turned = {name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor for name, tensor in weights.items()}
    assert any(turned[name].shape != weights[name].shape for name in weights)
    save_file(turned, file, {"format": "pt"})
    assert ours(tmp_path) == expected == theirs(tmp_path)


def test_first_releases_have_one_flat_config(tmp_path: Path) -> None:
    """Qwen2-VL's keys stood beside the wrapper's, and M-RoPE was a kind of scaling."""
    expected = ours(saved(tmp_path, "qwen2_vl"))
    config = json.loads((tmp_path / "config.json").read_text())
    text = {key: value for key, value in config.pop("text_config").items() if key not in ("model_type", "rope_parameters")}
    flat = {**text, **config, "rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    assert ours(tmp_path) == expected == theirs(tmp_path)


def test_what_is_not_text_alone_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "llava")
    with pytest.raises(ModelError, match=r"model_type 'llava' .*reads images"):
        make_plan(EngineArgs.from_kwargs(model=str(tmp_path), device="cpu", model_impl="transformers", skip_tokenizer_init=True))
    edited(tmp_path, text_config={**TEXT, "model_type": "bloomy"})
    with pytest.raises(ModelError, match=r"the language model in it, 'bloomy', is not one that we have code for"):
        make_plan(EngineArgs.from_kwargs(model=str(tmp_path), device="cpu", skip_tokenizer_init=True))


def test_sizes_are_the_language_models() -> None:
    spec = read_spec({"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_hidden_layers": 2}, "vision_config": {}})
    assert (spec.vocab_size, spec.hidden_size, spec.max_length, len(spec.caches)) == (262208, 64, 131072, 2)
    assert spec.need_stack().tie_embeddings
