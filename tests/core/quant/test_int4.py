"""`--quantization int4`: what weights are rounded to, and a model of such weights against transformers'."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from infer.core import LLM, SamplingParams
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError
from infer.core.jobs.fingerprint import fingerprint
from infer.core.quant.int4 import GROUP, Int4
from infer.core.quant.plain import Plain
from infer.core.quant.rounding import SHARES, Form, round_in_groups
from infer.core.settings.args import EngineArgs
from infer.core.weights.cut import Cut
from infer.core.weights.formats.values import Grouped
from infer.kernels.reference import Ops

from ..weights.formats.folders import SIZES, write
from ..weights.formats.packers import PACKERS

pytestmark = pytest.mark.usefixtures("forked_ranks")

PROMPTS = [[(7 * i + j * j) % 250 for j in range(5 + 9 * i)] for i in range(4)]
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "num_gpu_blocks_override": 100}
INT4 = {"quantization": "int4", "kernels": "reference"}


def by_hand(values: np.ndarray[Any, Any], bits: int, share: float, form: Form) -> np.ndarray[Any, Any]:
    """One group, rounded over a share of its range, in float64."""
    low, high, most = values.min(), values.max(), 2**bits - 1
    if form is Form.MINIMUM:
        scale, low = (high - low) * share / most, low + (high - low) * (1 - share) / 2
    elif form is Form.SYMMETRIC:
        scale = max(-low, high) * share / (most / 2)
        low = -(2 ** (bits - 1)) * scale
    else:
        low, high = min(low, 0.0) * share, max(high, 0.0) * share
        scale = (high - low) / most
        low = -np.round(-low / scale) * scale if scale else 0.0
    codes = np.clip(np.round((values - low) / (scale or 1.0)), 0, most)
    return np.asarray(codes * scale + low)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(("bits", "size", "width"), [(4, 32, 96), (4, 32, 80), (4, 128, 64), (8, 16, 40)])
def test_each_group_has_the_range_that_loses_least(bits: int, size: int, width: int, form: Form) -> None:
    torch.manual_seed(bits + width)
    weight = torch.randn(7, width) * torch.rand(7, 1) + torch.randn(7, 1) * 0.5
    weight[3, 5] = 20.0
    got = round_in_groups(weight, bits, size, form)
    for row, rounded in zip(weight.double().numpy(), got.dense().double().numpy(), strict=True):
        for start in range(0, width, size):
            group, found = row[start : start + size], rounded[start : start + size]
            errors = [np.square(by_hand(group, bits, share, form) - group).sum() for share in SHARES]
            # scales and minimums of float16 move values by up to a part in 2,048
            off = np.square(group).sum() * 2.0**-22 * 4
            assert np.sqrt(np.square(found - group).sum()) <= np.sqrt(min(errors)) + np.sqrt(off)
    assert int(got.weight.codes.max()) < 2**bits
    assert got.weight.scale.values.dtype == torch.float16
    assert (got.weight.minimum is not None) == (form is Form.MINIMUM)
    assert (got.weight.zero is None) == (form is Form.SYMMETRIC)


def test_searching_pays_and_groups_stand_alone() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    near, plain = (round_in_groups(weight, 4, 32, Form.ZERO, shares=shares).dense() for shares in (SHARES, (1.0,)))
    assert (near - weight).square().sum() < 0.95 * (plain - weight).square().sum()
    part = round_in_groups(weight[3:9, 64:160], 4, 32, Form.ZERO)
    assert torch.equal(part.dense(), near[3:9, 64:160])


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("value", [0.0, 1.5, -2.0])
def test_groups_of_one_number(value: float, form: Form) -> None:
    dense = round_in_groups(torch.full((2, 32), value), 4, 32, form, shares=(1.0,)).dense()
    assert (dense - value).abs().max() <= abs(value) * (0.07 if form is Form.SYMMETRIC else 1e-3)


@pytest.mark.parametrize("size", [1e-9, 1e6, 1e-30])
def test_scales_that_float16_cannot_hold_are_float32(size: float) -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 64) * size
    got = round_in_groups(weight, 4, 32, Form.MINIMUM)
    assert got.weight.scale.values.dtype == torch.float32
    assert (got.dense() - weight).double().norm() < 0.15 * weight.double().norm()


def test_a_range_far_from_zero() -> None:
    torch.manual_seed(1)
    weight = 100 + torch.rand(4, 64) * 0.1
    got = round_in_groups(weight, 4, 32, Form.MINIMUM)
    assert got.weight.minimum is not None
    assert got.weight.minimum.values.dtype == torch.float32
    assert (got.dense() - weight).abs().max() < 0.1 / 15


def test_weights_that_were_in_4_bits_come_out_as_they_were() -> None:
    torch.manual_seed(1)
    codes = torch.randint(0, 16, (8, 4, 32))
    codes[..., :2] = torch.tensor([0, 15])
    weight = (codes * torch.rand(8, 4, 1).half().float() - torch.rand(8, 4, 1).half().float()).flatten(1)
    assert torch.allclose(round_in_groups(weight, 4, 32, Form.MINIMUM).dense(), weight, atol=2e-3)


def in_ranks(weight: Tensor, ranks: int, ops: Ops) -> list[Tensor]:
    """What each rank's part of the weight means, by its product with the unit rows."""
    share = weight.shape[1] // ranks
    parts = []
    for rank in range(ranks):
        method = Int4(ops, torch.float32, rows="model")
        cut = Cut(1, rank * share, (rank + 1) * share)
        (parameter,) = method.declare(["w"], [weight.shape[0]], weight.shape[1], [cut] if ranks > 1 else None)
        (part,) = parameter.parts
        parameter.fill(part, weight if part.cut is None else part.cut.of(weight), torch.float32, torch.device("cpu"))
        product = method.apply(torch.eye(share), None)
        assert isinstance(product, Tensor)
        parts.append(product.T)
    return parts


@pytest.mark.parametrize(("width", "ranks"), [(128, 2), (96, 3), (96, 2), (144, 3)])  # the last two cut through groups
def test_a_rank_has_its_part_of_the_whole(width: int, ranks: int) -> None:
    torch.manual_seed(2)
    weight = torch.randn(16, width)
    (whole,) = in_ranks(weight, 1, Ops())
    assert torch.equal(torch.cat(in_ranks(weight, ranks, Ops()), 1), whole)
    assert torch.equal(whole, round_in_groups(weight, 4, GROUP, Form.MINIMUM).dense())


def test_weights_that_kernels_cannot_take_stay_as_they_are() -> None:
    class Multiples(Ops):
        def grouped_refusal(self, in_features: int, group_size: int, *, quantize_input: bool) -> str:
            return "odd" if in_features % 4 else ""

    torch.manual_seed(3)
    method = Int4(Multiples(), torch.float32, rows="model")
    weight = torch.randn(4, 30)
    method.store(weight)
    assert torch.equal(method.apply(torch.eye(30), None).T, weight)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama that is not quantized: intermediate_size is three groups."""
    folder = write(tmp_path_factory.mktemp("plain"), PACKERS["w4a16"], is_packed=lambda _: False).folder
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("head", [False, True])
def test_answers_are_those_of_the_rounded_weights(folder: Path, caplog: pytest.LogCaptureFixture, *, head: bool) -> None:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and (head or name != "lm_head"):
            module.weight.data = round_in_groups(module.weight.detach(), 4, GROUP, Form.MINIMUM).dense()
    with caplog.at_level(logging.INFO, "infer"):
        llm = LLM(str(folder), **SETTINGS, **INT4, quantize_lm_head=head)
    count = 4 * SIZES["num_hidden_layers"] + head
    assert f"int4; linear layers: {count} in 4 bits, groups of 32, by rows in float32" in caplog.text
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0))
    for ids, output in zip(PROMPTS, outputs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        got = torch.tensor([next(iter(one.values())).logprob for one in (output.prompt_logprobs or [])[1:] if one])
        assert torch.allclose(got, wanted, atol=2e-4), (got - wanted).abs().max()


def test_no_answer_depends_on_the_schedule(folder: Path) -> None:
    settings = SETTINGS | INT4 | {"dtype": "bfloat16", "quantize_lm_head": True}
    params = SamplingParams(max_tokens=8, logprobs=2, temperature=0.8, seed=1, ignore_eos=True)
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    whole = LLM(str(folder), **settings).generate(prompts, params)
    tight = LLM(str(folder), **settings, max_num_seqs=2, max_num_batched_tokens=16, enable_prefix_caching=False)
    again = tight.generate(prompts[::-1], params)[::-1]
    assert [one.outputs[0].logprobs for one in again] == [one.outputs[0].logprobs for one in whole]


def test_ranks_answer_as_one_alone(folder: Path) -> None:
    """down_proj has three groups, so two ranks have half of one."""
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]
    found = [LLM(str(folder), **SETTINGS, **INT4, tensor_parallel_size=size).generate(prompts, params) for size in (1, 2)]
    for one, other in zip(*found, strict=True):
        for a, b in zip((one.prompt_logprobs or [])[1:], (other.prompt_logprobs or [])[1:], strict=True):
            assert a is not None
            assert b is not None
            assert next(iter(a.values())).logprob == pytest.approx(next(iter(b.values())).logprob, abs=1e-3)


def test_it_is_refused_where_there_are_no_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ops, "grouped_refusal", staticmethod(lambda *_, quantize_input: "there are none"))
    with pytest.raises(ConfigError, match=r"quantization=int4: there are none"):
        LLM(str(folder), **SETTINGS, **INT4)


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    made = write(tmp_path, PACKERS["w4a16"])
    with pytest.raises(ConfigError, match=r"quantization=int4: the weights of .* are quantized already"):
        LLM(str(made.folder), **SETTINGS, **INT4)


def test_it_is_a_setting_that_answers_depend_on(folder: Path) -> None:
    found = set()
    for quantization in (None, "int8", "int4"):
        args = EngineArgs(model=str(folder), device="cpu", kernels="reference", quantization=quantization, skip_tokenizer_init=True)
        plan = make_plan(args)
        found.add(str(fingerprint(plan.config, plan.source, plan.source, {})))
    assert len(found) == 3


def test_what_is_kept(folder: Path) -> None:
    """Grouped weights alone, in less than a third of bfloat16's bytes."""
    method = Int4(Ops(), torch.bfloat16, rows="auto")
    weight = torch.randn(64, 256).bfloat16()
    (parameter,) = method.declare(["w"], [64], 256, None)
    parameter.fill(parameter.parts[0], weight, torch.bfloat16, torch.device("cpu"))
    assert parameter.tensor.numel() == 0
    assert method.num_bytes(64, 256, torch.bfloat16) < 0.32 * weight.nbytes
    assert not any(isinstance(one, Plain) for one in method._methods)
    assert isinstance(round_in_groups(weight, 4, GROUP, Form.MINIMUM), Grouped)
