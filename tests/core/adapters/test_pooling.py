"""Adapters of models that pool: vectors and scores with them, several in one call, against merged models of transformers."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer import LLM, LoRARequest
from infer.core.errors import ConfigError, RecordError

from .making import merge, random_matrices, write_adapter

TEXTS = [[5, 9, 14, 7, 30], [8, 8, 20], [11, 6, 25, 13, 4, 29, 17], [5, 9, 14, 7, 30]]
LAYERS = {"a": r".*(query|value|q_proj|v_proj|down_proj|output\.dense)", "b": r".*(dense|k_proj|up_proj|o_proj)"}


def adapted(model: Any, tmp_path: Path, prefix: str = "") -> tuple[dict[str | None, Any], dict[str | None, LoRARequest | None]]:
    """Merged models by the name of their adapter, and what asks for them. `prefix`: what `model` lacks of the adapter's names."""
    oracles, loras = {None: model}, dict[str | None, LoRARequest | None]({None: None})
    for number, (name, layers) in enumerate(LAYERS.items()):
        matrices = random_matrices(model, layers, 3 + number, number, size=1.0)
        path = write_adapter(tmp_path / name, {prefix + layer: both for layer, both in matrices.items()})
        oracles[name] = merge(copy.deepcopy(model), matrices, 2.0)
        loras[name] = LoRARequest(name, number + 1, str(path))
    return oracles, loras


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_vectors_equal_those_of_merged_models(request: pytest.FixtureRequest, tmp_path: Path, kind: str, kernels: str) -> None:
    folder = request.getfixturevalue("bert_folder" if kind == "encoder" else "qwen_folder")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    oracles, loras = adapted(model, tmp_path, "model." if kind == "decoder" else "")
    llm = LLM(str(folder), task="embed", dtype="float32", device="cpu", kernels=kernels, enable_lora=True, max_loras=1, max_cpu_loras=1)
    pairs = [(text, name) for text in TEXTS for name in oracles]
    prompts = [{"prompt_token_ids": text} for text, _ in pairs]
    found = llm.embed(prompts, lora_request=[loras[name] for _, name in pairs], use_tqdm=False)
    for output, (text, name) in zip(found, pairs, strict=True):
        with torch.inference_mode():
            hidden = oracles[name](torch.tensor([text])).last_hidden_state[0]
        pooled = hidden.mean(0) if kind == "encoder" else hidden[-1]
        ours = torch.tensor(output.outputs.embedding)
        torch.testing.assert_close(ours, pooled / pooled.norm(), atol=1e-4, rtol=1e-4)
        (again,) = llm.embed([{"prompt_token_ids": text}], lora_request=loras[name], use_tqdm=False)
        assert again.outputs.embedding == output.outputs.embedding


def test_scores_of_pairs(pair_folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(pair_folder, dtype=torch.float32).eval()
    layers = {name: both for name, both in random_matrices(model, r".*(query|output\.dense)", 4, 1).items() if "classifier" not in name}
    lora = LoRARequest("a", 1, str(write_adapter(tmp_path / "a", layers)))
    merged = merge(copy.deepcopy(model), layers, 2.0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pair_folder)
    llm = LLM(str(pair_folder), dtype="float32", device="cpu", enable_lora=True)
    found = llm.score(["the cat", "hello"], ["a dog", "stock prices"], lora_request=[lora, None], use_tqdm=False)
    for output, pair, oracle in zip(found, (("the cat", "a dog"), ("hello", "stock prices")), (merged, model), strict=True):
        with torch.inference_mode():
            wanted = oracle(**tokenizer(*pair, return_tensors="pt", return_token_type_ids=False)).logits[0].sigmoid()
        assert output.outputs.score == pytest.approx(float(wanted), abs=1e-4)


def test_faults(bert_folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    _, loras = adapted(model, tmp_path)
    plain = LLM(str(bert_folder), dtype="float32", device="cpu")
    with pytest.raises(RecordError, match="LoRA adapters are off"):
        plain.embed("hello", lora_request=loras["a"], use_tqdm=False)
    llm = LLM(str(bert_folder), dtype="float32", device="cpu", enable_lora=True)
    with pytest.raises(ConfigError, match="score of one text and many embeddings takes one lora_request"):
        llm.score("a", ["b", "c"], lora_request=[loras["a"], None], use_tqdm=False)
    step = llm.engine.step

    def gone() -> Any:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return step()

    llm.engine.step = gone  # type: ignore[method-assign]
    found = llm.embed(["the cat", "a dog", "the cat"], lora_request=[loras["b"], None, loras["a"]], use_tqdm=False, on_error="return")
    assert [output.error and output.error.code for output in found] == ["adapter_invalid", None, None]
    assert llm.engine.num_unfinished == 0
