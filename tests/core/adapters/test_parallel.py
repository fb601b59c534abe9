"""Adapters of a model that ranks share: each has its part of the matrices, and all take an adapter when rank 0 says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infer import LoRARequest, SamplingParams

from .making import merge, random_matrices, write_adapter
from .test_models import check, model_of, started
from .test_schedules import NAMES, answers, work

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


def test_stages_equal_one_rank(tmp_path: Path) -> None:
    """Adapters come and go between batches that are on their way: of all linear layers, of the head, of the last layer alone, of the
    embedding."""
    model = model_of("llama", {"num_hidden_layers": 3, "tie_word_embeddings": True})
    model.save_pretrained(tmp_path / "model")
    for number, (name, layers) in enumerate(zip(NAMES, (r".*_proj", r".*mlp.*|lm_head", r".*2\.mlp.*", ""), strict=True)):
        generator = torch.Generator().manual_seed(number)
        words = {"model.embed_tokens": (torch.randn(4, 160, generator=generator), torch.randn(48, 4, generator=generator))}
        matrices = random_matrices(model, layers, 2 + 3 * number, number, size=1.0) if layers else {}
        write_adapter(tmp_path / name, matrices, embeddings={} if layers else words)
    # One that has the embedding's weights too, which the stage that draws cannot compare with the model's.
    whole = write_adapter(tmp_path / "whole", {}, embeddings=words) / "adapter_model.safetensors"
    entry = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file({**load_file(whole), entry: model.model.embed_tokens.weight.detach().clone()}, whole)
    records: list[Any] = [*work(24), ([1, 2, 3], "whole")]

    def run(**settings: Any) -> list[Any]:
        llm = started(tmp_path / "model", max_num_seqs=8, max_num_batched_tokens=64, max_cpu_loras=2, **settings)
        try:
            found = answers(llm, tmp_path, records)
            llm.engine.scheduler.check_integrity()  # type: ignore[union-attr]
            return found
        finally:
            llm.close()

    *alone, taken = run()
    *found, refused = run(pipeline_parallel_size=2)
    assert found == alone
    assert not any(isinstance(one, Exception) for one in (*alone, taken))
    assert "which a pipeline does not take; merge it with PEFT" in str(refused)


def test_stages_merge_their_own_layers(tmp_path: Path) -> None:
    model = model_of("llama", {})
    model.save_pretrained(tmp_path / "model")
    path = write_adapter(tmp_path / "a", random_matrices(model, r".*_proj|lm_head", 4, 1, size=1.0))
    found = []
    for stages in (1, 2):
        llm = started(tmp_path / "model", pipeline_parallel_size=stages, lora_merge=str(path), enable_lora=False)
        try:
            found.append(answers(llm, tmp_path, [(prompt, None) for prompt, _ in work(4)]))
        finally:
            llm.close()
    assert found[0] == found[1]
