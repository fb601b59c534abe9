"""`--quantization fp8`, and fp8 checkpoints where a backend multiplies 8-bit floats: weights stay in 8 bits, and mean what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from infer.core import LLM, SamplingParams
from infer.core.errors import ConfigError
from infer.core.quant.floats import InFloats
from infer.core.quant.fp8 import Fp8
from infer.core.quant.plain import Plain
from infer.core.quant.stored import Stored
from infer.core.weights.cut import Cut
from infer.core.weights.formats.values import Floats
from infer.kernels.fp8 import rounded
from infer.kernels.reference import Ops

from ..weights.formats.folders import write
from ..weights.formats.packers import PACKERS

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(4)]
SETTINGS: dict[str, Any] = {"device": "cpu", "kernels": "reference", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100}
CPU = torch.device("cpu")


def logprobs(folder: Path, **settings: Any) -> torch.Tensor:
    """Of the tokens of all prompts."""
    llm = LLM(str(folder), **{**SETTINGS, "dtype": "float32", **settings})
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], asked)
    return torch.tensor([next(iter(one.values())).logprob for output in outputs for one in output.prompt_logprobs[1:]])


def of(model: Any) -> torch.Tensor:
    """The same by transformers."""
    found = []
    for ids in PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])
    return torch.cat(found)


def test_a_model_made_so_says_what_its_weights_mean(tiny_llama: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_llama).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.weight.data = rounded(module.weight.detach()).widened()
    exact = logprobs(tiny_llama, quantization="fp8", activation_dtype="model")
    torch.testing.assert_close(exact, of(model), atol=2e-4, rtol=0)
    by_fp8 = logprobs(tiny_llama, quantization="fp8")
    assert 0 < (by_fp8 - exact).abs().mean() < 0.3


@pytest.mark.parametrize("form", ["fp8", "fp8-rows", "fp8-blocks", "fp8-small-blocks", "fp8-powers", "compressed-mxfp8", "modelopt-fp8"])
def test_checkpoints_stay_in_8_bits_and_say_what_they_mean(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write(tmp_path, PACKERS[form])
    kept: list[InFloats] = []
    take = InFloats.take

    def watched(self: InFloats, weight: Floats, device: torch.device) -> None:
        take(self, weight, device)
        kept.append(self)

    monkeypatch.setattr(InFloats, "take", watched)
    torch.testing.assert_close(logprobs(tmp_path, activation_dtype="model"), of(made.model), atol=2e-4, rtol=0)
    assert len(kept) == 4 * made.model.config.num_hidden_layers  # stacked as plain ones are
    assert sum(method.tensors()[0].numel() for method in kept) == sum(
        module.weight.numel() for name, module in made.model.named_modules() if isinstance(module, torch.nn.Linear) and ".layers." in name
    )
    assert {method.tensors()[0].element_size() for method in kept} == {1}


def test_the_flag_names_a_checkpoints_own_method_too(tmp_path: Path) -> None:
    write(tmp_path, PACKERS["fp8"])
    assert torch.equal(logprobs(tmp_path, quantization="fp8"), logprobs(tmp_path))
    with pytest.raises(ConfigError, match="quantized already"):
        LLM(str(tmp_path), **SETTINGS, quantization="int8")


def test_cpus_refuse_to_make_it_and_read_it_plainly(compiled_kernels: None, tmp_path: Path, tiny_llama: Path) -> None:
    pytest.importorskip("infer.kernels.cpu.library").load()
    with pytest.raises(ConfigError, match=r"quantization=fp8: there are no CPU kernels for floats of 8 bits.*; take int8 or int4"):
        LLM(str(tiny_llama), **SETTINGS | {"kernels": "cpu"}, quantization="fp8")
    made = write(tmp_path, PACKERS["fp8-blocks"])
    torch.testing.assert_close(logprobs(tmp_path, kernels="cpu"), of(made.model), atol=2e-4, rtol=0)


def test_weights_of_a_kind_are_stacked() -> None:
    torch.manual_seed(3)
    for block, outs in (((8, 16), (16, 24)), ((8, 16), (12, 16)), ((99, 40), (12, 16)), ((1, 40), (5, 3))):
        parts = [
            Floats(torch.randn(out, 40).to(torch.float8_e4m3fn), torch.rand(-(-out // block[0]), -(-40 // block[1])), block) for out in outs
        ]
        assert parts[0].kind == parts[1].kind
        assert torch.equal(Floats.stacked(parts).dense(), torch.cat([part.dense() for part in parts]))
    assert parts[0].kind != Floats(parts[0].values, torch.rand(5, 3), (1, 16)).kind


@pytest.mark.parametrize("dim", [0, 1])
def test_a_ranks_part_is_that_of_the_whole_weight(dim: int) -> None:
    torch.manual_seed(4)
    weight, x = torch.randn(48, 64), torch.randn(5, 64)
    weight[:, 40] *= 9  # the largest of each row is in one part
    whole = rounded(weight).widened()
    for first in (0, 32 if dim else 24):
        cut = Cut(dim, first, first + (32 if dim else 24))
        method = Fp8(Ops(), torch.float32, rows="model")
        (parameter,) = method.declare(["a"], [48], 64, [cut])
        for part in parameter.parts:
            parameter.fill(part, weight if part.cut is None else part.cut.of(weight), torch.float32, CPU)
        assert not any(isinstance(one, Plain) for one in method._methods)
        got = method.apply(x[:, cut.start : cut.stop] if dim else x, None)
        assert isinstance(got, torch.Tensor)
        want = x[:, cut.start : cut.stop] @ whole[:, cut.start : cut.stop].T if dim else x @ whole[cut.start : cut.stop].T
        torch.testing.assert_close(got, want)


def test_floats_that_no_backend_multiplies_become_plain() -> None:
    method = Stored(Ops(), torch.bfloat16, rows="auto")
    (parameter,) = method.declare(["a"], [8], 16, None)
    parameter.fill(parameter.parts[0], Floats(torch.ones(8, 16), torch.ones(1, 1), (8, 16)), torch.bfloat16, CPU)
    assert isinstance(method._methods[0], Plain)
