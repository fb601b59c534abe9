"""Remarks, each made once, about prompts and parameters that do not mean what they seem to: their answers are not what was wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..types.params import SamplingParams

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Ends of text, beside letters and digits, after which a blank comes before a word.
_BEFORE_BLANKS = frozenset(".,:;?!=>")


class Remarks:
    """
    Args:
        tokenizer: of the prompts; without one there is nothing to say of them.
        tell: shows a message to the user.
        otherwise: how a text gets no special tokens from the tokenizer.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, tell: Callable[[str], None], *, otherwise: str = "give add_special_tokens: false"
    ) -> None:
        self._tokenizer = tokenizer
        self._tell = tell
        self._otherwise = otherwise
        self._told: set[str] = set()

    def of_ids(self, ids: Sequence[int]) -> None:
        """Of a text's tokens, those around it added by the tokenizer: a text that spells the first of them has it twice."""
        if len(ids) < 2 or ids[0] != ids[1] or self._tokenizer is None or ids[0] not in self._tokenizer.special_ids:
            return
        name = self._tokenizer.token_text(ids[0])
        self._once(
            "twice", f"a prompt begins with {name}, and the tokenizer puts another {name} before it: leave it out, or {self._otherwise}"
        )

    def of_cut(self, before: Sequence[int], after: Sequence[int]) -> None:
        """Of a prompt that was cut: the token that begins prompts may be gone."""
        if self._tokenizer is None or not before or not after or after[0] == before[0]:
            return
        if before[0] == self._tokenizer.bos_token_id or before[0] in self._opening:
            name = self._tokenizer.token_text(before[0])
            self._once("cut", f"truncation on the left cuts off {name}, with which prompts begin; on the right it would stay")

    def of_stops(self, params: SamplingParams) -> None:
        """Of stop strings that no text can have, since special tokens are left out of it."""
        if self._tokenizer is None or not params.stop or not params.skip_special_tokens:
            return
        for stop in params.stop:
            if found := self._special.search(stop):
                ids = [i for i in self._tokenizer.special_ids if self._tokenizer.token_text(i) == found.group()]
                what = "is" if found.group() == stop else f"holds {found.group()!r},"
                self._once(
                    "stop",
                    f"stop {stop!r} {what} a special token, which is left out of the text, and so never matches: "
                    f"give stop_token_ids: {ids}, or skip_special_tokens: false",
                )

    def of_choices(self, ids: Sequence[int], params: SamplingParams) -> None:
        """Of choices without a blank after a prompt without one, where the model would write one: none of them is a likely spelling."""
        wanted = params.structured_outputs
        if wanted is None or not wanted.choice or self._tokenizer is None or not ids:
            return
        words = all(choice[0].isascii() and choice[0].isalnum() for choice in wanted.choice)
        last = self._tokenizer.token_text(ids[-1])[-1:]
        if words and (last.isalnum() or last in _BEFORE_BLANKS):
            shown = f" {wanted.choice[0]}"
            self._once(
                "choices",
                f"a prompt ends without a blank and no choice begins with one, while a word mostly begins with its blank: choice {shown!r} "
                "(and the others so) may be what the model would rather write; infer classify --label counts both spellings",
            )

    def of_ignored(self, names: Iterable[str]) -> None:
        """Of variables that a chat template does not look at."""
        for name in names:
            self._once(f"ignored {name}", f"{name} has no effect: the model's chat template does not use it")

    def _once(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._tell(message)

    @cached_property
    def _opening(self) -> Sequence[int]:
        """The token that the tokenizer puts before a text; of an empty text nothing else is left."""
        assert self._tokenizer is not None
        return self._tokenizer.encode("")[:1]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        assert self._tokenizer is not None
        texts = {self._tokenizer.token_text(i) for i in self._tokenizer.special_ids}
        return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True) if text) or "(?!)")
