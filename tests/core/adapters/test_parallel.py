"""Adapters of a model that ranks share: each has its part of the matrices, and all take an adapter when rank 0 says so."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from infer import LoRARequest, SamplingParams

from .making import merge, random_matrices, write_adapter
from .test_models import check, model_of, started

pytestmark = pytest.mark.usefixtures("forked_ranks")


def test_two_ranks_equal_the_merged_model(tmp_path: Path) -> None:
    model = model_of("llama", {"tie_word_embeddings": True, "vocab_size": 161})
    model.save_pretrained(tmp_path / "model")
    oracles, paths = {None: model}, {}
    for number, (name, layers) in enumerate({"a": r".*_proj", "b": r".*(q|o|down)_proj", "c": r".*v_proj"}.items()):
        matrices = random_matrices(model, layers, 3 + number, number, size=1.0)
        paths[name] = write_adapter(tmp_path / name, matrices)
        oracles[name] = merge(copy.deepcopy(model), matrices, 2.0)
    llm = started(tmp_path / "model", tensor_parallel_size=2, threads=2, max_loras=1, max_cpu_loras=2)
    try:
        check(llm, oracles, paths)
        # The matrices of a head, and an adapter that takes the place of another.
        head = write_adapter(tmp_path / "head", random_matrices(model, "lm_head", 4, 9))
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        shared = llm.generate([[1, 2, 3]], params, lora_request=LoRARequest("head", 1, str(head)), use_tqdm=False)
    finally:
        llm.close()
    alone = started(tmp_path / "model").generate([[1, 2, 3]], params, lora_request=LoRARequest("head", 1, str(head)), use_tqdm=False)
    assert shared[0].outputs[0].token_ids == alone[0].outputs[0].token_ids


def test_ranks_merge_their_own_parts(tmp_path: Path) -> None:
    model = model_of("llama", {})
    model.save_pretrained(tmp_path / "model")
    matrices = random_matrices(model, r".*_proj|lm_head", 4, 1, size=1.0)
    path = write_adapter(tmp_path / "a", matrices)
    llm = started(tmp_path / "model", tensor_parallel_size=2, threads=2, lora_merge=str(path), enable_lora=False)
    try:
        check(llm, {None: merge(copy.deepcopy(model), matrices, 2.0)}, {})
    finally:
        llm.close()
