"""Prompts become token ids: special tokens, truncation, and what cannot be read."""

from __future__ import annotations

from typing import Any

from infer.core.api.drafts import Written
from infer.core.intake.prompts import PromptIntake
from infer.core.intake.remarks import Remarks
from infer.core.types.params import SamplingParams

PARAMS = SamplingParams()
QUIET = Remarks(None, lambda message: None)


def plain(prompt: Any, params: SamplingParams = PARAMS) -> Written:
    one = Written.of(prompt, params)
    one.add_special_tokens = False
    return one


def test_special_tokens_and_truncation(byte_tokenizer: Any) -> None:
    cut = SamplingParams(truncate_prompt_tokens=2)
    full = SamplingParams(truncate_prompt_tokens=-1, truncation_side="right")
    drafts = [
        Written.of("ab", PARAMS),
        plain("ab"),
        Written.of("abcd", cut),
        Written.of("abcdefgh", full),
        Written.of([1, 2, 3], cut),
        Written.of({"prompt": "shown", "prompt_token_ids": [1]}, PARAMS),
    ]
    PromptIntake(byte_tokenizer, 6, QUIET).read(drafts)
    assert [one.prompt for one in drafts] == [[256, 97, 98], [97, 98], [99, 100], [256, 97, 98, 99, 100], [2, 3], [1]]
    assert drafts[5].shown == "shown"


def test_each_is_to_blame_for_itself_whatever_it_is_tokenized_with() -> None:
    class Refusing:
        def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
            if "bad" in texts:
                raise ValueError(f"not this: {texts}")
            return [[int(add_special_tokens), len(text)] for text in texts]

    drafts = [Written.of("a", PARAMS), plain("bb"), plain("bad"), Written.of("ccc", PARAMS), Written.of("bad", PARAMS)]
    PromptIntake(Refusing(), 64, QUIET).read(drafts)  # type: ignore[arg-type]
    assert [one.prompt for one in drafts] == [[1, 1], [0, 2], "bad", [1, 3], "bad"]
    assert [one.error and one.error.code for one in drafts] == [None, None, "internal", None, "internal"]


def test_without_a_tokenizer() -> None:
    drafts = [Written.of([1], PARAMS), Written.of("a", PARAMS), Written.of({"prompt": "shown", "prompt_token_ids": [1]}, PARAMS)]
    PromptIntake(None, 6, QUIET).read(drafts)
    assert [one.error and (one.error.code, one.error.param) for one in drafts] == [None, ("unsupported", "prompt"), None]


def test_text_that_cannot_fit_is_not_tokenized(byte_tokenizer: Any) -> None:
    long = "x" * (1 << 16) + "y"
    drafts = [
        Written.of(long, PARAMS),
        *(Written.of(long, SamplingParams(truncate_prompt_tokens=2, truncation_side=s)) for s in ("left", "right")),
    ]
    PromptIntake(byte_tokenizer, 6, QUIET).read(drafts)
    assert [one.error and one.error.code for one in drafts] == ["prompt_too_long", None, None]
    assert [one.prompt for one in drafts[1:]] == [[120, 121], [256, 120]]
