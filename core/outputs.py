"""What an engine gives back. The field names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import RecordError


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token at one position. `rank` 1 is the most likely token of the vocabulary."""

    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One choice of one request.

    `token_ids` is whole, the ending EOS or stop token included; `text` is cut before the stop.
    `logprobs` has one dict a token, token id -> Logprob, most likely first; the drawn token is always in it.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass(slots=True)
class RequestOutput:
    """The finished answer to one request, or its error. Choices are in order of their index."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True
    error: RecordError | None = None
    num_cached_tokens: int = 0
