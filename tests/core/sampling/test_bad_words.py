"""Bad words, as the tokens that may not come next."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.sampling.bad_words import CAPACITY, MAX_SEQUENCES, BadWordBook, BadWords, token_sequences
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence


def sequence_of(prompt: list[int], output: list[int]) -> Sequence:
    sequence = Sequence.of(Request("a", prompt, SamplingParams(), 0), 0, 0, 4096)
    sequence.tokens += output
    return sequence


@pytest.mark.parametrize(
    ("words", "output", "banned"),
    [
        ([[5]], [], {5}),
        ([[5]], [5, 6], {5}),
        ([[5, 6]], [], set()),
        ([[5, 6]], [5], {6}),
        ([[5, 6]], [6, 5], {6}),
        ([[5, 6]], [5, 6], set()),
        ([[5, 6, 7], [6, 8], [9]], [5, 6], {7, 8, 9}),
        ([[5, 6, 7], [6, 8], [9]], [4, 6], {8, 9}),
        ([[5, 5]], [5], {5}),
        ([[5, 6, 7], [4, 6, 7]], [4, 6], {7}),
    ],
)
def test_the_last_token_is_banned_where_the_others_stand(words: list[list[int]], output: list[int], banned: set[int]) -> None:
    found = BadWords.of(words)
    assert found.banned(sequence_of([1, 2], output)) == banned


def test_the_prompt_is_no_part_of_a_word() -> None:
    words = BadWords.of([[5, 6], [4, 5, 6]])
    assert words.banned(sequence_of([4, 5], [])) == set()
    assert words.banned(sequence_of([4], [5])) == {6}
    assert BadWords.of([[4, 5, 6]]).banned(sequence_of([4], [5])) == set()


def test_no_word_is_ever_written() -> None:
    """Any output that keeps to the bans has none of the sequences in it."""
    rng = random.Random(0)
    for _ in range(200):
        words = [[rng.randrange(5) for _ in range(rng.randrange(2, 4))] for _ in range(6)]
        found, sequence = BadWords.of(words), sequence_of([0, 1, 2, 3], [])
        for _ in range(30):
            left = [t for t in range(5) if t not in found.banned(sequence)]
            if not left:
                break
            sequence.tokens.append(rng.choice(left))
        output = sequence.output_ids
        assert not any(output[i : i + len(w)] == w for w in words for i in range(len(output)))


class Spaces:
    """A token a character; a space sticks to what follows. A tab has no token."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        self.texts.append(text)
        result: list[int] = []
        for character in text.replace("\t", ""):
            if result and result[-1] == 32:
                result[-1] = 1000
            result.append(ord(character))
        return [t + result[i - 1] * (i > 0 and result[i - 1] == 1000) for i, t in enumerate(result) if t != 1000]


def test_with_and_without_a_space() -> None:
    tokenizer: Any = Spaces()
    assert token_sequences(("ab",), tokenizer) == [[97, 98], [1097, 98]]
    assert token_sequences(("  ab",), tokenizer) == [[97, 98], [1097, 98]]
    assert token_sequences(("a", " a", "a"), tokenizer) == [[97], [1097]]
    assert token_sequences((" ",), tokenizer) == [[32]]  # nothing but a space is itself
    assert token_sequences(("\t",), tokenizer) == []


def test_a_list_is_tokenized_once() -> None:
    tokenizer: Any = Spaces()
    book = BadWordBook(tokenizer)
    first = book.of(("ab", "c"))
    assert book.of(("ab", "c")) is first
    assert len(tokenizer.texts) == 4
    for i in range(3 * CAPACITY):
        book.of((f"w{i}",))
        assert len(book._known) <= CAPACITY
    assert book.of(("ab", "c")) == first


@pytest.mark.parametrize("count", [MAX_SEQUENCES // 2, MAX_SEQUENCES // 2 + 1])
def test_too_many(count: int) -> None:
    tokenizer: Any = Spaces()
    words = tuple(string.ascii_letters[i % 52] + str(i) for i in range(count))
    if count * 2 <= MAX_SEQUENCES:
        assert len(token_sequences(words, tokenizer)) == 2 * count
        return
    with pytest.raises(RecordError, match="bad_words: more than 128 token sequences") as caught:
        token_sequences(words, tokenizer)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "bad_words")


def test_without_a_tokenizer() -> None:
    with pytest.raises(RecordError, match="bad_words need a tokenizer") as caught:
        BadWordBook(None).of(("a",))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "bad_words")


@pytest.mark.parametrize("word", ["hello", " world", "incredible", "été", "日本", "a b"])
def test_a_real_shape_of_tokenizer(word: str) -> None:
    """Byte-level BPE: the sequences spell the word, with and without a space."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o"), ("Ġ", "hello"), ("i", "n")]
    vocabulary = {t: i for i, t in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = Tokenizer(backend, {})
    found = token_sequences((word,), tokenizer)
    bare = word.strip()
    assert [tokenizer.decode(tokens, skip_special_tokens=False) for tokens in found] == [bare, f" {bare}"]
    if word == "hello":
        assert [len(tokens) for tokens in found] == [1, 1]
