"""Checkpoints under other names: every spelling a family is published in gives the same model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from infer.core.errors import ModelError
from infer.core.spec.architectures import encoders
from infer.core.spec.read import read_spec
from infer.core.weights.fit import check_stack
from infer.core.weights.renamed import fit
from infer.core.weights.source import ModelSource, TensorInfo

from ..models.texts import checkpoint, encoder_of, hidden_of, oracle_of, texts_of

TEXTS = texts_of(20, 7)
#: A task's class whose checkpoint has the base model under a prefix, and heads.
OTHERS = [
    ("bert", transformers.AutoModelForMaskedLM),
    ("bert", transformers.AutoModelForSequenceClassification),
    ("bert", transformers.AutoModelForPreTraining),
    ("bert", transformers.AutoModelForQuestionAnswering),
    ("roberta", transformers.AutoModelForMaskedLM),
    ("roberta", transformers.AutoModelForTokenClassification),
    ("xlm-roberta", transformers.AutoModelForMaskedLM),
    ("modernbert", transformers.AutoModelForMaskedLM),
    ("modernbert", transformers.AutoModelForSequenceClassification),
    ("nomic_bert", transformers.AutoModelForMaskedLM),
]


def hidden(oracle: Any, weights: dict[str, Tensor], **more: Any) -> Tensor:
    return torch.cat(hidden_of(encoder_of(oracle, weights=weights, **more), TEXTS))


@pytest.mark.parametrize(("kind", "auto"), OTHERS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_base_model_is_found_in_any_checkpoint(kind: str, auto: Any) -> None:
    oracle = oracle_of(kind, {"pad_token_id": 1}, auto)
    assert any(name.startswith(f"{oracle.base_model_prefix}.") for name in oracle.state_dict())
    with_prefix = hidden(oracle, oracle.state_dict())
    assert torch.equal(hidden(oracle, oracle.base_model.state_dict()), with_prefix)


def test_buffers_and_the_first_spelling_of_norms() -> None:
    oracle = oracle_of("bert", {}, transformers.AutoModelForMaskedLM)
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in oracle.state_dict().items()
    }
    assert any(name.endswith("gamma") for name in old)
    old["bert.embeddings.position_ids"] = torch.arange(160)[None]
    assert torch.equal(hidden(oracle, old), hidden(oracle, oracle.state_dict()))


def first_nomic(oracle: Any, prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors as nomic-embed-text was first published."""
    c = oracle.config
    hf = {
        "model_type": "nomic_bert",
        "activation_function": "swiglu",
        "n_embd": c.hidden_size,
        "n_head": c.num_attention_heads,
        "n_layer": c.num_hidden_layers,
        "n_inner": c.intermediate_size,
        "n_positions": c.max_position_embeddings,
        "vocab_size": c.vocab_size,
        "type_vocab_size": c.type_vocab_size,
        "layer_norm_epsilon": c.layer_norm_eps,
        "rotary_emb_base": c.rope_parameters["rope_theta"],
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "prenorm": False,
        "use_rms_norm": False,
        "causal": False,
        "parallel_block": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
    }
    weights = dict(oracle.state_dict())
    for i in range(c.num_hidden_layers):
        packed = [weights.pop(f"layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
        weights[f"layers.{i}.attn.Wqkv.weight"] = torch.cat(packed)
    old = {
        "self_attn.o_proj": "attn.out_proj",
        "up_proj": "fc11",
        "gate_proj": "fc12",
        "down_proj": "fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
        "embeddings.LayerNorm": "emb_ln",
        "layers.": "encoder.layers.",
    }
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    return hf, {prefix + key: tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_nomic_as_it_was_first_published(prefix: str) -> None:
    oracle = oracle_of("nomic_bert")
    hf, weights = first_nomic(oracle, prefix)
    assert f"{prefix}encoder.layers.0.attn.Wqkv.weight" in weights
    assert f"{prefix}encoder.layers.2.mlp.fc12.weight" in weights
    assert f"{prefix}emb_ln.bias" in weights
    assert torch.equal(hidden(oracle, weights, hf=hf), hidden(oracle, oracle.state_dict()))


def test_nomic_as_transformers_writes_it(tmp_path: Path) -> None:
    oracle = oracle_of("nomic_bert")
    oracle.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    assert torch.equal(hidden(oracle, load_file(tmp_path / "model.safetensors")), hidden(oracle, oracle.state_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prenorm": True}, "prenorm True is not supported"),
        ({"use_rms_norm": True}, "use_rms_norm True"),
        ({"rotary_scaling_factor": 2.0}, "rotary_scaling_factor 2.0"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved True"),
        ({"rotary_emb_fraction": 0.0}, "learned positions"),
        ({"moe_every_n_layers": 2}, "mixtures of experts"),
        ({"activation_function": "gelu"}, "activation 'gelu' is not supported for nomic_bert"),
        ({"mlp_fc1_bias": True}, "mlp_fc1_bias and mlp_fc2_bias differ"),
    ],
)
def test_other_variants_of_nomic_are_refused(change: dict[str, Any], message: str) -> None:
    oracle = oracle_of("nomic_bert")
    hf, weights = first_nomic(oracle)
    with pytest.raises(ModelError, match=message):
        encoder_of(oracle, hf={**hf, **change}, weights=weights)


def test_missing_unexpected_and_misshapen_tensors_are_told() -> None:
    oracle = oracle_of("bert", {}, transformers.AutoModelForMaskedLM)
    weights = dict(oracle.state_dict())
    del weights["bert.encoder.layer.1.output.dense.bias"]
    weights["bert.encoder.layer.3.output.dense.bias"] = torch.zeros(48)
    weights["bert.embeddings.LayerNorm.weight"] = torch.zeros(40)
    with pytest.raises(ModelError) as told:
        encoder_of(oracle, weights=weights)
    message = str(told.value)
    assert "missing: encoder.layer.1.output.dense.bias" in message
    assert "unexpected: bert.encoder.layer.3.output.dense.bias" in message
    assert "embeddings.LayerNorm.weight has shape (40,), config.json makes it (48,)" in message
    with pytest.raises(ModelError, match=r"missing: pooler\.dense\.weight"):
        encoder_of(oracle, labels=2)


def test_a_tensor_that_is_there_twice_is_told() -> None:
    oracle = oracle_of("bert")
    name = "embeddings.word_embeddings.weight"
    weights = {f"bert.{name}": torch.zeros(160, 48), **oracle.state_dict()}
    with pytest.raises(ModelError, match=f"unexpected: bert.{name}"):
        encoder_of(oracle, weights=weights)


def test_a_prefix_of_ours_may_be_missing_in_the_file() -> None:
    source = checkpoint({"layers.0.w": torch.ones(1), "model.norm": torch.ones(2), "lm_head.weight": torch.ones(3), "odd": torch.ones(4)})
    stack = read_spec({"model_type": "llama"}).stack
    assert stack is not None
    fitted = fit(source, stack, {"model.layers.0.w", "model.norm"}, whole=False)
    assert {name: info.shape for name, info in fitted.tensors().items()} == {"model.layers.0.w": (1,), "model.norm": (2,), "odd": (4,)}
    assert {name: tuple(tensor.shape) for name, tensor in fitted.stream()} == {"model.layers.0.w": (1,), "model.norm": (2,), "odd": (4,)}
    wanted = fit(source, stack, {"model.layers.0.w", "model.norm", "lm_head.weight"}, whole=False)
    assert set(wanted.tensors()) == {"model.layers.0.w", "model.norm", "lm_head.weight", "odd"}
    whole = fit(source, stack, {"model.layers.0.w", "model.norm"}, whole=True)
    assert set(whole.tensors()) == {"model.layers.0.w", "model.norm", "lm_head.weight", "odd"}, "a model that writes leaves no head out"


#: Classes of models with a head for another task than embedding.
HEADS = (
    *(
        modeling_auto.MODEL_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    ),
    *(modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    *(modeling_auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)


@dataclasses.dataclass(frozen=True)
class Headers(ModelSource):
    infos: dict[str, TensorInfo]

    def read(self, filename: str) -> bytes | None:
        return None

    def tensors(self) -> dict[str, TensorInfo]:
        return self.infos

    def stream(self, cuts: Any = None) -> Any:
        raise AssertionError("nothing is read")


@pytest.mark.parametrize("kind", [kind for kind in encoders() if kind in CONFIG_MAPPING and not kind.endswith("_text_model")])
def test_an_encoder_is_read_whatever_head_it_was_saved_with(kind: str) -> None:
    """Most base models are published with the head that they were trained with."""
    config = CONFIG_MAPPING[kind]()
    stack = read_spec(json.loads(config.to_json_string(use_diff=False))).need_stack()
    names = {one for heads in HEADS if kind in heads for one in ([heads[kind]] if isinstance(heads[kind], str) else heads[kind])}
    assert len(names) > 2
    for name in sorted(names):
        with torch.device("meta"):
            model = getattr(transformers, name)(config)
        infos = {one: TensorInfo(one, tuple(tensor.shape), "F32", "") for one, tensor in model.state_dict().items()}
        check_stack(Headers(name, Path(), infos), stack, writes=False, overrides={})
