"""Cutting against what the tokenizers library does with truncation switched on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.text.fitting import SlowFitting, longest_first
from infer.core.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Tokenizer:
    return Tokenizer.load(lambda name: (tiny_bert / name).read_bytes() if (tiny_bert / name).exists() else None)


def texts(rng: random.Random) -> tuple[str, str]:
    first, second = (" ".join(rng.choices(["the", "cat", "sat", "xyz", "."], k=rng.randrange(14))) for _ in range(2))
    return first, second


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [3, 4, 5, 8, 9, 30])
def test_as_the_library(tiny_bert: Path, tokenizer: Tokenizer, limit: int, side: str) -> None:
    from tokenizers import Tokenizer as Library

    library: Any = Library.from_file(str(tiny_bert / "tokenizer.json"))
    library.enable_truncation(limit, direction=side)
    rng = random.Random(limit)
    for _ in range(100):
        pair = texts(rng)
        (single,) = tokenizer.encode_fitted([pair[0]], limit=limit, side=side)
        assert single.ids == library.encode(pair[0]).ids
        assert single.cut == (len(tokenizer.encode(pair[0])) > limit)
        (both,) = tokenizer.encode_fitted([pair], limit=limit, side=side)
        expected = library.encode(*pair)
        assert (both.ids, both.types) == (expected.ids, expected.type_ids)


def test_no_limit_cuts_nothing(tokenizer: Tokenizer) -> None:
    whole, _ = tokenizer.encode_fitted(["the cat " * 40, ""])
    assert len(whole.ids) == 82
    assert not whole.cut
    assert tokenizer.encode_fitted([]) == []


def test_the_special_tokens_alone_may_be_too_many(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_fitted(["the cat"], limit=1)[0].ids == [2, 3]


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    for piece in ("\ud800", ("a", "\ud800")):
        with pytest.raises(RecordError) as caught:
            tokenizer.encode_fitted([piece])
        assert caught.value.code == "invalid_encoding"


def test_literal_text(tokenizer: Tokenizer) -> None:
    (pair,) = tokenizer.encode_fitted([("[SEP] the", "cat [CLS]")], literal=True)
    assert (pair.ids.count(2), pair.ids.count(3)) == (1, 2)
    (cut,) = tokenizer.encode_fitted(["[SEP] the cat sat"], literal=True, limit=5)
    assert len(cut.ids) == 5
    assert cut.ids.count(3) == 1


def test_through_transformers(tiny_bert: Path, tokenizer: Tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    slow = SlowFitting(PreTrainedTokenizerFast(tokenizer_file=str(tiny_bert / "tokenizer.json"), **named))
    rng = random.Random(0)
    for limit in (4, 7, 30):
        for side in ("left", "right"):
            pair = texts(rng)
            assert slow.encode([pair, pair[0]], limit=limit, side=side) == tokenizer.encode_fitted([pair, pair[0]], limit=limit, side=side)


def test_longest_first() -> None:
    assert longest_first([5], 3) == [3]
    assert longest_first([5, 2], 7) == [5, 2]
    assert longest_first([5, 2], 6) == [4, 2]
    assert longest_first([2, 5], 6) == [2, 4]
    assert longest_first([5, 6], 5) == [2, 3]
    assert longest_first([6, 5], 5) == [3, 2]
    assert longest_first([6, 5], 0) == [0, 0]
