"""Models and tokenizers whose Python code comes with them: refused, then run where it is allowed, and said."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.settings.args import EngineArgs
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.core.weights.remote_code import allow, named_code

CONFIGURATION = """
from transformers import PretrainedConfig

open({ran!r}, "a").write("config ")


class PlainConfig(PretrainedConfig):
    model_type = "plain_words"

    def __init__(self, vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.num_key_value_heads = num_attention_heads, num_key_value_heads
        super().__init__(**kwargs)
"""
MODELING = """
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_plain import PlainConfig
from .parts_plain import eager_attention, sinusoids


class PlainAttention(nn.Module):
    is_causal = True

    def __init__(self, config):
        super().__init__()
        self.config, self.heads, self.kv_heads = config, config.num_attention_heads, config.num_key_value_heads
        size, width = config.hidden_size, config.hidden_size // self.heads
        self.num_key_value_groups, self.width = self.heads // self.kv_heads, width
        self.q, self.k, self.v = (nn.Linear(size, width * n, bias=False) for n in (self.heads, self.kv_heads, self.kv_heads))
        self.out = nn.Linear(size, size)

    def forward(self, x, **kwargs):
        q, k, v = (f(x).view(*x.shape[:2], -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        attend = eager_attention
        if self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, _ = attend(self, q, k, v, None, scaling=0.3, dropout=0.0, **kwargs)
        return self.out(out.reshape(*x.shape))


class PlainModel(PreTrainedModel):
    config_class = PlainConfig
    base_model_prefix = "model"
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(PlainAttention(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        x = self.embed(input_ids) + sinusoids(position_ids, self.config.hidden_size)
        for layer in self.layers:
            x = x + layer(x)
        return BaseModelOutputWithPast(last_hidden_state=x)


class PlainForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = PlainConfig
    base_model_prefix = "model"
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.model = PlainModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, position_ids=None, inputs_embeds=None, use_cache=None, **kwargs):
        out = self.model(input_ids=input_ids, position_ids=position_ids)
        return CausalLMOutputWithPast(logits=self.lm_head(out.last_hidden_state))
"""
PARTS = """
import torch


def sinusoids(positions, size):
    angles = positions[..., None] / 100 ** (torch.arange(size // 2) / (size // 2))
    return torch.cat([angles.sin(), angles.cos()], -1)


def eager_attention(module, q, k, v, mask, scaling, dropout, **kwargs):
    k, v = (t.repeat_interleave(module.num_key_value_groups, 1) for t in (k, v))
    scores = q @ k.transpose(2, 3) * scaling
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return (scores.masked_fill(~seen, -1e9).softmax(-1) @ v).transpose(1, 2), None
"""
AUTO_MAP = {"AutoConfig": "configuration_plain.PlainConfig", "AutoModelForCausalLM": "modeling_plain.PlainForCausalLM"}


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of an architecture that only its own code knows; its configuration writes down that it ran."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, folder / name)
    config = {"model_type": "plain_words", "auto_map": AUTO_MAP, "architectures": ["PlainForCausalLM"], "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
    (folder / "configuration_plain.py").write_text(CONFIGURATION.format(ran=str(tmp_path / "ran")))
    (folder / "modeling_plain.py").write_text(MODELING)
    (folder / "parts_plain.py").write_text(PARTS)
    return folder


def with_weights(folder: Path) -> Any:
    """Saves random weights beside the code; gives the model in memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def args(folder: Path, **more: Any) -> EngineArgs:
    return EngineArgs(model=str(folder), device="cpu", dtype="float32", num_gpu_blocks_override=64, **more)


def test_code_is_refused_unless_allowed(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model_type 'plain_words' needs Python code .*modeling_plain.py.*--trust-remote-code"):
        build_engine(make_plan(args(folder, load_format="dummy")))
    assert not (tmp_path / "ran").exists()


def test_code_runs_where_allowed_and_says_so(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    oracle = with_weights(folder)
    (tmp_path / "ran").unlink()
    with caplog.at_level(logging.WARNING):
        engine = build_engine(make_plan(args(folder, trust_remote_code=True)))
    said = next(record.getMessage() for record in caplog.records if "trust_remote_code" in record.getMessage())
    for file in ("configuration_plain.py", "modeling_plain.py", "parts_plain.py"):
        assert file in said
    assert str(folder) in said
    prompts = [[5, 9, 11, 30], [7] * 21, list(range(40, 90))]
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(temperature=0, max_tokens=6, ignore_eos=True), i))
    outputs = {}
    while engine.num_unfinished:
        outputs.update({output.request_id: output for output in engine.step()})
    for i, prompt in enumerate(prompts):
        tokens = list(prompt)
        with torch.inference_mode():
            for _ in range(6):
                tokens.append(int(oracle(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert list(outputs[str(i)].outputs[0].token_ids) == tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("auto_map", "match"),
    [
        ({"AutoConfig": "org/other--configuration_plain.PlainConfig"}, "another repository \\(org/other\\)"),
        ({"AutoConfig": "../evil.X"}, "not of the form"),
        ({"AutoConfig": "configuration_plain"}, "not of the form"),
    ],
)
def test_code_lies_in_the_folder(auto_map: dict[str, str], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        named_code({"auto_map": auto_map}, ["AutoConfig"], "m")


def test_which_code_is_named(tmp_path: Path) -> None:
    assert named_code(None, ["AutoConfig"], "m") == named_code({"auto_map": "x"}, ["AutoConfig"], "m") == []
    assert named_code({"auto_map": AUTO_MAP}, ["AutoConfig", "AutoModel"], "m") == ["configuration_plain.py"]
    assert named_code({"auto_map": ["tokenization_x.Slow", None]}, ["AutoTokenizer"], "m") == ["tokenization_x.py"]
    with pytest.raises(ModelError, match=r"m: auto_map names gone\.py, which"):
        allow(tmp_path, ["gone.py"], "m")
