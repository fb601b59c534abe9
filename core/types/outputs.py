"""Outputs of an engine. The field names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import RecordError
from .adapters import LoRARequest


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token at one position. `rank` 1 is the most likely token of the vocabulary."""

    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass(slots=True)
class RequestMetrics:
    """Times of a request (seconds of `time.monotonic`), and how long it waited and was computed.

    Times depend on the machine and the schedule, so no output line holds them.
    """

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float = 0.0
    time_in_queue: float | None = None
    finished_time: float | None = None
    scheduler_time: float | None = None
    """Spent in scheduling and bookkeeping in the steps that it was part of."""
    model_forward_time: float | None = None
    """Spent in the model in those steps; they are shared with other requests."""
    model_execute_time: float | None = None
    """`model_forward_time` and the time of sampling."""


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
    lora_request: LoRARequest | None = None
    score: float | None = None
    """Of a beam: what the search ranks by, see `BeamSearchParams`."""

    def finished(self) -> bool:
        """True if it has ended (as in vLLM, a method)."""
        return self.finish_reason is not None


@dataclass(slots=True)
class BeamSearchSequence:
    """One finished beam. `tokens` and `text` hold the prompt too, as in vLLM."""

    tokens: list[int]
    logprobs: list[dict[int, Logprob]]
    """One entry an output token, if they were asked for."""
    cum_logprob: float
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    score: float | None = None
    """The value that the search ranks by, see `BeamSearchParams`."""
    lora_request: LoRARequest | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The finished beams of one prompt, best first; or its error."""

    sequences: list[BeamSearchSequence]
    error: RecordError | None = None

    @classmethod
    def of(cls, output: RequestOutput, prompt: str) -> BeamSearchOutput:
        """This output in the form of a beam search; `prompt` is the text before each output's."""
        ids = output.prompt_token_ids
        return cls(
            [
                BeamSearchSequence(
                    [*ids, *o.token_ids],
                    o.logprobs or [],
                    o.cumulative_logprob or 0.0,
                    prompt + o.text,
                    o.finish_reason,
                    o.stop_reason,
                    o.score,
                    o.lora_request,
                )
                for o in output.outputs
            ],
            output.error,
        )


@dataclass(slots=True)
class RequestOutput:
    """The finished answer to one request, or its error. Choices are in order of their index.

    `prompt_logprobs` has one entry a prompt token, like `CompletionOutput.logprobs`; the first is None, and so is that of each virtual
    token (see prompt_embeds.py), whose id in `prompt_token_ids` is 0.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True
    error: RecordError | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    metrics: RequestMetrics | None = None
    lora_request: LoRARequest | None = None
    encoder_prompt: str | None = None
    encoder_prompt_token_ids: list[int] | None = None
    num_virtual_tokens: int = 0
    """Tokens at the beginning of the prompt that are none: a prompt adapter's or embeddings."""

    @property
    def num_prompt_tokens(self) -> int:
        """Those of the encoder's input, if there is one, and of the prompt."""
        return len(self.encoder_prompt_token_ids or ()) + len(self.prompt_token_ids)

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens of the prompt without virtual ones."""
        return self.prompt_token_ids[self.num_virtual_tokens :]
