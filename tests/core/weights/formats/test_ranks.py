"""Ranks that share quantized weights: they stay packed between groups, and sizes that would cut groups are refused by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from infer.core import LLM, SamplingParams
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError
from infer.core.settings.args import EngineArgs
from infer.core.weights.cut import Cut
from infer.core.weights.find import find
from infer.core.weights.formats.values import QuantizedWeight
from infer.core.weights.gguf.blocks import HELD
from infer.core.weights.gguf.source import GROUPS
from infer.core.weights.quantized import as_stored

from ..gguf.files import SHAPE, random_model, write_gguf
from .folders import write
from .packers import PACKERS

pytestmark = pytest.mark.usefixtures("forked_ranks")

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(2)]
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100}
#: Heads and features that two and four ranks share, in groups of 32 (64 / 2, 128 / 4).
SIZES = {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 128, "intermediate_size": 128}


def plan(model: Path, size: int) -> None:
    settings: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "tensor_parallel_size": size}
    make_plan(EngineArgs.from_kwargs(model=str(model), **settings))


@pytest.mark.parametrize("form", ["gptq-desc_act", "w4a16-asymmetric", "w4a16-channel", "w8a8"])
def test_ranks_share_what_they_are_given(tmp_path: Path, form: str) -> None:
    made = write(tmp_path, PACKERS[form], **SIZES)
    both = LLM(str(made.folder), tensor_parallel_size=2, **SETTINGS)
    alone = LLM(str(made.folder), **SETTINGS)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    outputs = [llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params) for llm in (both, alone)]
    for got, want in zip(*outputs, strict=True):
        for one, other in zip(got.prompt_logprobs[1:], want.prompt_logprobs[1:], strict=True):
            assert next(iter(one.values())).logprob == pytest.approx(
                next(iter(other.values())).logprob, abs=0.3 if form == "w8a8" else 1e-3
            )


@pytest.mark.parametrize("form", PACKERS)
def test_each_rank_holds_its_part_as_it_is_stored(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a layer that ranks share by input features: what is told from headers is what comes of it."""
    made = write(tmp_path, PACKERS[form], **SIZES)
    caplog.set_level(logging.INFO)
    source = as_stored(find(str(made.folder)))
    layers = [name for name in source.tensors() if "down_proj.weight" in name]
    group = max(source.tensors()[name].group for name in layers)
    for size in (1, 2, 4):
        cuts = [Cut(1, rank * 128 // size, (rank + 1) * 128 // size) for rank in range(size)]
        allowed = size == 1 or group >= 128 or 128 // size % group == 0
        if not allowed:
            with pytest.raises(ConfigError, match=rf"groups of {group} input features and has 128, .*; sizes that work: 1"):
                plan(made.folder, size)
            continue
        plan(made.folder, size)
        for cut in cuts:
            found = dict(source.stream(dict.fromkeys(layers, cut) if size > 1 else {}))
            for name in layers:
                wanted, value = made.model.state_dict()[name], found[name]
                dense = value.dense() if isinstance(value, QuantizedWeight) else value
                assert torch.equal(dense, wanted[:, cut.start : cut.stop]), name
                assert isinstance(value, QuantizedWeight) or (size > 1 and "become plain" in caplog.text)
    mixed = "desc_act" in form or "actorder" in form or "uneven" in form
    assert ("out of order (desc_act): these become plain" in caplog.text) == mixed


def test_blocks_of_gguf_are_groups(tmp_path: Path) -> None:
    assert GROUPS.keys() == HELD.keys()
    shape = SHAPE | {"num_key_value_heads": 4, "hidden_size": 512, "head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 1}
    model = random_model(LlamaConfig(**(shape | {"rope_theta": 10000.0}), tie_word_embeddings=False))
    plan(write_gguf(tmp_path / "small.gguf", model, quant="Q4_0"), 4)
    plan(write_gguf(tmp_path / "large.gguf", model, quant="Q4_K"), 4)  # four blocks and, of attention's output, one that all share


def test_weights_that_become_others_as_they_are_read_have_no_groups(tmp_path: Path) -> None:
    model = random_model(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    path = write_gguf(tmp_path / "m.gguf", model, quant="Q4_0")
    with pytest.raises(ConfigError, match=r"o_proj\.weight is quantized in groups of 32 input features and has 64.*work: 1, 2$"):
        plan(path, 4)
    settings: dict[str, Any] = {"device": "cpu", "skip_tokenizer_init": True, "tensor_parallel_size": 4, "quantization": "int8"}
    make_plan(EngineArgs.from_kwargs(model=str(path), **settings))
