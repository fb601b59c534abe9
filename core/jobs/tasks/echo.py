"""`echo` of OpenAI's completions API: the prompt stands before each output, and has log-probabilities where those are asked for.

With `max_tokens: 0` nothing is generated, so that a given text is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...text.spelling import Spelling, offsets_of
from ...types.outputs import Logprob
from ...types.params import SamplingParams
from .fields import flag
from .rows import finite

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

_LENGTHS = ("max_tokens", "max_completion_tokens")

Entry = dict[int, Logprob] | None


@dataclass(slots=True)
class Echo:
    """The prompt of a record that stands before its outputs.

    Args:
        text: as it was given; None: it was token ids, or may have been cut, and is written as the tokens that are left.
        only: nothing is generated.
        shows_prompt_logprobs: the record asked for them by name, beside those of `echo`.
    """

    text: str | None
    only: bool
    shows_prompt_logprobs: bool
    entries: Sequence[Entry] | None = None
    """Of the prompt's tokens, when they are computed."""

    @classmethod
    def wanted(cls, fields: Mapping[str, Any]) -> bool:
        """True if a record asks for it. Raises RecordError."""
        return flag(fields, "echo", False)

    @staticmethod
    def is_only(given: Mapping[str, Any]) -> bool:
        """True if a record that asks for it wants no output."""
        return any(type(given.get(name)) is int and given[name] == 0 for name in _LENGTHS)

    def params(self, params: SamplingParams) -> SamplingParams:
        """The parameters of such a record: log-probabilities of outputs are those of the prompt too."""
        if params.prompt_logprobs is None and params.logprobs is not None:
            params = replace(params, prompt_logprobs=params.logprobs)
        return only_scores(params) if self.only else params

    def put_before(self, row: dict[str, Any], tokenizer: Tokenizer | None, ids: Sequence[int], *, skip_special_tokens: bool) -> None:
        """Puts the prompt before the text and the log-probabilities in the row of an output.

        Args:
            ids: of the prompt.
        """
        text = self.text
        if text is None:
            text = "" if tokenizer is None else tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        row["text"] = text + row["text"]
        if "logprobs" not in row:
            return
        after = row["logprobs"]
        after["text_offset"] = [len(text) + offset for offset in after["text_offset"]]
        before = prompt_logprobs(text, tokenizer, ids, self.entries or [None] * len(ids))
        row["logprobs"] = {name: [*values, *after[name]] for name, values in before.items()}
        if self.only:
            row["cumulative_logprob"] = sum(value for value in before["token_logprobs"] if value is not None)


def only_scores(params: SamplingParams) -> SamplingParams:
    """Parameters under which a prompt is computed and nothing is made of what comes next: what is about outputs is left out."""
    return replace(
        params,
        n=1,
        best_of=None,
        temperature=0.0,
        max_tokens=1,
        min_tokens=0,
        stop=(),
        bad_words=(),
        structured_outputs=None,
        logit_bias=None,
        allowed_token_ids=None,
        logits_processors=(),
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
    )


def prompt_logprobs(text: str, tokenizer: Tokenizer | None, ids: Sequence[int], entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """The tokens of a prompt with this text in OpenAI's completions shape."""
    spelling = Spelling(tokenizer, (), ids, skip_special_tokens=False)
    rows: list[dict[int, Logprob]] = [one or {} for one in entries]
    names = [spelling.names(place, dict.fromkeys([token, *row])) for place, (token, row) in enumerate(zip(ids, rows, strict=True))]
    return {
        "tokens": [named[token] for named, token in zip(names, ids, strict=True)],
        "token_logprobs": [finite(row[token].logprob) if row else None for token, row in zip(ids, rows, strict=True)],
        "top_logprobs": [
            {named[i]: finite(entry.logprob) for i, entry in row.items()} if row else None for named, row in zip(names, rows, strict=True)
        ],
        "text_offset": offsets_of(_found(spelling.pieces, text.encode("utf-8", "replace")), b""),
    }


def _found(pieces: Sequence[bytes], data: bytes) -> list[bytes]:
    """The pieces as they are in a text: special tokens that a tokenizer put around it, and what it spells in another way, are not."""
    place, found = 0, []
    for piece in pieces:
        here = piece if data.startswith(piece, place) else piece.lstrip(b" ")
        if not data.startswith(here, place):
            here = b""
        place += len(here)
        found.append(here)
    return found
