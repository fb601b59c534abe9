"""Every form of quantized weights that is read: what it means, bit for bit, and what a model of such weights answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM, SamplingParams
from infer.core.weights.find import find
from infer.core.weights.formats.values import QuantizedWeight
from infer.core.weights.quantized import as_stored

from .folders import Made, write
from .packers import PACKERS

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(5)]
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100}


@pytest.fixture(scope="module", params=PACKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write(tmp_path_factory.mktemp("model"), PACKERS[request.param])


def test_weights_are_what_they_mean_bit_for_bit(made: Made) -> None:
    source = as_stored(find(str(made.folder)))
    wanted = made.model.state_dict()
    infos = source.tensors()
    found = dict(source.stream())
    assert found.keys() == infos.keys() == wanted.keys()
    quantized = 0
    for name, value in found.items():
        assert tuple(value.shape) == infos[name].shape == tuple(wanted[name].shape)
        quantized += isinstance(value, QuantizedWeight)
        dense = value.dense() if isinstance(value, QuantizedWeight) else value
        assert torch.equal(dense, wanted[name]), name
    assert quantized == made.num_packed > 10


def test_answers_are_those_of_what_the_weights_mean(made: Made) -> None:
    llm = LLM(str(made.folder), **SETTINGS)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0))
    is_int8 = "int-quantized" in made.folder.joinpath("config.json").read_text()
    for ids, output in zip(PROMPTS, outputs, strict=True):
        with torch.no_grad():
            logits = made.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        got = torch.tensor([next(iter(one.values())).logprob for one in output.prompt_logprobs[1:]])
        assert torch.allclose(got, wanted, atol=0.4 if is_int8 else 2e-4), (got - wanted).abs().max()


@pytest.mark.parametrize("form", ["gptq-desc_act", "gptq-desc_act-3"])
def test_an_order_of_groups_counts_whatever_desc_act_says(tmp_path: Path, form: str) -> None:
    packer = PACKERS[form]
    made = write(tmp_path, packer, config=packer.config | {"desc_act": False})
    found = dict(as_stored(find(str(made.folder))).stream())
    for name, wanted in made.model.state_dict().items():
        value = found[name]
        assert torch.equal(value.dense() if isinstance(value, QuantizedWeight) else value, wanted), name


@pytest.mark.parametrize(
    ("form", "beside", "more", "dtype"),
    [("gptq-4", ".g_idx", ".g_idx", torch.int32), ("w8a8", ".weight_scale", ".weight_zero_point", torch.int8)],
)
def test_zeros_that_some_tools_write_say_nothing(tmp_path: Path, form: str, beside: str, more: str, dtype: torch.dtype) -> None:
    def changed(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(beside)]:
            tensors[name.removesuffix(beside) + more] = torch.zeros(tensors[name].shape, dtype=dtype)

    made = write(tmp_path, PACKERS[form], changed=changed)
    found = dict(as_stored(find(str(made.folder))).stream())
    for name, wanted in made.model.state_dict().items():
        value = found[name]
        assert torch.equal(value.dense() if isinstance(value, QuantizedWeight) else value, wanted), name


def test_rows_in_int8_are_near_those_of_the_model(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["w4a16"])
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    found = []
    for rows in ("int8", "model"):
        llm = LLM(str(made.folder), **SETTINGS | {"dtype": "bfloat16", "activation_dtype": rows, "kernels": "reference"})  # on any CPU
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params)
        found.append([next(iter(one.values())).logprob for output in outputs for one in output.prompt_logprobs[1:]])
    difference = torch.tensor(found[0]) - torch.tensor(found[1])
    assert 0 < difference.abs().mean() < 0.15


def test_the_scheme_is_told(tmp_path: Path) -> None:
    """By --stats, and what became of each layer by -v."""
    made = write(tmp_path / "model", PACKERS["w4a16"], is_packed=lambda layer: ".layers." in layer and "down_proj" not in layer)
    (tmp_path / "in").write_text('{"prompt_token_ids": [5, 6, 7], "max_tokens": 2}\n')
    command = [sys.executable, "-m", "infer.cli", "generate", "-v", "--model", str(made.folder), "--device", "cpu", "--dtype", "bfloat16"]
    command += ["--skip-tokenizer-init", "--kv-cache-memory-bytes", "1MiB", "--stats", str(tmp_path / "stats")]
    done = subprocess.run([*command, str(tmp_path / "in"), str(tmp_path / "out")], check=True, capture_output=True, text=True)
    assert json.loads((tmp_path / "stats").read_text())["settings"]["stored_as"] == "compressed-tensors, W4A16 in groups of 32"
    weights = json.loads((tmp_path / "stats").read_text())["weights"]
    kept = {one["kept"]: one["count"] for one in weights["linear_layers"]}
    assert kept["in bfloat16"] == 3
    assert sum(kept.values()) >= 9
    assert weights["bytes"] > sum(one["bytes"] for one in weights["linear_layers"]) > 0
    (told,) = [line for line in done.stderr.splitlines() if "linear layers: " in line]
    assert "compressed-tensors, W4A16 in groups of 32; linear layers: " in told
    assert "3 in bfloat16 (" in told  # two down_proj, and the head
