"""Models that cannot be run are refused by name from config.json alone, before their weights are touched."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import save_file

from infer.core.build.plan import Plan, make_plan
from infer.core.errors import ConfigError, InferError, ModelError
from infer.core.settings.args import EngineArgs
from infer.core.spec.architectures import named
from infer.core.spec.read import read_spec
from infer.core.spec.support import refuse_unsupported
from infer.core.spec.task import choose_task

#: model_type, its classes, what else its config.json says -> what it is said to be.
REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("t5", "T5EncoderModel", {}, "encoder with a decoder, whose hidden states are not supported"),
    ("llama", "LlamaForCausalLM", {"is_encoder_decoder": True}, "encoder with a decoder"),
    ("aya_vision", "AyaVisionForConditionalGeneration", {"vision_config": {"model_type": "siglip_vision_model"}}, "reads images"),
    ("aya_vision", "AyaVisionForConditionalGeneration", {}, "reads images"),
    ("qwen2_audio", "Qwen2AudioForConditionalGeneration", {"audio_config": {"model_type": "qwen2_audio_encoder"}}, "reads audio"),
    ("rwkv", "RwkvForCausalLM", {}, "recurrent layers"),
    ("zamba2", "Zamba2ForCausalLM", {}, "layers that are not plain attention (hybrid, linear_attention)"),
    ("recurrent_gemma", "RecurrentGemmaForCausalLM", {}, "layers that are not plain attention (linear_attention)"),
    ("xglm", "XGLMForCausalLM", {}, "attention that a paged cache cannot hold"),
    ("xlnet", "XLNetLMHeadModel", {}, "attention that a paged cache cannot hold"),
    ("megatron-bert", "MegatronBertForCausalLM", {"is_decoder": True}, "attention that a paged cache cannot hold"),
    ("rembert", "RemBertModel", {}, "reads texts in both directions"),
    ("rembert", "RemBertForCausalLM", {}, "reads texts in both directions"),
    ("mobilebert", "MobileBertForMaskedLM", {}, "reads texts in both directions"),
    ("deberta", "DebertaModel", {}, "reads texts in both directions"),
    ("longformer", "LongformerModel", {}, "reads texts in both directions"),
    ("rembert", "RemBertForSequenceClassification", {}, "reads texts in both directions"),
    ("helium", "HeliumForSequenceClassification", {}, "classifier in code that is not ours"),
    ("llama", "LlamaForQuestionAnswering", {}, "finds answers in texts and writes no text"),
    ("vit", "ViTForImageClassification", {}, "not supported"),
    ("no_such_model", "NoSuchForCausalLM", {}, "not supported"),
]


def judged(kind: str, name: str, more: dict[str, Any]) -> None:
    hf = read_spec({"model_type": kind, "architectures": [name], **more})
    refuse_unsupported(hf, "m", task=choose_task("auto", "auto", "auto", hf, None))


@pytest.mark.parametrize(("kind", "name", "more", "what"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_run_is_refused_by_name(kind: str, name: str, more: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError) as raised:
        judged(kind, name, more)
    message = str(raised.value)
    assert message.startswith(f"m: model_type '{kind}' ({name}) ")
    assert what in message
    assert "supported" in message.rpartition(";")[2]


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("llama", "LlamaForCausalLM", {}),
        ("llama", "LlamaModel", {}),
        ("qwen3", "Qwen3ForCausalLM", {}),
        ("llama", "SomeoneElsesName", {}),
        ("bert", "BertForMaskedLM", {}),
        ("t5", "T5ForConditionalGeneration", {}),
        ("bart", "BartForConditionalGeneration", {}),
        ("marian", "MarianMTModel", {}),
        ("mt5", "MT5ForConditionalGeneration", {"is_encoder_decoder": True}),
        ("whisper", "WhisperForConditionalGeneration", {"is_encoder_decoder": True}),
        ("camembert", "CamembertModel", {}),
        ("bert", "BertForSequenceClassification", {}),
        ("gpt2", "GPT2LMHeadModel", {}),
        ("opt", "OPTForCausalLM", {}),
        ("falcon", "FalconForCausalLM", {}),
        ("bloom", "BloomForCausalLM", {}),
        ("gemma2", "Gemma2ForCausalLM", {}),
        ("gemma3_text", "Gemma3ForCausalLM", {}),
        ("llava", "LlavaForConditionalGeneration", {"vision_config": {"model_type": "clip_vision_model"}}),
        ("llava", "LlavaForConditionalGeneration", {}),
        ("qwen2_vl", "Qwen2VLForConditionalGeneration", {"vision_config": {"depth": 2}}),
        ("qwen2_moe", "Qwen2MoeForCausalLM", {"use_sliding_window": False}),
        ("stablelm", "StableLmForCausalLM", {}),
        ("biogpt", "BioGptForCausalLM", {}),
        ("bart", "BartForCausalLM", {"is_encoder_decoder": False, "is_decoder": True}),
        ("roberta-prelayernorm", "RobertaPreLayerNormForCausalLM", {"is_decoder": True}),
    ],
)
def test_what_can_be_run_is_let_through(kind: str, name: str, more: dict[str, Any]) -> None:
    judged(kind, name, more)


def test_a_model_that_labels_tokens_writes_no_text() -> None:
    spec = read_spec({"model_type": "llama", "architectures": ["LlamaForTokenClassification"]})
    assert choose_task("auto", "auto", "auto", spec, None) == "classify"
    with pytest.raises(ModelError, match=r"LlamaForTokenClassification.* labels tokens and writes no text"):
        refuse_unsupported(spec, "m", task="generate")


def test_a_model_without_a_type_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"m: config\.json has no model_type"):
        refuse_unsupported(read_spec({"architectures": ["LlamaForCausalLM"]}), "m", task="generate")


def test_model_impl_infer_is_for_models_of_ours() -> None:
    with pytest.raises(ModelError, match=r"model_type 'helium' is not supported; supported: apertus, arcee, bamba, bart, bloom"):
        refuse_unsupported(read_spec({"model_type": "helium"}), "m", task="generate", model_impl="infer")


def test_every_architecture_is_known_to_transformers() -> None:
    assert set(named()) - {"new", "qwen"} <= set(transformers.models.auto.configuration_auto.CONFIG_MAPPING)


@pytest.mark.parametrize(
    ("key", "found", "method"),
    [
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("quantization_config", {"quant_method": "mxfp4"}, "mxfp4"),
        ("quantization_config", {"bits": 4}, "by a method that is not named"),
        ("compression_config", {"format": "pack-quantized"}, "pack-quantized"),
    ],
)
@pytest.mark.parametrize(("kind", "settings"), [("phimoe", {}), ("helium", {}), ("llama", {"model_impl": "transformers"})])
def test_quantized_checkpoints_are_refused_in_transformers_code(
    kind: str, settings: dict[str, Any], key: str, found: dict[str, Any], method: str
) -> None:
    for config in ({key: found}, {"text_config": {key: found}}):
        with pytest.raises(ModelError) as raised:
            refuse_unsupported(read_spec({"model_type": kind, **config}), "m", task="generate", **settings)
        assert str(raised.value).startswith(f"m is quantized ({method}; config.json: {key}), which is not supported for models that run")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def plan_of(folder: Path, **settings: Any) -> Plan:
    return make_plan(EngineArgs.from_kwargs(model=str(folder), device="cpu", kernels="reference", skip_tokenizer_init=True, **settings))


LLAMA = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 2, "max_position_embeddings": 64}


@pytest.fixture
def folder(tmp_path: Path, torch: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    return tmp_path


def test_quantized_tensors_are_refused_without_a_config_that_says_so(folder: Path, torch: Any) -> None:
    plan_of(folder)
    whole = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).state_dict()
    name = "model.layers.0.mlp.down_proj"
    for change, what in [
        ({f"{name}.weight": whole[f"{name}.weight"].to(torch.float8_e4m3fn)}, "weight is stored as F8_E4M3"),
        ({f"{name}.weight": whole[f"{name}.weight"].to(torch.int8)}, "weight is stored as I8"),
        ({f"{name}.weight_scale": torch.ones(1)}, "its weights have .*weight_scale"),
        ({f"{name}.weight_scale_inv": torch.ones(1, 1)}, "weight_scale_inv"),
        ({f"{name}.qweight": torch.ones(2, 2, dtype=torch.int32)}, "qweight"),
        ({f"{name}.weight_packed": torch.ones(2, 2, dtype=torch.uint8)}, "weight_packed"),
        ({"model.layers.0.mlp.experts.down_proj_blocks": torch.ones(1, 1, 1, 16, dtype=torch.uint8)}, "down_proj_blocks"),
        ({f"{name}.weight.quant_state.bitsandbytes__nf4": torch.ones(4, dtype=torch.uint8)}, "quant_state"),
    ]:
        save_file({**whole, **change}, folder / "model.safetensors", {"format": "pt"})
        for impl in ("auto", "transformers"):
            with pytest.raises(ModelError, match=rf"is quantized \(.*{what}.*\), which is not supported yet"):
                plan_of(folder, model_impl=impl)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"num_hidden_layers": 9999}, "num_hidden_layers is 9999, but the weights have 12 tensors in all"),
        ({"vocab_size": 10**9}, "vocab_size is 1000000000, but no tensor of the weights has a dimension above 32"),
        ({"hidden_size": 10**8, "head_dim": 8}, "hidden_size is 100000000, but no tensor"),
        ({"num_attention_heads": 10**8, "head_dim": 8}, "num_attention_heads is 100000000, but no tensor"),
    ],
)
def test_sizes_far_beyond_the_weights_are_refused_before_anything_is_made(folder: Path, edit: dict[str, Any], message: str) -> None:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **edit}))
    with pytest.raises(ModelError, match=message):
        plan_of(folder)
    if "num_attention_heads" not in edit:  # transformers wants to divide by it
        (folder / "config.json").write_text(json.dumps({**LLAMA, **edit, "model_type": "gpt_neox"}))
        with pytest.raises(ModelError, match=message):
            plan_of(folder)


@pytest.mark.parametrize("kind", [*named(), "gpt_neox"])
def test_layers_that_no_model_has_take_no_memory(kind: str) -> None:
    """Of random weights and without weights too."""
    key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    tracemalloc.start()
    try:
        for given, overrides, error in (({key: 2**31 - 1}, {}, ModelError), ({}, {key: 10**7}, ConfigError)):
            with pytest.raises(error, match=f"{key} is [0-9]+; it must be a whole number from 1 to 10000"):
                read_spec({"model_type": kind, **given}, overrides)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_folder_without_weights_can_be_checked(folder: Path) -> None:
    whole = plan_of(folder)
    assert not any("weights" in note for note in whole.config.notes)
    (folder / "model.safetensors").unlink()
    assert [note for note in plan_of(folder).config.notes if "has no weights here" in note]
    assert not [note for note in plan_of(folder, load_format="dummy").config.notes if "has no weights here" in note]


def test_overrides_reach_the_judge(folder: Path) -> None:
    with pytest.raises(InferError, match="model_type 'whisper'"):
        plan_of(folder, hf_overrides={"model_type": "whisper"})
    with pytest.raises(InferError, match=r"missing: score\.weight, score\.bias"):
        plan_of(folder, hf_overrides={"architectures": ["LlamaForTokenClassification"]})


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("opt", {"layer_norm_elementwise_affine": False}),
        ("gpt_oss", {"swiglu_limit": 6.0}),
        ("qwen3", {"hidden_act": "mish"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants_that_our_code_lacks_are_transformers(kind: str, edit: dict[str, Any]) -> None:
    spec = read_spec({"model_type": kind, **edit})
    assert (spec.stack, spec.is_ours, spec.is_foreign, spec.in_our_code("auto")) == (None, False, True, False)
    refuse_unsupported(spec, "m", task="generate")
    with pytest.raises(ModelError, match=next(iter(edit)) if kind != "qwen3" else "activation 'mish'"):
        refuse_unsupported(spec, "m", task="generate", model_impl="infer")


def test_what_our_code_lacks_is_left_to_transformers_where_that_is_asked_for() -> None:
    spec = read_spec({"model_type": "llama", "rope_scaling": {"type": "ntk", "factor": 2.0}})
    assert (spec.stack, spec.is_ours, len(spec.caches)) == (None, True, 32)
    refuse_unsupported(spec, "m", task="generate", model_impl="transformers")
    with pytest.raises(ModelError, match="rope scaling 'ntk' is not supported"):
        refuse_unsupported(spec, "m", task="generate")
