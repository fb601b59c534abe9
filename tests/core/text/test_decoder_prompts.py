"""What decoders begin with: the start token, what is forced behind it, languages, and what a record gives itself."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.text.decoder_prompts import DecoderPrompts

from ...conftest import ByteTokenizer

LANGUAGES = {"en_XX": 300, "fr_XX": 301}


def prompts(start: int | None = 2, forced: int | None = None, languages: dict[str, int] | None = None) -> DecoderPrompts:
    tokenizer: Any = ByteTokenizer()
    return DecoderPrompts(tokenizer, start, forced, LANGUAGES if languages is None else languages)


def test_the_start_and_what_is_forced_come_first() -> None:
    assert prompts().begin(None) == [2]
    assert prompts(forced=0).begin(None) == [2, 0]
    assert prompts(forced=0).begin([9]) == [2, 9], "what is given is in the place of what is forced"
    assert prompts().begin([2, 9]) == [2, 9]
    assert prompts(start=None).begin([5]) == [5]
    assert prompts().begin("ab")[0] == 2
    assert len(prompts().begin("ab")) == 3
    with pytest.raises(RecordError, match="name no decoder_start_token_id"):
        prompts(start=None).begin(None)
    for wrong in (5, [True], ["a"], {}):
        with pytest.raises(RecordError, match="decoder_prompt must be a string or a list of token ids"):
            prompts().begin(wrong)


def test_a_language_follows_the_start_or_is_it() -> None:
    assert prompts(forced=300).begin(None, "fr_XX") == [2, 301]
    assert prompts(start=300).begin(None, "fr_XX") == [301], "mBART's decoder begins with the language"
    assert prompts().begin([9], "fr_XX") == [2, 301, 9]
    with pytest.raises(RecordError, match=r"'fr_X' is not one of the model's 2 languages, such as en_XX, fr_XX"):
        prompts().begin(None, "fr_X")
    with pytest.raises(RecordError, match="target_language must be a string"):
        prompts().begin(None, 5)
    with pytest.raises(RecordError, match="no tokens of languages"):
        prompts(languages={}).begin(None, "fr")


def test_the_language_of_an_input_takes_the_place_of_the_tokenizers() -> None:
    assert prompts().read_in([300, 7, 2], "fr_XX") == [301, 7, 2], "NLLB"
    assert prompts().read_in([7, 2, 300], "fr_XX") == [7, 2, 301], "mBART"
    assert prompts().read_in([7, 2], "fr_XX") == [301, 7, 2]
