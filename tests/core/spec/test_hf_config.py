"""config.json as every reader has it: transformers' defaults and precedence, overrides, and values that no model can have."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
import torch
import transformers

from infer.core.errors import ConfigError, ModelError
from infer.core.layers.rope import Rope
from infer.core.models import build, build_encoder
from infer.core.settings.args import EngineArgs
from infer.core.spec.architectures import decoders, encoders, named, of
from infer.core.spec.hf_config import effective
from infer.core.spec.read import read_spec
from infer.kernels import load as load_kernels

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
SMALL = {"num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 6, "vocab_size": 100, "intermediate_size": 64}
#: Edits of a decoder's config.json: each has some values; None leaves the key as it is.
EDITS: dict[str, list[Any]] = {
    "num_key_value_heads": [1, 6],
    "head_dim": [16],
    "rms_norm_eps": [1e-5],
    "max_position_embeddings": [77],
    "tie_word_embeddings": [True],
    "rope_theta": [500.0],
    "rope_scaling": [
        None,
        {},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 99.0},
    ],
    "rope_parameters": [
        None,
        {"rope_type": "default", "rope_theta": 123.0},
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "yarn", "rope_theta": 777.0, "factor": 2.0, "original_max_position_embeddings": 50, "truncate": False},
    ],
    "original_max_position_embeddings": [40],
    "use_sliding_window": [True, False],
    "sliding_window": [None, 7],
    "max_window_layers": [1],
    "partial_rotary_factor": [1.0],
}

#: Model types that transformers has code for.
THEIRS = [kind for kind in named() if kind not in ("new", "qwen")]


def oracle(kind: str, edits: dict[str, Any]) -> Any:
    config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    return config.from_dict(json.loads(json.dumps(edits)))


def drawn(seed: int, kind: str) -> dict[str, Any]:
    dice = random.Random(f"{kind} {seed}")
    return {**SMALL, "num_key_value_heads": 2, **{key: dice.choice(values) for key, values in EDITS.items() if dice.random() < 0.4}}


def windows_of(config: Any) -> list[int | None]:
    if config.model_type == "mistral":
        return [config.sliding_window] * config.num_hidden_layers
    if config.model_type == "llama":
        return [None] * config.num_hidden_layers
    return [config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types]


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_is_what_transformers_makes_of_its_config(kind: str) -> None:
    for seed in range(60):
        is_what_transformers_makes_of_it(kind, drawn(seed, kind))


def is_what_transformers_makes_of_it(kind: str, edits: dict[str, Any]) -> None:
    expected = oracle(kind, edits)
    spec = read_spec({"model_type": kind, **edits})
    assert spec.stack is not None, edits
    hf, c = spec.config, spec.stack.layers[0].attention
    assert (c.num_heads, c.num_kv_heads, spec.stack.norm.eps) == (
        expected.num_attention_heads,
        expected.num_key_value_heads,
        expected.rms_norm_eps,
    )
    assert c.head_dim == expected.head_dim if hasattr(expected, "head_dim") else c.head_dim == 8
    assert spec.stack.tie_embeddings == expected.tie_word_embeddings
    assert [layer.attention.window for layer in spec.stack.layers] == windows_of(expected)
    assert hf["max_position_embeddings"] == expected.max_position_embeddings
    rotary = getattr(transformers.models, kind)
    made = getattr(rotary, f"modeling_{kind}")
    theirs = getattr(made, f"{type(expected).__name__.removesuffix('Config')}RotaryEmbedding")(expected)
    assert c.rope is not None
    ours = Rope(c.rope)
    ours.allocate(20, torch.device("cpu"))
    cos, sin = theirs(torch.zeros(1, 20, 1), torch.arange(20)[None])
    half = c.head_dim // 2
    torch.testing.assert_close(ours.cos, cos[0, :, :half], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.sin, sin[0, :, :half], rtol=1e-5, atol=1e-5)
    assert effective(hf)["rope_parameters"] == hf["rope_parameters"], "read once or twice"


#: Keys whose values transformers makes of others where they are absent, or "auto".
MADE_OF_OTHERS = frozenset({"mamba_d_head", "mamba_dt_rank", "time_step_rank", "intermediate_size", "layer_types"})


@pytest.mark.parametrize("kind", THEIRS)
def test_an_absent_key_is_transformers_default(kind: str) -> None:
    hf, expected = effective({"model_type": kind}), oracle(kind, {})
    ours = of(kind)
    assert ours is not None
    if getattr(expected, "is_heterogeneous", False):  # what is not of all layers is asked for at one's own risk
        expected.allow_global_per_layer_attribute_access = True
    for key in ours.defaults:
        if key == "sliding_window" and not getattr(expected, "use_sliding_window", True):
            continue  # theirs is None where it is switched off
        if key in MADE_OF_OTHERS and hf[key] in (None, "auto"):
            continue
        heads = getattr(expected, "num_attention_heads", 1)
        derived = {"num_key_value_heads": heads, "head_dim": expected.hidden_size // heads}
        if key == "rope_parameters":
            assert hf[key].items() <= expected.rope_parameters.items()
            continue
        theirs = getattr(expected, key) if hasattr(expected, key) else derived[key]  # qwen2 has no head_dim
        assert (derived.get(key) if hf[key] is None else hf[key]) == (derived.get(key) if theirs is None else theirs), key
    assert hf.get("eos_token_id", ours.end_token) == (expected.eos_token_id if kind in decoders() else None)


def test_modernbert_has_transformers_precedence() -> None:
    for scaling, parameters, theta in itertools.product(
        [None, {"rope_type": "linear", "factor": 2.0}],
        [None, {"full_attention": {"rope_type": "default", "rope_theta": 5.0}, "sliding_attention": {"rope_type": "default"}}],
        [None, 33.0],
    ):
        edits: dict[str, Any] = {**SMALL, "rope_scaling": scaling, "rope_parameters": parameters}
        edits |= {} if theta is None else {"global_rope_theta": theta}
        expected = oracle("modernbert", edits).rope_parameters
        stack = read_spec({"model_type": "modernbert", **edits}).stack
        assert stack is not None
        whole, local = stack.layers[0].attention, stack.layers[1].attention
        assert (whole.window, local.window) == (None, 65)
        for ours, theirs in ((whole.rope, expected["full_attention"]), (local.rope, expected["sliding_attention"])):
            assert ours is not None
            assert (ours.kind, ours.theta, ours.scaling.get("factor")) == (theirs["rope_type"], theirs["rope_theta"], theirs.get("factor"))


def test_layers_and_length_read_one_scaling() -> None:
    """rope_scaling beside rope_parameters: the first wins for both."""
    spec = read_spec(
        {
            **SMALL,
            "model_type": "llama",
            "max_position_embeddings": 100,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        }
    )
    assert spec.max_length == 200
    assert [rope.config.kind for rope in build(spec, load_kernels("reference")).ropes.all] == ["linear"]


def test_overrides_are_read_as_the_file_is() -> None:
    raw = {"model_type": "llama", **SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    hf = effective(raw, {"num_key_value_heads": 2, "rms_norm_eps": 0.5})
    assert hf == effective({**raw, "num_key_value_heads": 2, "rms_norm_eps": 0.5})
    assert effective(raw, {"rope_parameters": {"factor": 3.0, "rope_type": "linear"}})["rope_parameters"]["rope_theta"] == 7.0
    args = EngineArgs.from_kwargs(model="m", device="cpu", hf_overrides={"max_position_embeddings": 99})
    assert args.resolve(read_spec(raw, args.hf_overrides)).max_model_len == 99


LINEAR = {"rope_type": "linear", "factor": 2.0}
LONGER = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("file", "override", "found"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, {"rope_theta": 9.0}, ("default", None, 9.0)),
        ({"rope_parameters": {**LINEAR, "rope_theta": 7.0}}, {"rope_theta": 9.0}, ("linear", 2.0, 9.0)),
        ({"rope_scaling": {**LINEAR, "rope_theta": 7.0}}, {"rope_theta": 9.0}, ("linear", 2.0, 9.0)),
        ({"rope_theta": 7.0}, {"rope_theta": 9.0}, ("default", None, 9.0)),
        ({"rope_theta": 7.0}, {"rope_parameters": {"rope_theta": 9.0}}, ("default", None, 9.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, {"rope_scaling": LONGER}, ("linear", 4.0, 7.0)),
        ({"rope_parameters": {**LINEAR, "rope_theta": 7.0}}, {"rope_scaling": LONGER | {"rope_theta": 9.0}}, ("linear", 4.0, 9.0)),
        ({"rope_parameters": {**LINEAR, "rope_theta": 7.0}}, {"rope_scaling": LONGER, "rope_theta": 9.0}, ("linear", 4.0, 9.0)),
        ({"rope_theta": 7.0, "rope_scaling": LINEAR}, {"rope_scaling": {"factor": 4.0}}, ("linear", 4.0, 7.0)),
        ({"rope_theta": 7.0, "rope_scaling": LINEAR}, {"rope_parameters": LONGER}, ("linear", 4.0, 7.0)),
        ({"rope_theta": 7.0, "rope_scaling": LINEAR}, {"rope_parameters": {"rope_theta": 9.0}}, ("linear", 2.0, 9.0)),
        ({"rope_parameters": {**LINEAR, "rope_theta": 7.0}}, {"rope_scaling": None}, ("default", None, 7.0)),
        ({"rope_theta": 7.0, "rope_scaling": LINEAR}, {"rope_scaling": None}, ("default", None, 7.0)),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "olmo"])
def test_an_override_counts_however_the_file_spells_it(
    kind: str, file: dict[str, Any], override: dict[str, Any], found: tuple[str, float | None, float]
) -> None:
    """The newer spellings of the file must not hide the older ones of an override, nor the other way round."""
    hf = effective({"model_type": kind, **SMALL, **file}, override)
    rope = oracle(kind, hf).rope_parameters  # what transformers' code is given of it, and ours
    assert (rope["rope_type"], rope.get("factor"), rope["rope_theta"]) == found


def test_other_spellings_of_other_keys() -> None:
    llama = {"model_type": "llama", **SMALL, "dtype": "float32"}
    assert read_spec(llama, {"torch_dtype": "float16"}).dtype == "float16"
    assert read_spec({"model_type": "llava", "text_config": llama}, {"text_config": {"torch_dtype": "float16"}}).dtype == "float16"
    gpt2 = {"model_type": "gpt2", "n_layer": 3, "n_embd": 48, "n_head": 6, "n_positions": 64}
    for override in ({"num_hidden_layers": 2}, {"n_layer": 2}):
        for file in (gpt2, {**gpt2, "num_hidden_layers": 5}):
            stack = read_spec(file, override).stack
            assert stack is not None
            assert len(stack.layers) == 2


#: Keys that config classes take in place of others when they are made.
TAKEN = {
    "lfm2": {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"},
    "lfm2_moe": {"tie_embedding": "tie_word_embeddings"},
}


@pytest.mark.parametrize("kind", THEIRS)
def test_keys_that_stand_for_others_are_transformers(kind: str) -> None:
    ours = of(kind)
    assert ours is not None
    config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    # Where the class itself declares what it maps from, as Qwen3-MoE's does, the key it maps to goes before.
    pairs = [(key, one) if one in config.__annotations__ else (one, key) for one, key in config.attribute_map.items()]
    assert dict(ours.other_names) == {one: key for one, key in pairs if key in ours.values} | TAKEN.get(kind, {})
    for other, key in ours.other_names.items():
        value, beside = (False, True) if key.startswith("tie") else (4, 8)
        if key.startswith("layer"):  # kinds of layers, as many as there are by default
            value, beside = ["linear_attention"] * 32, ["full_attention"] * 32
        for edits in ({other: value}, {other: value, key: beside}, {key: beside, other: value}):
            more = {"attention_types": [[["global"], 4]]} if key == "num_layers" else {}  # one for each layer, or theirs raises
            assert effective({"model_type": kind, **edits})[key] == getattr(oracle(kind, edits | more), key) == value


WRONG: dict[str, Any] = {
    "a string": "2",
    "a list": [2],
    "an object": {"a": 1},
    "a float": 2.5,
    "null": None,
    "negative": -2,
    "zero": 0,
    "a boolean": True,
    "huge": 10**30,
    "not a number": float("nan"),
    "infinite": float("inf"),
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


@pytest.mark.parametrize("kind", named())
def test_a_size_that_is_none_is_refused_by_its_key(kind: str) -> None:
    ours = of(kind)
    assert ours is not None
    for key, wrong in itertools.product(ours.values.keys() & set(SIZES), WRONG):
        if wrong == "null" and ours.defaults.get(key, 0) is None:
            continue  # then another key says it
        most = 10_000 if key == "num_hidden_layers" else 2**31 - 1
        with pytest.raises(ModelError, match=rf"^m/config.json: {key} is .*; it must be a whole number from 1 to {most}\b"):
            effective({"model_type": kind, key: WRONG[wrong]}, path="m/config.json")
        with pytest.raises(ConfigError, match=rf"^hf_overrides \(--hf-overrides\): {key} is "):
            effective({"model_type": kind}, {key: WRONG[wrong]})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"model_type": ["llama"]}, "model_type is"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is"),
        ({"architectures": [1]}, "architectures is"),
        ({"eos_token_id": "2"}, "eos_token_id is"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id is"),
        ({"eos_token_id": 2.0}, "eos_token_id is"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is"),
        ({"head_dim": "64"}, "head_dim is"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is"),
        ({"rms_norm_eps": None}, "rms_norm_eps is"),
        ({"hidden_act": ["silu"]}, "hidden_act is"),
        ({"dtype": "float99"}, "dtype is"),
        ({"torch_dtype": "int9"}, "torch_dtype is"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is"),
        ({"attention_bias": 1}, "attention_bias is"),
        ({"rope_theta": 0}, "rope_theta is"),
        ({"rope_theta": float("inf")}, "rope_theta is"),
        ({"rope_theta": None}, "rope_theta is null"),
        ({"rope_scaling": "linear"}, "rope_scaling is"),
        ({"rope_scaling": [2.0]}, "rope_scaling is"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor is"),
        ({"rope_scaling": {"type": ["linear"]}}, "rope_scaling.type is"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": -1}}, "rope_parameters.factor is"),
        ({"rope_parameters": {"full_attention": {"rope_theta": "1"}}}, "rope_parameters.full_attention.rope_theta is"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters by kind of layer"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers, num_hidden_layers is 32"),
        ({"quantization_config": "fp8"}, "quantization_config is"),
        ({"text_config": []}, "text_config is"),
        ({"text_config": {"num_hidden_layers": "2"}}, "text_config.num_hidden_layers is"),
        ({"id2label": ["a"]}, "id2label is"),
        ({"auto_map": "x"}, "auto_map is"),
        ({"torch_dtype": ["bfloat16"]}, "torch_dtype is"),
        ({"sliding_window": "4"}, "sliding_window is"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_value_of_another_kind_is_refused_by_its_key(edit: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as raised:
        effective({"model_type": "llama", **edit}, path="m/config.json")
    assert str(raised.value).startswith("m/config.json: ")
    assert named in str(raised.value)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "eos_token_id", "rope_scaling", "head_dim"])
def test_other_kinds_of_models_are_looked_at_too(key: str) -> None:
    with pytest.raises(ModelError, match=f"{key} is"):
        effective({"model_type": "gpt_neox", key: "2"})


def test_an_encoder_reads_its_defaults() -> None:
    for kind in encoders():
        stack = build_encoder(read_spec({"model_type": kind, **SMALL}), load_kernels("reference")).stack
        assert len(stack.passes or stack.layers) == 3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types has linear_attention"),
        ({"layer_types": ["sliding_attention"] * 3}, "there is no sliding_window, since use_sliding_window is false"),
        ({"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0}, "there is no sliding_window"),
        ({"num_attention_heads": 1000, "head_dim": None}, "1000 attention heads cannot share 48 features"),
        ({"num_key_value_heads": 4}, "6 attention heads cannot share 4 key/value heads"),
    ],
)
def test_values_that_contradict_each_other_are_refused(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(read_spec({"model_type": "qwen2", **SMALL, **edit}), load_kernels("reference"))


GEMMA4 = {"model_type": "gemma4_text", **SMALL, "layer_types": ["full_attention"] * 3, "num_key_value_heads": 2}


def test_each_token_has_vectors_for_layers() -> None:
    vocab = SMALL["vocab_size"]
    config = {**GEMMA4, "hidden_size_per_layer_input": 8}
    assert read_spec({**config, "vocab_size_per_layer_input": vocab}).stack is not None
    lacking = read_spec({**config, "vocab_size_per_layer_input": vocab - 1}).lacking
    assert f"vocab_size_per_layer_input {vocab - 1} leaves some out" in lacking


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "8", [], {}, 10**30])
def test_sizes_of_a_layer_are_sizes(wrong: Any) -> None:
    config = {**GEMMA4, "hidden_size_per_layer_input": 0}
    assert read_spec({**config, "per_layer_config": {"1": {"head_dim": 8}}}).stack is not None
    assert "head_dim of per_layer_config is" in read_spec({**config, "per_layer_config": {"1": {"head_dim": wrong}}}).lacking
    if not isinstance(wrong, dict):
        assert "not an object" in read_spec({**config, "per_layer_config": {"1": wrong}}).lacking
