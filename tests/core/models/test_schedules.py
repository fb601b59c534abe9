"""Every architecture through the whole engine: against transformers, and with the same bytes however steps are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer.core import LLM, SamplingParams
from infer.core.types.outputs import RequestOutput
from infer.kernels import load as load_kernels

from .test_architectures import ARCHITECTURES, prompts_of, reference_model

#: The first row of each, which has its own kinds of layers, and rows of what it can be besides.
ROWS = list(dict(reversed(ARCHITECTURES)).items())
OPTIONS = {
    "qk_layernorm",
    "new_decoder_architecture",
    "alibi",
    "clip_qkv",
    "do_layer_norm_before",
    "apply_residual_connection_post_layernorm",
}
ROWS += [row for row in ARCHITECTURES if row[1].keys() & OPTIONS and row not in ROWS]
#: The second begins as the first does, for the prefix cache.
LONG, SHORT, OTHER = prompts_of(60, 9, 33)
PROMPTS = [LONG, LONG[:40] + SHORT, OTHER, SHORT]
#: Steps as large as they come, and small ones in a cache that is too small for all: requests wait, and give their blocks back.
ROOMY = {"num_gpu_blocks_override": 200, "max_num_batched_tokens": 2048}
TIGHT = {"num_gpu_blocks_override": 11, "max_num_batched_tokens": 32, "max_num_seqs": 8, "enable_prefix_caching": True}


def name_of(row: tuple[str, dict[str, Any]]) -> str:
    return "-".join([row[0], *row[1]][:2])


@pytest.fixture(scope="module", params=ROWS, ids=name_of)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    reference_model(*request.param).save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return path


def answers(folder: Path, params: SamplingParams | list[SamplingParams], **settings: Any) -> list[RequestOutput]:
    given: dict[str, Any] = {"device": "cpu", "dtype": "float32", "block_size": 16, "max_model_len": 128, "skip_tokenizer_init": True}
    llm = LLM(str(folder), **{**given, **ROOMY, **settings})
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], params, use_tqdm=False)
    if settings.keys() >= TIGHT.keys() and isinstance(params, list):
        assert llm.engine.scheduler.num_preemptions > 0
        assert sum(output.num_cached_tokens or 0 for output in outputs) >= 16
    return outputs


def bytes_of(outputs: list[RequestOutput]) -> list[Any]:
    return [(one.prompt_logprobs, [(choice.token_ids, choice.logprobs) for choice in one.outputs]) for one in outputs]


def test_the_likeliest_tokens_are_transformers(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    params = SamplingParams(temperature=0, max_tokens=10, logprobs=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    for ids, got in zip(PROMPTS, answers(folder, params, **TIGHT), strict=True):
        (choice,) = got.outputs
        with torch.inference_mode():
            expected = model(torch.tensor([[*ids, *choice.token_ids]])).logits[0].log_softmax(-1)
        told = [*(got.prompt_logprobs or [])[1:], *(choice.logprobs or [])]
        for place, (token, entries) in enumerate(zip([*ids[1:], *choice.token_ids], told, strict=True)):
            assert entries is not None
            assert abs(entries[token].logprob - expected[place, token].item()) < 2e-3
            if place >= len(ids) - 1:
                assert expected[place].max().item() - expected[place, token].item() < 2e-3, "the likeliest, but for a tie"


#: Weights as each row has them: in float32, and every second row in bfloat16, the others in int8; the rest of the grid when asked for.
WEIGHTS = {"bfloat16": {"dtype": "bfloat16"}, "int8": {"dtype": "bfloat16", "quantization": "int8"}, "float32": {"dtype": "float32"}}
ALL = [(row, name, name == list(WEIGHTS)[i % 2]) for i, row in enumerate(ROWS) for name in WEIGHTS]


@pytest.mark.parametrize(
    ("folder", "how"),
    [pytest.param(row, WEIGHTS[name], id=f"{name_of(row)}-{name}", marks=[pytest.mark.grid] * left_out) for row, name, left_out in ALL],
    indirect=["folder"],
)
def test_no_schedule_changes_a_bit(folder: Path, how: dict[str, Any]) -> None:
    if "quantization" in how and not load_kernels("cpu").supports_int8():
        pytest.skip("no exact int8 dot products here")
    greedy = SamplingParams(temperature=0, max_tokens=12, logprobs=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)
    drawn = SamplingParams(n=3, seed=5, max_tokens=24, logprobs=0, detokenize=False, ignore_eos=True)
    params = [drawn, drawn, greedy, greedy]
    assert bytes_of(answers(folder, params, **how)) == bytes_of(answers(folder, params, **how, **TIGHT))
