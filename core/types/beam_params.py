"""Beam search parameters. Names and meanings are vLLM's; what vLLM leaves open is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import RecordError, nearest
from .bounds import Bounds, Checked, bounded
from .params import SamplingParams
from .structured import StructuredOutputsParams

#: Most beams: what a search keeps per step grows with the square of it.
MAX_WIDTH = 64
#: Furthest from 0 that a length penalty may be: a length of 31 bits to this power, and a sum of log-probabilities by it, is a float.
MAX_PENALTY = 30
SCORINGS = ("vllm", "hf")
#: Other spellings of our fields.
ALIASES = {"width": "beam_width", "num_beams": "beam_width", "max_completion_tokens": "max_tokens", "num_return_sequences": "num_return"}
#: Fields that mean what they mean in SamplingParams, and are checked there.
OF_TOKENS = (
    "ignore_eos",
    "temperature",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "bad_words",
    "logit_bias",
    "allowed_token_ids",
    "structured_outputs",
    "logprobs",
    "truncate_prompt_tokens",
    "truncation_side",
    "return_token_ids",
)


@dataclass
class BeamSearchParams(Checked):
    """Parameters of the search for a prompt's best outputs. Raises RecordError (invalid_type, invalid_value) naming the field.

    A beam's cumulative log-probability is the sum, over its output tokens, of the log-softmax of the logits in float32 after
    masks, biases, penalties and temperature; at 0, the default, the temperature changes nothing. Its score is that sum divided by
    length ** length_penalty. Ties go to the beam that was ahead before, then to the lower token id.
    """

    beam_width: int = bounded(Bounds("int", 1, MAX_WIDTH))
    """Beams kept at each step; at most 64."""
    max_tokens: int = bounded(Bounds("int", 1))
    """Most output tokens. A beam also ends, with "length", where `max_model_len` does."""
    ignore_eos: bool = False
    """Do not end a beam at the end-of-sequence token."""
    temperature: float = 0.0
    """Divides the logits; 0 leaves them as they are."""
    length_penalty: float = bounded(Bounds("float", -MAX_PENALTY, MAX_PENALTY), default=1.0)
    """Above 0 favours long outputs, below 0 short ones; 0 ranks by the sum alone."""
    include_stop_str_in_output: bool = False
    """Keep the stop string (or stop token's text) at the end of the text."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    early_stopping: bool | str = False
    """True: stop as soon as `beam_width` beams are finished. False: with scoring "hf", stop when the best live beam, at its present
    length, is no better than the worst finished one (transformers' rule, which may miss one); with "vllm" stop when that is certain.
    "never": with "hf" too, only when it is certain."""
    scoring: str = field(default="vllm", metadata={"choices": SCORINGS})
    """The measure of length. "vllm": prompt and output, without the token that ended it; all endings among the 2 * beam_width likeliest
    tokens of a beam are kept, and beams that run out of tokens compete with them. "hf": the output, the ending included; only the
    best beam_width candidates of a step may finish."""
    num_return: int | None = bounded(Bounds("int", 1, none=True), default=None)
    """Outputs to return, best first; at most beam_width, which None means."""
    stop: tuple[str, ...] = ()
    """A beam ends before the first of these strings. Its tokens are whole, and all of them count in the score."""
    stop_token_ids: tuple[int, ...] = ()
    """A beam ends after any of these tokens."""
    min_tokens: int = 0
    """Beams do not end before they have so many tokens."""
    presence_penalty: float = 0.0
    """As in SamplingParams, of each beam's own tokens; it changes the log-probabilities that are summed."""
    frequency_penalty: float = 0.0
    """Likewise."""
    repetition_penalty: float = 1.0
    """Likewise. (transformers applies it to log-probabilities and does not normalize again.)"""
    bad_words: tuple[str, ...] = ()
    """As in SamplingParams."""
    logit_bias: dict[int, float] | None = None
    """As in SamplingParams."""
    allowed_token_ids: tuple[int, ...] | None = None
    """As in SamplingParams."""
    structured_outputs: StructuredOutputsParams | None = None
    """As in SamplingParams, for every beam by itself."""
    logprobs: int | None = None
    """Report the log-probabilities of this many most likely tokens at each position, and of the token taken: of the distribution
    that the search sums."""
    truncate_prompt_tokens: int | None = None
    """As in SamplingParams."""
    truncation_side: str = "left"
    """As in SamplingParams."""
    return_token_ids: bool = False
    """Write the token ids of prompt and output beside the text."""

    def __post_init__(self) -> None:
        self.check_fields()
        if self.num_return is not None and self.num_return > self.beam_width:
            raise _invalid("num_return", f"must be at most beam_width {self.beam_width}, not {self.num_return}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise _invalid("early_stopping", f'must be true, false or "never", not {self.early_stopping!r}')
        same = self.sampling()
        for name in OF_TOKENS:
            setattr(self, name, getattr(same, name))

    def sampling(self) -> SamplingParams:
        """Sampling parameters with what it says of tokens and endings. Raises RecordError."""
        return SamplingParams(max_tokens=self.max_tokens, **{name: getattr(self, name) for name in OF_TOKENS})

    def override(self, values: Mapping[str, Any]) -> BeamSearchParams:
        """These parameters with a record's own fields, by our names or aliases, on top. A null keeps the default.

        Raises RecordError for unknown names and for values that are wrong or contradict each other.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            own = ALIASES.get(name, name)
            if own not in self.field_names():
                raise RecordError("unknown_field", f"unknown beam search parameter {name!r}{nearest(name, self.field_names())}", param=name)
            if value is not None:
                changes[own] = value
        return replace(self, **changes) if changes else self


def _invalid(name: str, message: str) -> RecordError:
    return RecordError("invalid_value", f"{name} {message}", param=name)
