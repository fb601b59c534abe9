"""Tokenizers rebuilt from GGUF metadata cut text as the ones they came from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from infer.core.errors import ModelError
from infer.core.weights.gguf import tokenizer as gguf_tokenizer
from infer.core.weights.gguf.metadata import Metadata

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they'll DON'T do, 1234567 times.",
    "Größe, naïve café, déjà vu; 日本語のテキスト と 한국어. Привет, мир!",
    "def f(x):\n    return x ** 2  # squared\n\n\tprint(f(10))\n",
    "emoji 🙂🙂 and\u200b zero width, a\u0301ccents, ½ ٣٤",
] * 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
NO_REGEX = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
# As in the tokenizer.json of Llama 3 and Qwen 2.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {
    "gpt-2": BYTE_LEVEL,
    "default": BYTE_LEVEL,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"), NO_REGEX]),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), NO_REGEX]),
}


def texts() -> Iterator[str]:
    yield from CORPUS[:4]
    yield from ["", " ", "  two  spaces ", "\n\n", "<|im_start|>user\nhi<|im_end|> <|im_start|>", "a<|im_end|>b", "123 456789"]
    rng = random.Random(0)
    alphabets = [range(32, 127), range(0xA0, 0x250), range(0x3040, 0x3100), range(0x1F600, 0x1F640), range(9, 14), range(0x660, 0x66A)]
    for _ in range(100):
        yield "".join(chr(rng.choice(rng.choice(alphabets))) for _ in range(30))


def trained(pre: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = PRE[pre]
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metadata(values: dict[str, Any]) -> Metadata:
    return Metadata({"general.architecture": "llama", **{f"tokenizer.{k}": v for k, v in values.items()}}, Path("m.gguf"))


def byte_level_metadata(tokenizer: Tokenizer, pre: str | None, **more: Any) -> Metadata:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    values = {
        "ggml.model": "gpt2",
        "ggml.pre": pre,
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if t in SPECIAL else 1 for t in tokens],
        "ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2,
    }
    return metadata({k: v for k, v in {**values, **{f"ggml.{k}": v for k, v in more.items()}}.items() if v is not None})


def rebuilt(meta: Metadata) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(gguf_tokenizer.tokenizer(meta)))


@pytest.mark.parametrize("pre", PRE)
def test_byte_level_cuts_text_as_the_original(pre: str) -> None:
    original = trained(pre)
    tokenizer = rebuilt(byte_level_metadata(original, pre, add_bos_token=False))
    assert tokenizer.get_vocab() == original.get_vocab()
    for text in texts():
        ids = original.encode(text).ids
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids) == original.decode(ids)
    assert tokenizer.decode([1, *tokenizer.encode("hi").ids, 2]) == "hi"  # control tokens are special


@pytest.mark.parametrize(("pre", "kind"), [("llama-bpe", "llama"), ("qwen2", "qwen2")])
def test_byte_level_cuts_text_as_transformers_does(pre: str, kind: str) -> None:
    oracle = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    meta = byte_level_metadata(trained(pre), pre, add_bos_token=False)
    known = oracle.GGUF_TOKENIZER_MAPPING["tokenizer"]
    theirs, _ = oracle.convert_gguf_tokenizer(
        kind, {name: meta.values[f"tokenizer.{key}"] for key, name in known.items() if f"tokenizer.{key}" in meta.values}
    )
    tokenizer = rebuilt(meta)
    for text in texts():
        if pre == "qwen2" and "\u0301" in text:
            continue  # its builder leaves out the NFC that Qwen's own tokenizer.json has
        assert tokenizer.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids, text


def test_a_file_that_does_not_say_how_it_cuts_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = rebuilt(byte_level_metadata(trained("gpt-2"), None))
    assert "tokenizer.ggml.pre" in caplog.text
    assert tokenizer.encode("The fox").ids == trained("gpt-2").encode("The fox").ids


def test_user_defined_tokens_are_whole_but_not_special() -> None:
    meta = byte_level_metadata(trained("gpt-2"), "gpt-2")
    tokens = [*meta.values["tokenizer.ggml.tokens"], "<think>", "  two"]
    types = [*meta.values["tokenizer.ggml.token_type"], 4, 4]
    tokenizer = rebuilt(Metadata({**meta.values, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}, meta.path))
    ids = tokenizer.encode("a<think>  two").ids
    assert ids[1:] == [len(tokens) - 2, len(tokens) - 1]
    assert tokenizer.decode(ids) == "a<think>  two"


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ({}, [], []),
        ({"add_bos_token": True}, [1], []),
        ({"add_eos_token": True}, [], [2]),
        ({"add_bos_token": True, "add_eos_token": True}, [1], [2]),
        ({"add_bos_token": True, "bos_token_id": None}, [], []),
        ({"pre": "llama-bpe"}, [1], []),  # as in llama.cpp, where the file does not say
        ({"pre": "llama-bpe", "add_bos_token": False}, [], []),
    ],
)
def test_special_tokens_are_added(flags: dict[str, Any], before: list[int], after: list[int]) -> None:
    meta = byte_level_metadata(trained("gpt-2"), **{"pre": "gpt-2", **flags})
    tokenizer = rebuilt(meta)
    plain = tokenizer.encode("hello", add_special_tokens=False).ids
    assert tokenizer.encode("hello").ids == [*before, *plain, *after]
    assert tokenizer.encode("hello", "you").ids == [
        *before,
        *plain,
        *after,
        *before,
        *tokenizer.encode("you", add_special_tokens=False).ids,
        *after,
    ]
    config = gguf_tokenizer.tokenizer_config(meta)
    assert config is not None
    assert (config["add_bos_token"], config["add_eos_token"]) == (bool(before) or flags.get("add_bos_token", False), bool(after))


SPACE = "\u2581"


def sentencepiece_metadata(**more: Any) -> Metadata:
    """A vocabulary as SentencePiece's BPE leaves it: pieces in the order they were learned, each scored lower than the one before."""
    source = Tokenizer(models.BPE())
    source.pre_tokenizer = pre_tokenizers.Metaspace()
    source.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    vocab = source.get_vocab()
    learned = [t for t in sorted(vocab, key=vocab.__getitem__) if len(t) > 1]
    characters = [t for t in vocab if len(t) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *learned, *characters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(learned) + len(characters))]
    scores = [0.0] * 259 + [-float(i) for i in range(len(learned))] + [-1e6 - i for i in range(len(characters))]
    values = {"ggml.model": "llama", "ggml.tokens": tokens, "ggml.token_type": types, "ggml.scores": scores}
    return metadata({**values, **{f"ggml.{k}": v for k, v in more.items()}})


def merged(text: str, meta: Metadata) -> list[str]:
    """SentencePiece's rule, word for word: join the neighbours whose union scores best, the leftmost first, until none is left."""
    tokens, scores, types = (meta.values[f"tokenizer.ggml.{k}"] for k in ("tokens", "scores", "token_type"))
    score = {t: s for t, s, kind in zip(tokens, scores, types, strict=True) if kind == 1}
    pieces = list(SPACE + text.replace(" ", SPACE)) if text else []
    while True:
        pairs = [(-score[a + b], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in score]
        if not pairs:
            return [p for piece in pieces for p in ([piece] if piece in score else [f"<0x{b:02X}>" for b in piece.encode()])]
        _, i = min(pairs)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def test_sentencepiece_cuts_text_by_score() -> None:
    meta = sentencepiece_metadata()
    tokenizer = rebuilt(meta)
    for text in texts():
        if "<|" not in text:
            assert tokenizer.encode(text, add_special_tokens=False).tokens == merged(text, meta), text
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_sentencepiece_defaults() -> None:
    meta = sentencepiece_metadata()
    tokenizer = rebuilt(meta)
    assert tokenizer.encode("fox").ids[0] == 1  # BOS unless the file says no
    assert tokenizer.decode([1, 2], skip_special_tokens=True) == ""
    assert tokenizer.encode("<s>x</s>", add_special_tokens=False).ids[0] == 1
    config = gguf_tokenizer.tokenizer_config(meta)
    assert config is not None
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert (config["add_bos_token"], config["add_eos_token"]) == (True, False)


def test_sentencepiece_without_the_space_in_front() -> None:
    tokenizer = rebuilt(sentencepiece_metadata(add_space_prefix=False, add_bos_token=False))
    assert tokenizer.encode("the").tokens[0][0] == "t"
    assert tokenizer.decode(tokenizer.encode(" the").ids) == " the"


def test_sentencepiece_cuts_text_as_transformers_does() -> None:
    oracle = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    meta = sentencepiece_metadata()
    known = oracle.GGUF_TOKENIZER_MAPPING["tokenizer"]
    theirs, _ = oracle.convert_gguf_tokenizer(
        "llama", {name: meta.values[f"tokenizer.{key}"] for key, name in known.items() if f"tokenizer.{key}" in meta.values}
    )
    tokenizer = rebuilt(meta)
    for text in texts():
        if text.strip() == text and "  " not in text:  # it takes the space in front for a word's; see its phi3_tokenizer
            assert tokenizer.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids, text


def test_tokenizer_config() -> None:
    meta = byte_level_metadata(trained("smollm"), "smollm", unknown_token_id=0, padding_token_id=2)
    meta = Metadata({**meta.values, "tokenizer.chat_template": "{{ x }}", "llama.context_length": 77}, meta.path)
    assert gguf_tokenizer.tokenizer_config(meta) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 77,
        "chat_template": "{{ x }}",
    }


def test_named_chat_templates() -> None:
    templates = {"tokenizer.chat_template": "a", "tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "b"}
    meta = byte_level_metadata(trained("smollm"), "smollm")
    config = gguf_tokenizer.tokenizer_config(Metadata({**meta.values, **templates}, meta.path))
    assert config is not None
    assert config["chat_template"] == [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]


def test_a_token_listed_twice_keeps_its_first_id() -> None:
    meta = byte_level_metadata(trained("gpt-2"), "gpt-2")
    tokens = list(meta.values["tokenizer.ggml.tokens"])
    tokens[-1] = "a"
    merges = meta.values["tokenizer.ggml.merges"][:-1]
    tokenizer = rebuilt(Metadata({**meta.values, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}, meta.path))
    assert tokenizer.encode("a").ids == [tokens.index("a")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "tokenizer 'bert' is not read from GGUF"),
        ({"pre": "llama-bpf"}, "'llama-bpf' is not known; did you mean 'llama-bpe'"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"merges": ["zzz yyy"]}, "cannot be rebuilt"),
        ({"merges": ["nospace"]}, "cannot be rebuilt"),
        ({"merges": [1]}, "a list of str belongs"),
        ({"token_type": [1, 2]}, "2 token types for"),
        ({"bos_token_id": 10**6}, "bos_token is token 1000000, but there are"),
        ({"bos_token_id": "1"}, "'1' for tokenizer.ggml.bos_token_id, where a whole number belongs"),
        ({"add_bos_token": 1}, "where true or false belongs"),
        ({"tokens": "abc"}, "where a list of str belongs"),
    ],
)
def test_what_cannot_be_rebuilt(change: dict[str, Any], message: str) -> None:
    meta = byte_level_metadata(trained("gpt-2"), **{"pre": "gpt-2", **change})
    with pytest.raises(ModelError, match=message) as error:
        gguf_tokenizer.tokenizer(meta)
    assert "m.gguf" in str(error.value)


def test_sentencepiece_without_scores() -> None:
    meta = sentencepiece_metadata(scores=[1.0])
    with pytest.raises(ModelError, match="lacks a score for each token"):
        gguf_tokenizer.tokenizer(meta)


def test_added_tokens_match_the_originals() -> None:
    original = trained("smollm")
    original.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
    tokenizer = rebuilt(byte_level_metadata(original, "smollm"))
    assert json.loads(tokenizer.to_str())["added_tokens"] == json.loads(original.to_str())["added_tokens"]
