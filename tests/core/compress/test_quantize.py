"""`models quantize`: what is written, against transformers with what the weights mean; calibration; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

from infer.core import LLM, SamplingParams
from infer.core.compress import folder as folders
from infer.core.compress.quantize import QuantizeSpec, quantize
from infer.core.errors import ConfigError, LockedError, ModelError
from infer.core.weights.find import find
from infer.core.weights.formats.values import QuantizedWeight
from infer.core.weights.quantized import QuantizedSource, as_stored

SETTINGS: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100}
PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(4)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ids with all kinds of lines that a calibration file may have."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [{"prompt_token_ids": [(11 * i + j * j + j) % 250 for j in range(20 + 7 * i)]} for i in range(12)]
    more = [{"prompt": "the cat sat on the mat"}, {"text": "stock prices fell"}]
    path.write_text("\n".join(json.dumps(line) for line in [*more, *lines]) + "\n\n")
    return path


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with outliers in what its layers multiply: features of norms and of up_proj that are far larger than the others."""
    folder = tmp_path_factory.mktemp("model") / "outliers"
    shutil.copytree(tiny_llama, folder)
    llama = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(2)
    for layer in llama.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.data[torch.randperm(len(norm.weight))[:3]] *= 30
        layer.mlp.up_proj.weight.data[torch.randperm(len(layer.mlp.up_proj.weight))[:3]] *= 30
    llama.save_pretrained(folder)
    return folder


def meant(folder: Path) -> Any:
    """transformers' model in float32 with what a quantized folder's weights mean, by the tensors in it alone."""
    config = json.loads((folder / "config.json").read_text())
    group = config.pop("quantization_config")["config_groups"]["group_0"]["weights"]
    stored = load_file(folder / "model.safetensors")
    state = {}
    for name, tensor in stored.items():
        layer, _, suffix = name.rpartition(".")
        if suffix in ("weight_scale", "weight_shape", "weight_zero_point"):
            continue
        scale = stored.get(f"{layer}.weight_scale")
        if scale is None:
            state[name] = tensor.float()
        elif suffix == "weight":
            assert tensor.dtype == torch.int8
            state[name] = tensor.float() * scale.float()
        else:
            out, width = stored[f"{layer}.weight_shape"].tolist()
            codes = torch.stack([tensor >> shift & 15 for shift in range(0, 32, 4)], -1).flatten(1)[:, :width]
            zero: Any = 8
            if not group["symmetric"]:
                packed = stored[f"{layer}.weight_zero_point"]
                zero = torch.stack([packed >> shift & 15 for shift in range(0, 32, 4)], 1).flatten(0, 1)[:out]
                zero = zero.repeat_interleave(group["group_size"], 1)
            state[f"{layer}.weight"] = (codes - zero).float() * scale.float().repeat_interleave(group["group_size"], 1)
    plain = folder.with_name(folder.name + "-plain")
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(config))
    llama = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(plain), dtype=torch.float32)
    missing, unexpected = llama.load_state_dict(state, strict=False)
    assert (set(missing) <= {"lm_head.weight"}, unexpected) == (True, [])
    llama.tie_weights()
    return llama.eval()


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in PROMPTS])


def divergence(wanted: torch.Tensor, found: torch.Tensor) -> float:
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


SCHEMES = [{"scheme": "w8a8"}, {"scheme": "w4a16", "group_size": 32}, {"scheme": "w4a16", "group_size": 16, "symmetric": True}]


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("options", SCHEMES, ids=["w8a8", "w4a16", "symmetric"])
def test_it_answers_as_transformers_with_what_the_weights_mean(
    model: Path, texts: Path, tmp_path: Path, options: dict[str, Any], *, calibrated: bool
) -> None:
    out = tmp_path / "out"
    done = quantize(QuantizeSpec(str(model), out, calibrate=texts if calibrated else None, **options))
    oracle = meant(out)
    source = as_stored(find(str(out)))
    assert isinstance(source, QuantizedSource)
    state = oracle.state_dict()
    quantized = 0
    for name, value in source.stream():
        quantized += isinstance(value, QuantizedWeight)
        dense = value.dense() if isinstance(value, QuantizedWeight) else value.float()
        assert torch.equal(dense, state[name]), name
    assert quantized == done.num_layers == 7 * oracle.config.num_hidden_layers
    assert_answers_are(oracle, out)
    assert {path.name for path in out.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("calibrated", [False, True])
def test_features_that_turn_with_neighbours_are_stored_as_they_were(
    tiny_llama: Path, texts: Path, tmp_path: Path, *, calibrated: bool
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_llama, model)
    (model / "model.safetensors").unlink()
    sizes = {key: getattr(AutoConfig.from_pretrained(tiny_llama), key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    torch.manual_seed(4)
    config = AutoConfig.for_model(
        "ernie4_5", **sizes, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, initializer_range=0.2
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(model)
    quantize(QuantizeSpec(str(model), out, calibrate=texts if calibrated else None, scheme="w8a8"))
    assert_answers_are(meant(out), out)


def assert_answers_are(oracle: Any, out: Path) -> None:
    # by rows in the model's dtype, so that weights alone are compared
    llm = LLM(str(out), **SETTINGS, dtype="float32", activation_dtype="model")
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0))
    for ids, output in zip(PROMPTS, outputs, strict=True):
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        got = torch.tensor([next(iter(one.values())).logprob for one in (output.prompt_logprobs or [])[1:] if one])
        assert torch.allclose(got, wanted, atol=2e-3), (got - wanted).abs().max()


def in_int8(model: Any) -> Any:
    """Rounds the inputs of linear layers as int8 has them, row by row."""

    def hook(module: Any, args: Any) -> Any:
        (x,) = args
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-20) / 127
        return ((x / scale).round() * scale,)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(hook)
    return model


def test_smoothing_and_calibration_pay(model: Path, texts: Path, tmp_path: Path) -> None:
    wanted = logprobs(LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval())
    found = {}
    for name, options in {
        "nearest": {},
        "rough": {"calibrate": texts, "smooth": False},
        "smooth": {"calibrate": texts},
    }.items():
        quantize(QuantizeSpec(str(model), tmp_path / name, "w8a8", **options))
        found[name] = divergence(wanted, logprobs(in_int8(meant(tmp_path / name))))
    assert found["smooth"] < 0.8 * min(found["nearest"], found["rough"])
    for name, calibrate in {"round": None, "gptq": texts}.items():
        quantize(QuantizeSpec(str(model), tmp_path / name, "w4a16", calibrate, group_size=32))
        found[name] = divergence(wanted, logprobs(meant(tmp_path / name)))
    assert found["gptq"] < found["round"]


def test_quantized_ones_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    quantize(QuantizeSpec(str(model), tmp_path / "once", "w8a8"))
    with pytest.raises(ModelError, match=r"is quantized already \(compressed-tensors"):
        quantize(QuantizeSpec(str(tmp_path / "once"), tmp_path / "twice", "w8a8"))
    assert not (tmp_path / "twice").exists()


def test_what_is_there_is_replaced_only_if_asked(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(QuantizeSpec(str(model), out, "w8a8"))
    with pytest.raises(ConfigError, match=r"is there already; .*--overwrite"):
        quantize(QuantizeSpec(str(model), out, "w4a16", group_size=32))
    quantize(QuantizeSpec(str(model), out, "w4a16", group_size=32, overwrite=True))
    assert "pack-quantized" in (out / "config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").write_text("dear diary")
    with pytest.raises(ConfigError, match="is not a model folder, so --overwrite does not replace it"):
        quantize(QuantizeSpec(str(model), other, "w8a8", overwrite=True))
    assert (other / "diary.txt").read_text() == "dear diary"


def test_nobody_elses_folders_are_touched(model: Path, tmp_path: Path) -> None:
    """Neither one with the name of an unfinished OUT, nor one with a name that a replaced OUT might get."""
    spec = QuantizeSpec(str(model), tmp_path / "out", scheme="w8a8", overwrite=True)
    quantize(spec)
    notes = [tmp_path / "out.partial" / "notes", tmp_path / "out.old" / "notes"]
    for note in notes:
        note.parent.mkdir()
        note.write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.partial, .*in use for something else"):
        quantize(spec)
    shutil.rmtree(notes[0].parent)
    quantize(spec)
    assert notes[1].read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.old"]
    assert not (tmp_path / "out" / folders.MARK).exists()


def test_layers_that_stay_plain_are_named(tmp_path: Path) -> None:
    """Routers of experts are, and nothing whose name only begins like theirs."""
    config = OlmoeConfig(
        vocab_size=250,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_experts=4,
        num_experts_per_tok=2,
    )
    torch.manual_seed(3)
    OlmoeForCausalLM(config).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    quantize(QuantizeSpec(str(tmp_path / "model"), out, scheme="w8a8"))
    layers = [f"model.layers.{i}" for i in range(2)]
    ignored = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    assert set(ignored) == {"lm_head", "model.embed_tokens", *(f"{layer}.mlp.gate" for layer in layers)}
    source = as_stored(find(str(out)))
    quantized = {name for name, value in source.stream() if isinstance(value, QuantizedWeight)}
    expected = {f"{layer}.mlp.experts.{i}.{part}_proj.weight" for layer in layers for i in range(4) for part in ("gate", "up", "down")}
    assert quantized == expected | {f"{layer}.self_attn.{part}_proj.weight" for layer in layers for part in "qkvo"}
    params = SamplingParams(max_tokens=4, temperature=0)
    answers = LLM(str(out), **SETTINGS, dtype="float32").generate([{"prompt_token_ids": ids} for ids in PROMPTS], params)
    assert all(len(answer.outputs[0].token_ids) == 4 for answer in answers)


def test_a_failure_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(folders.Folder, "finish", failing)
    with pytest.raises(RuntimeError, match="no"):
        quantize(QuantizeSpec(str(model), tmp_path / "out", "w8a8"))
    assert [*tmp_path.iterdir()] == []


def test_two_do_not_write_one_folder(tmp_path: Path) -> None:
    with folders.new_folder(tmp_path / "out", overwrite=False) as first:
        first.add({"a": torch.zeros(2)})
        with pytest.raises(LockedError), folders.new_folder(tmp_path / "out", overwrite=False):
            pass
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_large_models_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SHARD_BYTES", 100)
    tensors = {f"t{i}": torch.full((20,), float(i)) for i in range(3)}
    with folders.new_folder(tmp_path / "out", overwrite=False) as folder:
        folder.config = {"model_type": "llama"}
        for name, tensor in tensors.items():
            folder.add({name: tensor})
    found = dict(find(str(tmp_path / "out")).stream())
    assert {name: tensor.tolist() for name, tensor in found.items()} == {name: tensor.tolist() for name, tensor in tensors.items()}  # type: ignore[union-attr]
    assert len([*(tmp_path / "out").glob("model-*-of-00003.safetensors")]) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheme": "w8a8", "group_size": 32}, "w8a8 has one scale an output feature"),
        ({"scheme": "w8a8", "symmetric": True}, "w8a8 has one scale an output feature"),
        ({"scheme": "w4a16", "group_size": 7}, "group_size=7: a multiple of 8"),
        ({"scheme": "w4a16", "group_size": 1024}, r"group_size=1024 does not divide the input features .*; these work: "),
    ],
)
def test_options_that_do_not_go_together(model: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        quantize(QuantizeSpec(str(model), tmp_path / "out", **options))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": 5}', r"line 2: invalid_type: prompt must be a string, not an integer"),
        ("\n\nnot JSON", "line 3: invalid_json"),
        ('{"question": "a"}', "line 1: missing_field: one of prompt, text, messages, prompt_token_ids is wanted"),
        ('{"prompt": "a", "text": "b"}', "line 1: invalid_value: .*prompt and text are there"),
        ('{"prompt_token_ids": [1, -2]}', "line 1: invalid_value: prompt_token_ids: -2 is not a token id"),
        ('{"prompt_token_ids": [1, 99999999]}', "99999999 is not a token id"),
        ('{"prompt_token_ids": []}', "prompt_token_ids is empty"),
        ('{"prompt_token_ids": [true]}', "must be a list of integers"),
        ("\n \n", "has no records"),
    ],
)
def test_bad_calibration_lines_are_named(model: Path, tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(lines)
    with pytest.raises(ConfigError, match=said):
        quantize(QuantizeSpec(str(model), tmp_path / "out", "w8a8", path))
    assert [*tmp_path.iterdir()] == [path]


def test_lines_behind_those_that_are_used_are_not_read(model: Path, texts: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(texts.read_text() + "not JSON")
    done = quantize(QuantizeSpec(str(model), tmp_path / "out", "w8a8", path, num_records=4))
    assert done.num_tokens > 0
