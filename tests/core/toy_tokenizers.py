"""Small tokenizers of every shape that models come with, trained here on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from infer.core.text.tokenizer import Tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, doesn't it? It does!",
    "Voilà: où est la bibliothèque? Là-bas, près de l'église.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "我能吞下玻璃而不伤身体。東京都に住んでいます。안녕하세요 세계",
    "emoji 😀 👨‍👩‍👧‍👦 🇫🇷 and   spaces\n\n\ttabs, café naïve Zürich",
    "def f(x):\n    return x ** 2  # a comment",
]
KINDS = ("byte_level", "llama", "gemma", "metaspace", "wordpiece", "suffix", "plain")


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2, Llama 3, Qwen."""
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator(SENTENCES, trainer)
    t.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("né 中", normalized=False), AddedToken("\ufffd", normalized=False)])
    return t


@cache  # training breaks ties by chance: one for all decoders
def marked() -> str:
    """The JSON of a BPE over ▁-marked text with byte fallback."""
    t = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=["<unk>", "<s>", "</s>"], limit_alphabet=60, show_progress=False)
    t.train_from_iterator(SENTENCES, trainer)
    spec = json.loads(t.to_str())
    vocab = spec["model"]["vocab"]
    for token in [*(f"<0x{b:02X}>" for b in range(256)), "▁▁", "▁▁▁▁", "\ufffd"]:
        vocab.setdefault(token, len(vocab))
    spec["model"]["byte_fallback"] = True
    return json.dumps(spec)


def sentencepiece(decoder: decoders.Decoder) -> tokenizers.Tokenizer:
    """Llama 2, Mistral, Gemma; BOS from the post-processor."""
    t = tokenizers.Tokenizer.from_str(marked())
    t.decoder = decoder
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return t


def wordpiece() -> tokenizers.Tokenizer:
    """BERT."""
    t = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    t.train_from_iterator(SENTENCES, trainer)
    return t


def suffix() -> tokenizers.Tokenizer:
    """GPT-1, CLIP: words end in </w>."""
    t = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], end_of_word_suffix="</w>", show_progress=False)
    t.train_from_iterator(SENTENCES, trainer)
    return t


def plain() -> tokenizers.Tokenizer:
    """No decoder at all: tokens joined by spaces."""
    t = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    return t


def build(kind: str) -> tokenizers.Tokenizer:
    replace, fallback, fuse = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
    strip = decoders.Strip(content=" ", left=1)
    makers: dict[str, Callable[[], tokenizers.Tokenizer]] = {
        "byte_level": byte_level,
        "llama": lambda: sentencepiece(decoders.Sequence([replace, fallback, fuse, strip])),
        "gemma": lambda: sentencepiece(decoders.Sequence([replace, fallback, fuse])),
        "metaspace": lambda: sentencepiece(decoders.Metaspace(replacement="▁", prepend_scheme="first")),
        "wordpiece": wordpiece,
        "suffix": suffix,
        "plain": plain,
    }
    return makers[kind]()


@pytest.fixture(scope="session")
def backends() -> dict[str, tokenizers.Tokenizer]:
    """kind -> the bare `tokenizers` object."""
    return {kind: build(kind) for kind in KINDS}


@pytest.fixture(scope="session")
def toys(backends: dict[str, tokenizers.Tokenizer]) -> dict[str, Tokenizer]:
    """kind -> our Tokenizer of it."""

    def load(backend: tokenizers.Tokenizer) -> Tokenizer:
        data = backend.to_str().encode()
        return Tokenizer.load(lambda filename: data if filename == "tokenizer.json" else None)

    return {kind: load(backend) for kind, backend in backends.items()}


@pytest.fixture
def model_files(tmp_path: Path) -> Callable[..., Callable[[str], bytes | None]]:
    """Writes files into a folder (str, bytes, or anything JSON) and returns its `read`."""

    def write(**files: object) -> Callable[[str], bytes | None]:
        for name, value in files.items():
            data = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
            (tmp_path / name.replace("__", ".")).write_bytes(data)
        return lambda filename: (tmp_path / filename).read_bytes() if (tmp_path / filename).exists() else None

    return write
