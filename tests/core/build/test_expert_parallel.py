"""Ranks that have whole experts give what ranks give that share each, and what one alone gives; no schedule changes a bit of it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from infer.core import LLM, SamplingParams
from infer.core.build.plan import make_plan
from infer.core.errors import ConfigError
from infer.core.jobs.fingerprint import fingerprint
from infer.core.layers.moe import Experts
from infer.core.parallel.group import Group, sharding
from infer.core.quant.choice import choosing
from infer.core.quant.int8 import Int8
from infer.core.settings.args import EngineArgs
from infer.core.spec.experts import NAMES
from infer.core.spec.stack import ExpertsSpec, RoutingSpec
from infer.core.types.outputs import RequestOutput
from infer.core.weights import loader
from infer.kernels import load, usable

from ..models.test_packed_experts import packed
from ..models.test_packed_linear_experts import PROMPTS, SETTINGS, kept_by, write
from .test_tensor_parallel import assert_same_but_for_ties

pytestmark = pytest.mark.usefixtures("forked_ranks")

__all__ = ["packed"]

PARAMS = SamplingParams(temperature=0, max_tokens=8, logprobs=2, prompt_logprobs=1, detokenize=False, ignore_eos=True)
WHOLE: dict[str, Any] = {"tensor_parallel_size": 2, "enable_expert_parallel": True}


def answers(folder: Path, **more: Any) -> list[RequestOutput]:
    asked = [{"prompt_token_ids": [i % 160 for i in ids]} for ids in PROMPTS]
    return LLM(str(folder), **{**SETTINGS, "dtype": "float32", **more}).generate(asked, PARAMS, use_tqdm=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts and one for all tokens, which ranks share as they do attention; its 6 experts have sizes that no two ranks could share."""
    folder = tmp_path_factory.mktemp("shared")
    torch.manual_seed(1)
    sizes = {"vocab_size": 160, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    mixture = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 33, "shared_expert_intermediate_size": 64}
    config = AutoConfig.for_model("qwen2_moe", **sizes, num_key_value_heads=2, initializer_range=0.3, **mixture)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_experts_of_a_size_that_ranks_cannot_share(shared: Path) -> None:
    alone = answers(shared)
    with pytest.raises(ConfigError, match="33 features between its feed-forward layers"):
        answers(shared, tensor_parallel_size=2)
    whole = answers(shared, **WHOLE)
    assert_same_but_for_ties(alone, whole)
    again = answers(shared, **WHOLE, max_num_seqs=2, max_num_batched_tokens=16, enable_prefix_caching=False)
    assert [(o.outputs[0].logprobs, o.prompt_logprobs) for o in again] == [(o.outputs[0].logprobs, o.prompt_logprobs) for o in whole]


def test_packed_experts_with_biases(packed: tuple[Path, Any]) -> None:
    """MXFP4, all experts in one tensor; five experts are for one rank or five."""
    with pytest.raises(ConfigError, match=r"enable_expert_parallel: 2 ranks .* 5 experts each; sizes that work: 1$"):
        answers(packed[0], **WHOLE)


@pytest.mark.parametrize("how", ["gptq-desc_act", "int4"])
def test_experts_in_few_bits(tmp_path: Path, how: str) -> None:
    write(tmp_path, "" if how == "int4" else how)
    settings: dict[str, Any] = {"quantization": "int4", **({} if kept_by("cpu") else {"kernels": "reference"})} if how == "int4" else {}
    whole = answers(tmp_path, **settings, **WHOLE)
    assert_same_but_for_ties(answers(tmp_path, **settings), whole)
    if how != "int4":
        assert_same_but_for_ties(answers(tmp_path, tensor_parallel_size=2), whole)


class Pretended(Group):
    """One of several ranks, which hears nothing of the others."""

    size = 4
    whole_experts = True

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
def test_ranks_parts_add_up(backend: str, int8: bool) -> None:
    """Of rows some of which have no expert on a rank, and of one row alone."""
    ops = load(backend)
    if int8 and not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    spec = ExpertsSpec(count=12, routing=RoutingSpec(per_token=2), size=40, activation="silu", bias=True)

    def made(group: Group) -> Experts:
        with sharding(group), choosing((lambda _: Int8(ops)) if int8 else None):
            experts = Experts(ops, "layers.0", NAMES, 48, spec)
        loader.load_dummy(experts.parameters(), torch.float32, torch.device("cpu"))
        return experts

    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    parts = [made(Pretended(rank)) for rank in range(4)]
    assert [len(part.experts) for part in parts] == [3] * 4
    with torch.inference_mode():
        for rows in (x, x[:16], torch.zeros(16, 48)):
            summed = sum(part(rows.clone()) for part in parts)
            torch.testing.assert_close(summed, made(Group())(rows.clone()), rtol=1e-5, atol=1e-6)


def test_what_it_changes_is_told(shared: Path, tiny_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    def plan(folder: Path, **more: Any) -> Any:
        return make_plan(EngineArgs(model=str(folder), device="cpu", skip_tokenizer_init=True, **more))

    made = plan(shared, **WHOLE)
    assert made.config.enable_expert_parallel
    parts = dataclasses.replace(made.config, enable_expert_parallel=False)
    whole, other = (fingerprint(config, made.source, made.source, {}) for config in (made.config, parts))
    assert {name for name in whole if whole[name] != other[name]} == {"enable_expert_parallel"}
    with caplog.at_level(logging.WARNING):
        for folder, more, why in ((shared, {}, "with tensor_parallel_size=1"), (tiny_llama, {"tensor_parallel_size": 2}, "no experts")):
            config = plan(folder, enable_expert_parallel=True, **more).config
            assert not config.enable_expert_parallel
            assert any(why in note for note in config.notes)
