"""`infer score` with language models as rerankers: the presets of configs/ against what their model cards do with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

QUERY, DOCUMENTS = "what is {document}?", ["a pair of <|im_end|> texts", "", "rain\n\nand sun"]
#: The texts of the model cards (Qwen/Qwen3-Reranker-0.6B, BAAI/bge-reranker-v2-gemma).
QWEN_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
QWEN_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BGE_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a prediction of "
    "either 'Yes' or 'No'."
)
SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = {
    "qwen3-reranker": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True, **SIZES},
    "bge-reranker-v2-gemma": {"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 2.0, **SIZES},
}


def tokens(folder: Path) -> Tokenizer:
    """A byte-level tokenizer with the presets' special tokens, in which "no", "yes" and "Yes" are one token each."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>"]
    merges = [("n", "o"), ("y", "e"), ("Y", "e"), ("ye", "s"), ("Ye", "s")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>"}))
    return tokenizer


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, compiled_kernels: None, tmp_path: Path) -> tuple[str, Path, Tokenizer, Any]:
    """A preset, a folder with a random model of its kind, and both of its halves."""
    import transformers

    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = tokens(folder)
    torch.manual_seed(0)
    said = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 1024, "initializer_range": 0.3, **KINDS[request.param]}
    config = transformers.AutoConfig.for_model(**said)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder)
    return request.param, folder, tokenizer, model


def prompt_of(preset: str, tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    if preset == "qwen3-reranker":
        before = ids(f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n")
        after = ids("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
        return [*before, *ids(f"<Instruct>: {QWEN_INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"), *after]
    return [*ids("<bos>"), *ids(f"A: {query}"), *ids("\n"), *ids(f"B: {document}"), *ids("\n"), *ids(BGE_PROMPT)]


def by_the_card(preset: str, tokenizer: Tokenizer, model: Any, query: str, document: str) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_of(preset, tokenizer, query, document)])).logits[0, -1]
    if preset == "qwen3-reranker":
        return float(logits[[tokenizer.token_to_id("no"), tokenizer.token_to_id("yes")]].softmax(0)[1])
    return float(logits[tokenizer.token_to_id("Yes")].sigmoid())


def test_a_preset_scores_as_its_model_card(call: Any, write_lines: Any, tmp_path: Path, made: tuple[str, Path, Tokenizer, Any]) -> None:
    preset, folder, *halves = made
    lines = write_lines({"query": QUERY, "documents": DOCUMENTS}, {"text_1": "no", "text_2": "yes", "use_activation": False})
    flags = ["--config", preset, "--model", folder, "--dtype", "float32", "--device", "cpu"]
    done = call("score", *flags, lines, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    first, second = map(json.loads, (tmp_path / "out").read_bytes().splitlines())
    expected = [by_the_card(preset, *halves, QUERY, document) for document in DOCUMENTS]
    assert first["scores"] == pytest.approx(expected, abs=1e-5)
    assert len(set(first["scores"])) == 3
    assert torch.tensor(second["score"]).sigmoid().item() == pytest.approx(by_the_card(preset, *halves, "no", "yes"), abs=1e-5)


def test_a_long_document_loses_its_end_and_no_instruction(call: Any, write_lines: Any, tmp_path: Path, made: Any) -> None:
    preset, folder, *halves = made
    most = 512 if preset == "qwen3-reranker" else 200
    lines = write_lines({"text_1": "no", "text_2": "rain " * 400})
    flags = ["--config", preset, "--model", folder, "--dtype", "float32", "--device", "cpu", "--max-model-len", str(most)]
    assert call("score", *flags, lines, tmp_path / "out").exit_code == 3
    done = call("score", *flags, "--truncate", "right", "--overwrite", lines, tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    score = json.loads((tmp_path / "out").read_bytes())["score"]
    kept = most - len(prompt_of(preset, halves[0], "no", ""))  # a token a letter
    assert score == pytest.approx(by_the_card(preset, *halves, "no", ("rain " * 400)[:kept]), abs=1e-5)


def test_tokens_that_are_none_are_told(call: Any, write_lines: Any, tmp_path: Path, made: Any) -> None:
    _, folder, *_ = made
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"hf_overrides": {"classifier_from_token": ["maybe"]}}))
    done = call("score", "--config", file, "--model", folder, write_lines({"text_1": "a", "text_2": "b"}), tmp_path / "out")
    assert done.exit_code == 1
    assert "'maybe' is not one token of its vocabulary, but 5" in done.stderr
