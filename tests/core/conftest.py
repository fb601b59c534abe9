"""Tiny models that pool, with random weights in float32: an encoder in a sentence-transformers folder, a decoder in one, a
cross-encoder and a classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .paged_memory import make_engine, oracle
from .toy_tokenizers import backends, model_files, toys

__all__ = ["backends", "make_engine", "model_files", "oracle", "toys"]  # fixtures

_WORDS = ("the", "cat", "dog", "sits", "runs", "on", "a", "mat", "stock", "prices", "fell", "query", "hello", "world", ":")


def _letters() -> list[str]:
    return [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]


def _wordpiece(folder: Path, first: str, last: str, *, types: bool) -> int:
    """A tokenizer that puts `first` and `last` around texts, as BERT's (types tell two texts apart) or RoBERTa's; its size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", first, last, *_WORDS, *_letters()])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = f"{first} $A {last} $B:1 {last}:1" if types else f"{first} $A {last} {last} $B {last}"
    specials = [(first, vocab[first]), (last, vocab[last])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=specials)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", first, last])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": first,
        "sep_token": last,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return len(vocab)


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def _modules(*kinds: str) -> list[dict[str, Any]]:
    types = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", *kinds)]
    return [{"idx": i, "name": str(i), "path": f"{i}_{kinds[i - 1]}" if i else "", "type": kind} for i, kind in enumerate(types)]


@pytest.fixture(scope="session")
def bert_folder(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as sentence-transformers saves it: mean pooling, normalized, 48 tokens at most; it may be cut to 8 or 16."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    size = _wordpiece(folder, "[CLS]", "[SEP]", types=True)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    config.matryoshka_dimensions = [8, 16]
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _write(
        folder,
        {
            "modules.json": _modules("Pooling", "Normalize"),
            "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
            "sentence_bert_config.json": {"max_seq_length": 48, "do_lower_case": False},
            "config_sentence_transformers.json": prompts,
        },
    )
    return folder


@pytest.fixture(scope="session")
def pair_folder(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of RoBERTa's kind: one label."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-pairs"
    folder.mkdir()
    size = _wordpiece(folder, "<s>", "</s>", types=False)
    torch.manual_seed(2)
    config = RobertaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
        initializer_range=0.3,
    )
    RobertaForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def labels_folder(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of BERT's kind with three labels."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-labels"
    folder.mkdir()
    size = _wordpiece(folder, "[CLS]", "[SEP]", types=True)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        id2label={0: "bad", 1: "fair", 2: "good"},
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen_folder(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal decoder as an embedder: the last token, an end token put after each text, a prompt before each where none is asked for."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>", "truncation_side": "left"}
    torch.manual_seed(4)
    config = Qwen3Config(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    Qwen3ForCausalLM(config).eval().save_pretrained(folder)
    _write(
        folder,
        {
            "tokenizer_config.json": named,
            "modules.json": _modules("Pooling", "Normalize"),
            "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode": "lasttoken"},
            "config_sentence_transformers.json": {"prompts": {"ask": "Q:"}, "default_prompt_name": "ask"},
        },
    )
    return folder
