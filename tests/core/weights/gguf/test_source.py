"""GGUF files written from tiny random models are read back as those models."""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, PreTrainedModel

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.core.weights.convert import write_folder
from infer.core.weights.folder import FolderSource
from infer.core.weights.formats.values import Grouped, as_tensor
from infer.core.weights.gguf.config import llama3_scaling
from infer.core.weights.gguf.source import GgufSource

from .files import CONFIGS, permute, random_model, write_gguf


def source(path: Path) -> GgufSource:
    return GgufSource("model", path)


def expected(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.state_dict().items() if not (n == "lm_head.weight" and model.config.tie_word_embeddings)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_tensors_come_back_under_hugging_face_names(tmp_path: Path, kind: str) -> None:
    model = random_model(CONFIGS[kind]())
    read = source(write_gguf(tmp_path / "m.gguf", model))
    infos = read.tensors()
    found = dict(read.stream())
    assert infos.keys() == found.keys() == expected(model).keys()
    for name, tensor in expected(model).items():
        assert torch.equal(found[name], tensor)
        assert (infos[name].shape, infos[name].dtype, infos[name].file) == (tuple(tensor.shape), "F32", "m.gguf")


@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_computes_the_same_from_the_converted_folder(tmp_path: Path, kind: str) -> None:
    model = random_model(CONFIGS[kind]())
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(source(write_gguf(tmp_path / "m.gguf", model)), folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(again) is type(model)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        want, got = model(tokens).logits, again(tokens).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert {i.dtype for i in FolderSource("x", folder).tensors().values()} == {"BF16"}


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"])
def test_quantized_weights_stay_so_and_norms_stay_float32(tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.core.weights.gguf.source.CHUNK", 300)  # several chunks a tensor
    model = random_model(CONFIGS["qwen3"]())
    read = source(write_gguf(tmp_path / "m.gguf", model, quant=quant))
    infos = read.tensors()
    for name, value in read.stream():
        want = expected(model)[name]
        assert isinstance(value, Grouped) == (want.dim() > 1 and quant[0] == "Q")
        tensor = as_tensor(value, torch.bfloat16)
        if want.dim() > 1:
            kind = gguf.GGMLQuantizationType[quant]
            want = torch.from_numpy(dequantize(quantize(want.numpy(), kind), kind)).to(torch.float16 if quant == "F16" else torch.bfloat16)
        assert tensor.dtype == want.dtype
        assert torch.equal(tensor, want), name
        assert infos[name].dtype == {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[tensor.dtype]
    assert read.read_json("config.json")["torch_dtype"] == ("float16" if quant == "F16" else "bfloat16")  # type: ignore[index]


def test_config(tmp_path: Path) -> None:
    config = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()))).read_json("config.json")
    assert config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "max_position_embeddings": 256,
        "rope_theta": 50000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


@pytest.mark.parametrize(("kind", "bias", "tied"), [("llama with biases", True, False), ("qwen2", True, False), ("qwen3", False, True)])
def test_config_of_other_architectures(tmp_path: Path, kind: str, bias: bool, tied: bool) -> None:
    config = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS[kind]()))).read_json("config.json")
    assert config is not None
    assert (config["attention_bias"], config["tie_word_embeddings"], config.get("mlp_bias")) == (bias, tied, "biases" in kind or None)
    assert config["head_dim"] == (32 if kind == "qwen3" else 16)


def test_end_of_turn_ends_an_answer_too(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()), more=lambda w: w.add_eot_token_id(7))
    assert source(path).read_json("generation_config.json") == {"bos_token_id": 1, "eos_token_id": [2, 7]}
    assert source(path).read_json("config.json")["eos_token_id"] == 2  # type: ignore[index]


def linear(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_rope_scaling_yarn_beta_fast(16.0)


def sharper_yarn(writer: gguf.GGUFWriter) -> None:
    yarn(writer)
    writer.add_rope_scaling_attn_factors(0.5)


@pytest.mark.parametrize(
    ("add", "scaling"),
    [
        (linear, {"rope_type": "linear", "factor": 4.0}),
        (yarn, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0}),
        (
            sharper_yarn,
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 16.0,
                "attention_factor": pytest.approx(0.5 * (0.1 * math.log(4) + 1)),
            },
        ),
    ],
)
def test_rope_scaling(tmp_path: Path, add: Callable[[gguf.GGUFWriter], None], scaling: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()), more=add)
    assert source(path).read_json("config.json")["rope_scaling"] == scaling  # type: ignore[index]


def llama3_divisors(head_dim: int, theta: float, factor: float, low: float, high: float, original: int) -> list[float]:
    """What llama.cpp's converter writes to rope_freqs.weight."""
    divisors = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return [float(np.float32(d)) for d in divisors]


@pytest.mark.parametrize(
    ("head_dim", "theta", "factor", "low", "high", "original"),
    [
        (128, 500000.0, 8.0, 1.0, 4.0, 8192),
        (64, 500000.0, 32.0, 1.0, 4.0, 8192),
        (128, 10000.0, 4.0, 1.0, 8.0, 2048),
        (16, 50000.0, 8, 1, 4, 8192),
    ],
)
def test_llama3_scaling_is_found_in_its_divisors(
    head_dim: int, theta: float, factor: float, low: float, high: float, original: int
) -> None:
    assert llama3_scaling(llama3_divisors(head_dim, theta, factor, low, high, original), head_dim, theta) == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def test_divisors_of_one_change_nothing() -> None:
    assert llama3_scaling([1.0] * 8, 16, 10000.0) is None


@pytest.mark.parametrize("divisors", [[1.0] * 5, [0.5] * 8, [1, 2, 3, 4, 5, 6, 7, 8.0], [8.0, *[1.0] * 7], [1, 1, 8, 1, 8, 1, 1, 8.0]])
def test_divisors_no_rule_gives(divisors: list[float]) -> None:
    with pytest.raises(ValueError):
        llama3_scaling(divisors, 16, 10000.0)


def test_rope_freqs_become_rope_scaling(tmp_path: Path) -> None:
    divisors = np.array(llama3_divisors(16, 50000.0, 8.0, 1.0, 4.0, 8192), np.float32)
    read = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()), extra={"rope_freqs.weight": divisors}))
    assert read.read_json("config.json")["rope_scaling"]["rope_type"] == "llama3"  # type: ignore[index]
    assert "rope_freqs.weight" not in read.tensors()
    assert "rope_freqs.weight" not in dict(read.stream())


def test_what_is_not_understood_stays_visible(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.linspace(1, 9, 8, dtype=np.float32), "blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    read = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()), extra=extra))
    assert extra.keys() <= read.tensors().keys()
    assert extra.keys() <= dict(read.stream()).keys()


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda w: w.add_expert_count(8), "mixture of experts"),
        (lambda w: w.add_uint16("split.count", 3), "one part of a split model"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE) or w.add_rope_scaling_factor(2.0), "rope scaling 'longrope'"),
        (lambda w: w.add_rope_dimension_count(8), "differs from the head size 16"),
        (
            lambda w: (
                w.add_rope_scaling_factor(2.0) or w.add_string("llama.rope.scaling.type", "linear") or w.add_string("split.count", "x")
            ),
            "'x'",
        ),
    ],
)
def test_models_that_are_not_supported(tmp_path: Path, add: Callable[[gguf.GGUFWriter], None], message: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]()), more=add)
    with pytest.raises(ModelError, match=message):
        source(path).read("config.json")


def test_other_architectures_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen35")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"architecture 'qwen35' is not read from GGUF \(known: llama, qwen2, qwen3\)"):
        source(tmp_path / "m.gguf").tensors()


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"lacks llama\.attention\.head_count"):
        source(tmp_path / "m.gguf").read("config.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    read = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]())))
    assert read.read("vocab.json") is None
    assert read.read("tokenizer.json") is None  # no vocabulary in it
    with pytest.raises(ModelError, match="No such file"):
        source(tmp_path / "none.gguf").tensors()


def read_all(path: Path) -> None:
    read = source(path)
    read.read("config.json")
    read.read("generation_config.json")
    read.read("tokenizer.json")
    read.read("tokenizer_config.json")
    for _ in read.stream():
        pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    def vocabulary(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(["<s>", "<e>", "<x>", "a", "b", "ab"])
        writer.add_token_types([3, 3, 3, 1, 1, 1])
        writer.add_token_merges(["a b"])
        writer.add_chat_template("{{ messages }}")

    model = random_model(CONFIGS["llama"]())
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", model, quant="Q8_0", more=vocabulary).read_bytes()


def test_a_cut_file_is_named_with_expected_and_actual_bytes(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    for size in sorted({0, 1, 4, 23, 24, len(whole) - 1, *(len(whole) * i // 20 for i in range(20)), *range(24, 2000, 97)}):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=rf"m\.gguf is cut short: expected (at least )?\d+ bytes, it has {size};"):
            read_all(path)


def test_no_damage_of_the_header_is_a_raw_exception(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    header = whole.index(b"blk.1.ffn_up.weight")
    rng = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ModelError):
            read_all(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"GGML", "is not a GGUF file"),
        (4, (1).to_bytes(4, "little"), "has GGUF version 1"),
        (4, (3).to_bytes(4, "big"), "is big-endian"),
    ],
)
def test_other_versions(tmp_path: Path, whole: bytes, offset: int, value: bytes, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:offset] + value + whole[offset + len(value) :])
    with pytest.raises(ModelError, match=message):
        source(path).tensors()


def test_small_files_are_made_once(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(whole)
    read = source(tmp_path / "m.gguf")
    assert read.read("tokenizer.json") is read.read("tokenizer.json")
    assert json.loads(read.read("tokenizer_config.json") or b"")["chat_template"] == "{{ messages }}"


QUANTS = sorted(kind.name for kind in gguf.quants._type_traits if kind.name != "BF16")


@pytest.mark.parametrize("quant", QUANTS)
def test_every_type_is_exact_for_who_computes_in_float32(tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random blocks, since the gguf package quantizes few of the types that it dequantizes."""
    monkeypatch.setattr("infer.core.weights.gguf.source.CHUNK", 1000)
    kind = gguf.GGMLQuantizationType[quant]
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (96, -(-256 // size) * num_bytes), dtype=np.uint8)
    name = "blk.0.ffn_up.weight"
    model = random_model(CONFIGS["qwen3"]())
    path = write_gguf(tmp_path / "m.gguf", model, more=lambda writer: writer.add_tensor(name + "_", raw, raw_dtype=kind))
    with np.errstate(all="ignore"):
        want = torch.from_numpy(dequantize(raw, kind))
        exact = source(path).exact()
        got = as_tensor(dict(exact.stream())[name + "_"])
        rounded = as_tensor(dict(source(path).stream())[name + "_"], torch.bfloat16)
    assert exact.tensors()[name + "_"].dtype == "F32"
    assert got.dtype == torch.float32
    assert torch.equal(got.nan_to_num(7e30), want.nan_to_num(7e30))
    assert torch.equal(rounded.nan_to_num(7e30), want.bfloat16().nan_to_num(7e30))


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_run_in_float32_has_every_bit(tmp_path: Path, quant: str) -> None:
    """Logits of a run against transformers over the weights as the gguf package dequantizes them."""
    kind = gguf.GGMLQuantizationType[quant]
    model = random_model(CONFIGS["llama"]())
    path = write_gguf(tmp_path / "m.gguf", model, quant=quant)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                data = parameter.numpy()
                heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
                stored = dequantize(quantize(permute(data, heads) if heads else data, kind), kind)
                parameter.copy_(torch.from_numpy(permute_back(stored, heads) if heads else stored))
        want = model(torch.arange(3, 40)[None]).logits[0].log_softmax(-1)
    settings = {"device": "cpu", "dtype": "float32", "kernels": "reference", "skip_tokenizer_init": True}
    engine = build_engine(make_plan(EngineArgs.from_kwargs(model=str(path), num_gpu_blocks_override=20, **settings)))
    prompt = list(range(3, 40))
    engine.add(Request("0", prompt, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0), 0))
    outputs: list[Any] = []
    while engine.num_unfinished:
        outputs += engine.step()
    got = [entry[token].logprob for entry, token in zip(outputs[0].prompt_logprobs[1:], prompt[1:], strict=True)]
    torch.testing.assert_close(torch.tensor(got), want[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def permute_back(weights: np.ndarray, num_heads: int) -> np.ndarray:
    return weights.reshape(num_heads, weights.shape[0] // num_heads // 2, 2, -1).swapaxes(1, 2).reshape(weights.shape)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.head_count", 0),
        ("llama.block_count", -1),
        ("llama.embedding_length", -1),
        ("llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("llama.attention.layer_norm_rms_epsilon", -1.0),
        ("llama.rope.freq_base", float("inf")),
    ],
)
def test_a_number_that_no_model_has_is_refused_by_its_key(tmp_path: Path, key: str, value: float) -> None:
    read = source(write_gguf(tmp_path / "m.gguf", random_model(CONFIGS["llama"]())))
    read._file.metadata[key] = value
    with pytest.raises(ModelError, match=rf"m\.gguf: its metadata has {value} for {key}, where a .*number"):
        read.read_json("config.json")
