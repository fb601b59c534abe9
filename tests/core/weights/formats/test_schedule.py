"""The schedule of a quantized model: batches, pieces of prompts, cached prefixes and preemption change no bit of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from infer.core import LLM, SamplingParams
from infer.core.weights.gguf.blocks import HELD

from ..gguf.files import SHAPE, random_model, write_gguf
from .folders import write
from .packers import PACKERS

#: Prompts of up to 41 tokens, the last two of which begin alike.
PROMPTS = [[(7 * i + j * j) % 90 for j in range(5 + 9 * i)] for i in range(4)] + [[(21 + j * j) % 90 for j in range(41)]]
PARAMS = SamplingParams(max_tokens=12, logprobs=2, temperature=0.8, seed=1, ignore_eos=True)
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "skip_tokenizer_init": True, "max_model_len": 64}
#: Whole K-quant blocks are of 256 features.
WIDE = SHAPE | {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1, "rope_theta": 10000.0}
#: Floats of few bits become the model's whatever rows are.
FLOATS = ("fp4", "fp8", "nf4", "compressed-", "modelopt-")
FORMS = [(form, rows) for form in (*PACKERS, *HELD) for rows in ("int8", "model") if rows == "int8" or not form.startswith(FLOATS)]


def model_of(form: str, folder: Path) -> Path:
    if form in PACKERS:
        return write(folder, PACKERS[form]).folder
    return write_gguf(folder / "model.gguf", random_model(LlamaConfig(**WIDE, tie_word_embeddings=False)), quant=form)


@pytest.mark.parametrize(("form", "rows"), FORMS)
def test_no_answer_depends_on_the_schedule(tmp_path: Path, form: str, rows: str) -> None:
    model = str(model_of(form, tmp_path))
    prompts = [{"prompt_token_ids": ids} for ids in PROMPTS]

    def answers(llm: LLM, *, backwards: bool = False) -> list[Any]:
        step = -1 if backwards else 1
        return [one.outputs[0].logprobs for one in llm.generate(prompts[::step], PARAMS)[::step]]

    roomy = LLM(model, **SETTINGS, activation_dtype=rows, num_gpu_blocks_override=100)
    whole = answers(roomy)
    cached = roomy.engine.stats.num_cached_tokens
    assert answers(roomy) == whole
    assert roomy.engine.stats.num_cached_tokens > cached + 32

    tight: dict[str, Any] = {"num_gpu_blocks_override": 6, "max_num_seqs": 3, "max_num_batched_tokens": 16}
    cramped = LLM(model, **SETTINGS, **tight, activation_dtype=rows, enable_prefix_caching=False)
    assert answers(cramped, backwards=True) == whole
    assert cramped.engine.stats.num_preemptions > 0
