"""Budgets of thinking: where an output stands in its reasoning, and what is forced when the budget is spent."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ConfigError
from infer.core.sampling.thinking import Thinking, ThinkingPlace
from infer.core.text.reasoning import PARSERS

QWEN = {"reasoning_parser": "qwen3"}
BORDER = [256]


def say(tokenizer: Any, config: dict[str, str], budget: int, prompt: str | list[int], told: str, *, most: int = 200) -> str:
    """The output of a model that would say `told` one byte after another, whatever else is forced."""
    marks = Thinking.of(config, tokenizer)
    assert marks is not None
    ids = tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else prompt
    place, tokens, left = ThinkingPlace(marks, budget, ids), list(ids), list(told.encode())
    while left and len(tokens) < len(ids) + most:
        due = place.due(tokens)
        tokens.append(left[0] if due is None else due)
        if tokens[-1] == left[0]:
            left.pop(0)
    return bytes(tokens[len(ids) :]).decode()


@pytest.mark.parametrize(
    ("prompt", "told", "expected"),
    [
        ("Q<think>", "abcdefgh", "abcd</think>efgh"),  # begun by the prompt
        ("Q<think>\n", "abcdefgh", "abc</think>defgh"),  # whose tokens count
        ("Q", "<think>abcdefgh", "<think>abcd</think>efgh"),  # by the output
        ("Q", "no <think>abcdefgh", "no <think>abcd</think>efgh"),
        ("Q", "abcdefgh", "abcdefgh"),  # not at all
        ("Q<think>\n\n</think>\n", "abcdefgh", "abcdefgh"),  # begun and ended
        ("Q<think>12345", "abcdefgh", "</think>abcdefgh"),  # and spent
        ("Q<think>", "abc</think>defgh", "abc</think>defgh"),  # ends by itself, just in time: its mark is begun within the budget
        ("Q<think>", "a</think>defgh", "a</think>defgh"),
        ("Q<think>", "a</think>b<think>cdefgh", "a</think>b<think>cdef</think>gh"),  # a second time
        ("Q<think>a</think>b<think>cd", "abcdefgh", "ab</think>cdefgh"),  # the prompt's last
        ("Q<think>a<think>bc", "abcdefgh", "ab</think>cdefgh"),
        ("Q<think>", "a<think>bcdefgh", "a<th</think>bcdefgh"),  # said inside it begins nothing
        ("Q<think>", "ab</thefgh", "ab</think>efgh"),  # what was begun of the mark is gone on with
    ],
)
def test_the_end_comes_after_the_budget(byte_tokenizer: Any, prompt: str, told: str, expected: str) -> None:
    assert say(byte_tokenizer, QWEN, 4, prompt, told) == expected


def test_a_budget_of_nothing(byte_tokenizer: Any) -> None:
    assert say(byte_tokenizer, QWEN, 0, "Q<think>", "abc") == "</think>abc"
    assert say(byte_tokenizer, QWEN, 0, "Q", "<think>abc") == "<think></think>abc"


def test_what_another_message_says_begins_nothing(byte_tokenizer: Any) -> None:
    asked = byte_tokenizer.encode("what is <think>?", add_special_tokens=False)
    assert say(byte_tokenizer, QWEN, 2, asked + BORDER, "abcdef") == "abcdef"
    assert say(byte_tokenizer, QWEN, 2, asked + BORDER + list(b"<think>"), "abcdef") == "ab</think>cdef"
    assert say(byte_tokenizer, {"reasoning_parser": "deepseek_r1"}, 2, asked + BORDER, "abcdef") == "ab</think>cdef"


def test_a_model_that_always_reasons(byte_tokenizer: Any) -> None:
    always = {"reasoning_parser": "deepseek_r1"}
    assert say(byte_tokenizer, always, 3, "Q", "abcdef") == "abc</think>def"
    assert say(byte_tokenizer, always, 8, "Q", "<think>0123456789") == "<think>01234567</think>89"  # what begins it does not count
    assert say(byte_tokenizer, always, 8, "Q", "a<think>0123456789") == "a<think></think>0123456789"  # later it does
    assert say(byte_tokenizer, always, 3, "Q</think>", "abcdef") == "abcdef"


def test_own_marks_and_a_phrase_before_the_end(byte_tokenizer: Any) -> None:
    own = {"reasoning_start_str": "[[", "reasoning_end_str": "]]"}
    assert say(byte_tokenizer, own, 2, "Q", "[[abcdef") == "[[ab]]cdef"
    assert say(byte_tokenizer, own, 2, "Q", "[[a]]bcdef") == "[[a]]bcdef"
    phrase = {"reasoning_parser": "qwen3", "reasoning_end_str": " Enough.</think>\n"}
    assert say(byte_tokenizer, phrase, 2, "Q<think>", "abcdef") == "ab Enough.</think>\ncdef"
    assert say(byte_tokenizer, phrase, 20, "Q<think>", "ab</think>cdefghijklmnopqrstuvwxyz") == "ab</think>cdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_each_parser_splits_what_was_cut(byte_tokenizer: Any, name: str) -> None:
    """Of any model's output the reasoning has as many tokens as the budget, and the rest is the answer."""
    parser = PARSERS[name]
    begun = min((start for start in (parser.start, *parser.also[0]) if parser.start.startswith(start)), key=len)
    budget = len(parser.start) - len(begun) + 5
    got = say(byte_tokenizer, {"reasoning_parser": name}, budget, "Q", parser.start + "0123456789")
    assert got == parser.start + "01234" + parser.end + "56789"
    assert parser.split(got) == ("01234", "56789")


def test_marks_that_are_none(byte_tokenizer: Any) -> None:
    assert Thinking.of({}, byte_tokenizer) is None
    assert Thinking.of(QWEN, None) is None
    with pytest.raises(ConfigError, match="qwen3"):
        Thinking.of({"reasoning_parser": "qwen"}, byte_tokenizer)
    with pytest.raises(ConfigError, match="reasoning_start_str"):
        Thinking.of({"reasoning_end_str": "x"}, byte_tokenizer)


def test_a_place_taken_up_late_is_the_same(byte_tokenizer: Any) -> None:
    """What is due depends on the tokens, not on how often was asked."""
    marks = Thinking.of(QWEN, byte_tokenizer)
    assert marks is not None
    tokens = byte_tokenizer.encode("Q<think>abc", add_special_tokens=False)
    asked = ThinkingPlace(marks, 3, tokens[:1])
    for end in range(1, len(tokens)):
        assert asked.due(tokens[:end]) is None
    assert asked.due(tokens) == ThinkingPlace(marks, 3, tokens[:1]).due(tokens) == ThinkingPlace(marks, 3, tokens).due(tokens) == ord("<")
