"""Beginnings of outputs, for models with an encoder: a record's prompt is the encoder's input, and its decoder begins with tokens that the
model's files name.

What comes first is `decoder_start_token_id`, then what transformers forces to come next (`forced_bos_token_id`); the language to write in
takes the place of the latter, or of the former where that is a language itself (mBART). Forced tokens are part of the prompt here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RecordError, nearest

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


@dataclass(frozen=True)
class DecoderPrompts:
    """
    Args:
        start: the decoder's first token; None: the model's files name none.
        forced: the one that must follow, if there is one.
        languages: tokens by the names of languages, of a model that has some.
        language: to write in where a record names none.
        no_repeat_ngram_size, forced_end: rules about what it writes, see sampling/model_rules.py.
    """

    tokenizer: Tokenizer | None
    start: int | None
    forced: int | None
    languages: dict[str, int]
    language: str | None = None
    no_repeat_ngram_size: int = 0
    forced_end: int | None = None

    def begin(self, given: Any, language: Any = None) -> list[int]:
        """The decoder's prompt. Raises RecordError.

        Args:
            given: `decoder_prompt`: text or token ids that follow the first tokens, which they may begin with themselves; None: nothing.
            language: `target_language`.
        """
        if self.start is None and not isinstance(given, list):
            message = "the model's files name no decoder_start_token_id; give decoder_prompt as token ids"
            raise RecordError("missing_field", message, param="decoder_prompt")
        language = self.language if language is None else language
        first = [] if self.start is None else [self.start]
        if language is not None:
            token = self.language_token(language, "target_language")
            first = [token] if self.start in self.languages.values() else [*first, token]
        elif self.forced is not None and given is None:
            first.append(self.forced)
        return first if given is None else self._followed(first, given)

    def _followed(self, first: list[int], given: Any) -> list[int]:
        if isinstance(given, str):
            if self.tokenizer is None:
                message = "without a tokenizer (skip_tokenizer_init) decoder_prompt is token ids"
                raise RecordError("unsupported", message, param="decoder_prompt")
            given = self.tokenizer.encode(given, add_special_tokens=False)
        if not isinstance(given, list) or not all(type(token) is int for token in given):
            raise RecordError("invalid_type", "decoder_prompt must be a string or a list of token ids", param="decoder_prompt")
        return given if not first or given[: len(first)] == first or given[:1] == first[:1] else [*first, *given]

    def read_in(self, ids: Sequence[int], language: Any) -> list[int]:
        """An encoder's input with the token of `source_language` in the place of the language that the tokenizer has named. Raises
        RecordError."""
        token = self.language_token(language, "source_language")
        known = frozenset(self.languages.values())
        places = [place for place in (0, len(ids) - 1) if ids and ids[place] in known]
        if not places:
            return [token, *ids]
        return [token if place == places[0] else one for place, one in enumerate(ids)]

    def language_token(self, language: Any, param: str) -> int:
        """The token of a language by its name. Raises RecordError."""
        if not isinstance(language, str):
            raise RecordError("invalid_type", f"{param} must be a string", param=param)
        if not self.languages:
            raise RecordError("unsupported", f"{param}: the model's tokenizer has no tokens of languages", param=param)
        if language not in self.languages:
            known = sorted(self.languages)
            some = ", ".join(known[:6])
            message = f"{param} {language!r} is not one of the model's {len(known)} languages, such as {some}{nearest(language, known)}"
            raise RecordError("invalid_value", message, param=param)
        return self.languages[language]
