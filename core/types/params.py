"""Sampling parameters of a request: plain data with its validation.

Knows nothing of engines or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from ..errors import RecordError, nearest
from .bounds import Bounds, Checked, bounded, is_finite
from .repetition import RepetitionDetectionParams
from .structured import GuidedDecodingParams, StructuredOutputsParams

#: Below this a temperature means greedy decoding (as in vLLM).
GREEDY_EPSILON = 1e-5
#: Temperatures between GREEDY_EPSILON and this are raised to it: smaller ones overflow the softmax.
MIN_TEMPERATURE = 1e-2

#: Other spellings of our fields.
ALIASES = {"max_completion_tokens": "max_tokens"}

#: Known to OpenAI's or vLLM's API and no part of ours: refused by name, never ignored.
NOT_SUPPORTED_YET = frozenset(
    {
        "flat_logprobs",
        "suffix",
        "top_logprobs",
        "use_beam_search",
        "watermarking",
    }
)

#: A number of tokens that fills the context. A record says it with this word: its null keeps the command's default.
AUTO = "auto"

#: Biases are cut to this in either direction, as in OpenAI's API.
MAX_BIAS = 100.0
#: Most of `logprob_token_ids`, as in vLLM.
MAX_LOGPROB_TOKEN_IDS = 128
#: A token id that is text has fewer digits.
_ID_DIGITS = 100


class RequestOutputKind(Enum):
    """Parts of an output that a stream gives. Ours gives finished ones, so all three mean FINAL_ONLY, as in vLLM's `LLM`."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams(Checked):
    """Parameters of one record's draws, and of the end of its output. Names and meanings are vLLM's.

    Order of processing per token: `logits_processors`; structured output and `allowed_token_ids`, `bad_words`, `min_tokens`;
    `logit_bias`; repetition, then frequency and presence penalty; temperature, min_p, top_k, top_p; then one draw. min_p comes
    before top-k/p as in today's vLLM, so it always looks at the whole distribution. Reported logprobs are of the raw
    distribution, before any of these, unless the engine's `logprobs_mode` is processed_logprobs.

    Fields may be set after construction, as in vLLM; who adds a request checks them again and keeps a copy.
    """

    n: int = bounded(Bounds("int", 1, 16384), default=1)
    """Outputs per prompt; greedy decoding allows one."""
    best_of: int | None = bounded(Bounds("int", 1, 16384, none=True), default=None)
    """Compute so many outputs and return the `n` with the highest cumulative log-probability, best first; None is n."""
    presence_penalty: float = bounded(Bounds("float", -2, 2), default=0.0)
    """Subtracted from the logit of every token already in the output."""
    frequency_penalty: float = bounded(Bounds("float", -2, 2), default=0.0)
    """Subtracted from a token's logit once per occurrence in the output."""
    repetition_penalty: float = bounded(Bounds("float", 0, None, open_low=True), default=1.0)
    """Divides positive and multiplies negative logits of tokens in the prompt or output."""
    temperature: float = bounded(Bounds("float", 0, None), default=1.0)
    """Divides the logits; 0 is greedy."""
    top_p: float = bounded(Bounds("float", 0, 1, open_low=True), default=1.0)
    """Keep the most likely tokens whose probabilities reach this sum; ties at the border are kept."""
    top_k: int = bounded(Bounds("int", -1, None), default=-1)
    """Keep the k most likely tokens (ties are kept); 0 or -1 keeps all."""
    min_p: float = bounded(Bounds("float", 0, 1), default=0.0)
    """Drop tokens less likely than this fraction of the most likely one."""
    seed: int | None = bounded(Bounds("int", -1, 2**63 - 1, none=True), default=None)
    """Makes the record's draws independent of its place in the input; choice i draws as seed + i. -1 means none."""
    stop: tuple[str, ...] = ()
    """The output ends before the first of these strings."""
    stop_token_ids: tuple[int, ...] = ()
    """The output ends after any of these tokens."""
    bad_words: tuple[str, ...] = ()
    """Texts that are not produced: their last token is forbidden where the output ends with those before it. Each is meant with
    and without a leading space."""
    include_stop_str_in_output: bool = False
    """Keep the stop string (or stop token's text) at the end of the text."""
    ignore_eos: bool = False
    """Do not end at the end-of-sequence token(s)."""
    max_tokens: int | None = bounded(Bounds("int", 1, None, none=True), default=16)
    """Most output tokens; None (or "auto", which becomes it) is as many as `max_model_len` leaves."""
    min_tokens: int = bounded(Bounds("int", 0, None), default=0)
    """End-of-sequence and stop tokens cannot be drawn, and stop strings do not act, before this many tokens."""
    repetition_detection: RepetitionDetectionParams | None = None
    """End the output where it goes round in circles, once it has `min_tokens`."""
    thinking_token_budget: int | None = bounded(Bounds("int", -1, None, none=True), default=None)
    """Most tokens of reasoning: after so many the text that ends it is written, whatever the model would say. None or -1: no limit. The
    engine's `reasoning_config` says how the model marks its reasoning. An output with a constraint has none."""
    logprobs: int | None = bounded(Bounds("int", -1, None, none=True), default=None)
    """Report the log-probabilities of this many most likely tokens, and of the drawn one, at every position; -1: of all tokens."""
    prompt_logprobs: int | None = bounded(Bounds("int", -1, None, none=True), default=None)
    """As `logprobs`, for the tokens of the prompt; its first has none. The prefix cache is not read for them."""
    prompt_logprob_start: int = bounded(Bounds("int", 0, None), default=0)
    """With `prompt_logprobs`: the place of the first prompt token after which they are reported. The tokens up to it have none (None),
    and may come from the prefix cache."""
    logprob_token_ids: tuple[int, ...] | None = None
    """Report the log-probabilities of these tokens too, and of the drawn one, at every position; at most 128."""
    detokenize: bool = True
    """Make text of the tokens."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    spaces_between_special_tokens: bool = True
    """Spaces around special tokens in the text, where a slow tokenizer writes them at all."""
    logits_processors: tuple[Callable[..., Any], ...] = ()
    """Python functions (output ids, logits [vocabulary] float32) -> logits, or with the prompt ids in front; not from files."""
    truncate_prompt_tokens: int | None = bounded(Bounds("int", -1, None, none=True), default=None)
    """Most prompt tokens, the rest is cut off; -1: as many as leave room for one output token."""
    truncation_side: str = field(default="left", metadata={"choices": ("left", "right")})
    """The end of the prompt that `truncate_prompt_tokens` cuts off."""
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """See RequestOutputKind."""
    structured_outputs: StructuredOutputsParams | None = None
    """The constraint on the output's text."""
    guided_decoding: GuidedDecodingParams | None = None
    """vLLM's former name of `structured_outputs`, which it becomes."""
    logit_bias: dict[int, float] | None = None
    """Token id -> what is added to its logit, cut to +-100."""
    allowed_token_ids: tuple[int, ...] | None = None
    """No other tokens are drawn."""
    skip_reading_prefix_cache: bool = False
    """Compute the whole prompt even if the prefix cache has a part of it."""
    return_token_ids: bool = False
    """Write the token ids of prompt and output beside the text."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = (self.stop,)
        for name in ("stop", "stop_token_ids", "bad_words", "logits_processors"):
            value = getattr(self, name)
            if value is None:
                setattr(self, name, ())
            elif isinstance(value, list):
                setattr(self, name, tuple(value))
        for name in ("allowed_token_ids", "logprob_token_ids"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))
        for name in ("seed", "thinking_token_budget"):
            if getattr(self, name) == -1:
                setattr(self, name, None)
        if self.repetition_detection is not None:
            self.repetition_detection = RepetitionDetectionParams.of(self.repetition_detection)
        if isinstance(self.max_tokens, str) and self.max_tokens == AUTO:
            self.max_tokens = None
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is True:
                setattr(self, name, 1)
            elif getattr(self, name) is False:
                setattr(self, name, None)
        if self.logit_bias is not None:
            self.logit_bias = _biases(self.logit_bias) or None
        self._set_structured()
        self.validate()

    def _set_structured(self) -> None:
        if self.guided_decoding is not None:
            if self.structured_outputs is not None:
                raise RecordError("invalid_value", "guided_decoding and structured_outputs are the same: give one", param="guided_decoding")
            self.structured_outputs, self.guided_decoding = StructuredOutputsParams.of(self.guided_decoding), None
        elif self.structured_outputs is not None:
            self.structured_outputs = StructuredOutputsParams.of(self.structured_outputs)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_EPSILON

    @property
    def reports_logprobs(self) -> bool:
        """True if log-probabilities of output tokens are reported."""
        return self.logprobs is not None or self.logprob_token_ids is not None

    @property
    def num_choices(self) -> int:
        """Outputs to compute; `n` of them are returned."""
        return self.n if self.best_of is None else self.best_of

    def validate(self) -> None:
        """Raises RecordError (invalid_type, invalid_value) naming the field."""
        self.check_fields()
        for name, kind, what in (
            ("stop", str, "strings"),
            ("stop_token_ids", int, "token ids"),
            ("bad_words", str, "strings"),
            ("allowed_token_ids", int, "token ids"),
            ("logprob_token_ids", int, "token ids"),
        ):
            value = getattr(self, name)
            if value is None and name in ("allowed_token_ids", "logprob_token_ids"):
                continue
            value = _plain_list(name, value, kind, what)
            setattr(self, name, value)
            if kind is str and not all(value):
                raise _invalid(name, f"a {'stop string' if name == 'stop' else 'bad word'} cannot be empty")
            if kind is int and any(t < 0 for t in value):
                raise _invalid(name, "token ids cannot be negative")
        if self.allowed_token_ids == ():
            raise _invalid("allowed_token_ids", "is empty: no token could be drawn")
        if self.logprob_token_ids is not None and not 0 < len(self.logprob_token_ids) <= MAX_LOGPROB_TOKEN_IDS:
            raise _invalid("logprob_token_ids", f"must be 1 to {MAX_LOGPROB_TOKEN_IDS} token ids, not {len(self.logprob_token_ids)}")
        if not isinstance(self.logits_processors, tuple) or not all(callable(p) for p in self.logits_processors):
            raise _wrong_type("logits_processors", "a list of functions", self.logits_processors)
        if not isinstance(self.output_kind, RequestOutputKind):
            raise _wrong_type("output_kind", "a RequestOutputKind", self.output_kind)
        self._check_together()

    def _check_together(self) -> None:
        if self.stop and not self.detokenize:
            raise _invalid("stop", "stop strings need detokenize=true")
        if self.truncate_prompt_tokens == 0:
            raise _invalid("truncate_prompt_tokens", "must be at least 1, or -1, not 0")
        if self.best_of is not None and self.best_of < self.n:
            raise _invalid("best_of", f"{self.best_of} is below n {self.n}")
        if self.greedy and self.num_choices > 1:
            name = "n" if self.n > 1 else "best_of"
            raise _invalid(name, f"greedy decoding (temperature 0) gives one output, not {self.num_choices}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RecordError("invalid_value", f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}", param="min_tokens")

    def override(self, values: Mapping[str, Any]) -> SamplingParams:
        """These parameters with `values` (a record's own fields, our names or aliases) on top.

        A null keeps the default for that field, as OpenAI clients send nulls; `max_tokens` too.
        Raises RecordError for values that are wrong, contradict each other or are not supported yet.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name in NOT_SUPPORTED_YET:
                if value is not None:
                    raise RecordError("unsupported", f"{name} is not supported yet", param=name)
                continue
            own = ALIASES.get(name, name)
            if own not in self.field_names():
                raise RecordError("unknown_field", f"unknown sampling parameter {name!r}{nearest(name, self.field_names())}", param=name)
            if own in ("logits_processors", "output_kind") and value not in (None, []):
                raise RecordError("unsupported", f"{name} can only be given in Python", param=name)
            if value is not None:
                changes[own] = value
        if "structured_outputs" in changes or "guided_decoding" in changes:
            changes.setdefault("structured_outputs", None)  # a record's constraint takes the place of the default one
        return replace(self, **changes) if changes else self


def scoring_params(**more: Any) -> SamplingParams:
    """Parameters of a request whose continuations are given: nothing is drawn that anyone reads.

    Args:
        more: how its prompt is cut. Raises RecordError.
    """
    return SamplingParams(temperature=0.0, max_tokens=1, logprobs=0, detokenize=False, **more)


def _plain_list(name: str, value: Any, kind: type, what: str) -> tuple[Any, ...]:
    """`value` with each of its items a plain str or int, not of a class derived from it."""
    if not isinstance(value, tuple):
        raise _wrong_type(name, f"a list of {what}", value)
    for v in value:
        if not isinstance(v, kind) or isinstance(v, bool):
            raise RecordError("invalid_type", f"{name} must be a list of {what}; one is {type(v).__name__}", param=name)
    return tuple(map(str.__str__ if kind is str else int.__int__, value))


def _biases(value: Any) -> dict[int, float]:
    """JSON has its keys as text."""
    if not isinstance(value, Mapping):
        raise _wrong_type("logit_bias", "an object of token ids and numbers", value)
    result = {}
    for key, bias in value.items():
        if not _is_token_id(key):
            raise _invalid("logit_bias", f"{key!r} is not a token id")
        if isinstance(bias, bool) or not isinstance(bias, (int, float)):
            raise _wrong_type("logit_bias", "an object of token ids and numbers", bias)
        if not is_finite(bias):
            raise _invalid("logit_bias", f"the bias of token {key} is not finite")
        result[int(key)] = min(MAX_BIAS, max(-MAX_BIAS, float(bias)))
    if any(token < 0 for token in result):
        raise _invalid("logit_bias", "token ids cannot be negative")
    return result


def _is_token_id(key: Any) -> bool:
    if isinstance(key, str):
        return len(key) < _ID_DIGITS and key.isascii() and key.isdigit()
    return isinstance(key, int) and not isinstance(key, bool)


def _invalid(name: str, message: str) -> RecordError:
    colon = "" if message.startswith(("must ", "is ")) or message[0].isdigit() else ":"
    return RecordError("invalid_value", f"{name}{colon} {message}", param=name)


def _wrong_type(name: str, wanted: str, value: Any) -> RecordError:
    return RecordError("invalid_type", f"{name} must be {wanted}, not {type(value).__name__}", param=name)
