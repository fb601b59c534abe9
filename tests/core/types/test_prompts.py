"""The forms of a prompt in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.types.prompts import Parsed, TextPrompt, TokensPrompt, as_prompts


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [
        ("hello", "hello", None),
        ("", "", None),
        ([1, 2], None, [1, 2]),
        ((1, 2), None, [1, 2]),
        (np.array([1, 2]), None, [1, 2]),
        ([], None, []),
        ({"prompt": "hello"}, "hello", None),
        ({"prompt_token_ids": [1]}, None, [1]),
        ({"prompt_token_ids": [1], "prompt": "shown"}, "shown", [1]),
        ({"prompt": "hello", "multi_modal_data": None, "mm_processor_kwargs": {}}, "hello", None),
        (TextPrompt(prompt="hello"), "hello", None),
        (TokensPrompt(prompt_token_ids=[1]), None, [1]),
    ],
)
def test_forms(prompt: Any, text: str | None, ids: list[int] | None) -> None:
    assert Parsed.of(prompt) == Parsed(text, ids)


def test_ids_are_copied_and_plain_integers() -> None:
    given = [1, 2]
    parsed = Parsed.of(given)
    given.append(3)
    assert parsed.ids == [1, 2]
    (one,) = Parsed.of(np.array([7])).ids or ()
    assert type(one) is int


@pytest.mark.parametrize(
    ("prompt", "code", "param", "message"),
    [
        (5, "invalid_type", "prompt", "a prompt is a str, .* not int"),
        (None, "invalid_type", "prompt", "not NoneType"),
        (b"hello", "invalid_type", "prompt", "not bytes"),
        ([1, "a"], "invalid_type", "prompt", "not a list with str"),
        ([True], "invalid_type", "prompt", "not a list with bool"),
        ([1.0], "invalid_type", "prompt", "not a list with float"),
        ([[1, 2]], "invalid_type", "prompt", "not a list with list"),
        ({"prompt": 5}, "invalid_type", "prompt", "not int"),
        ({"prompt_token_ids": "abc"}, "invalid_type", "prompt_token_ids", "not str"),
        ({"prompt_token_ids": None}, "missing_field", "prompt", "a prompt is"),
        ({}, "missing_field", "prompt", "a prompt is"),
        ({"promt": "hello"}, "invalid_value", "prompt", "no 'promt'; did you mean 'prompt'"),
        ({"prompt_embeds": object(), "multi_modal_data": {"image": 1}}, "unsupported", "prompt_embeds", "media go with text"),
        ({"prompt": "x", "cache_salt": "s"}, "unsupported", "cache_salt", "not supported yet"),
        ({"prompt_embeds": object()}, "invalid_type", "prompt_embeds", "must be a tensor or a numpy array, not object"),
        ({"prompt_token_ids": [1], "prompt_embeds": object()}, "invalid_value", "prompt_embeds", "not both"),
    ],
)
def test_what_is_no_prompt(prompt: Any, code: str, param: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        Parsed.of(prompt)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("prompts", "legacy", "many"),
    [
        ("hello", None, ["hello"]),
        (["a", "b"], None, ["a", "b"]),
        ([1, 2], None, [[1, 2]]),
        ([[1, 2], [3]], None, [[1, 2], [3]]),
        (("a", [1]), None, ["a", [1]]),
        ({"prompt": "a"}, None, [{"prompt": "a"}]),
        ([{"prompt": "a"}, "b"], None, [{"prompt": "a"}, "b"]),
        ([], None, []),
        ((p for p in "ab"), None, ["a", "b"]),
        (None, [1, 2], [{"prompt_token_ids": [1, 2]}]),
        (None, [[1, 2], [3]], [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}]),
        (["a", "b"], [[1], [2]], ["a", "b"]),
        ("a", [1], ["a"]),
    ],
)
def test_one_or_many(prompts: Any, legacy: Any, many: list[Any]) -> None:
    assert as_prompts(prompts, legacy) == many


@pytest.mark.parametrize(
    ("prompts", "legacy", "message"),
    [
        (None, None, "either prompts or prompt_token_ids"),
        (["a", "b"], [[1]], "2 prompts and 1 prompt_token_ids"),
        (5, None, "not int"),
        (b"x", None, "not bytes"),
    ],
)
def test_what_are_no_prompts(prompts: Any, legacy: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_prompts(prompts, legacy)
