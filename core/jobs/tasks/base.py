"""What all tasks have in common: Record -> Request, RequestOutput -> output row.

A record goes through the checks in one fixed order, so that a line with several mistakes always gets the same error:
line, id, whose line it is, fields we refuse, misspellings (`strict`), sampling parameters, prompt, length.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...beam_params import BeamSearchParams
from ...errors import RecordError
from ...outputs import CompletionOutput, RequestOutput
from ...params import SamplingParams
from ...text.batches import in_batches
from ...truncation import truncated
from ..jsonl import json_type
from ..record import Record
from . import constraint
from . import fields as known
from .defaults import Defaults
from .openai_batch import batch_line, body_of, is_batch
from .pending import Pending, contained, one_records_fault
from .rows import answer_row

if TYPE_CHECKING:
    from ...text.template import RecordTemplate
    from ...text.tokenizer import Tokenizer

log = logging.getLogger("infer.jobs")

#: More characters than this per token that fits is not a prompt that fits; saves tokenizing megabytes to find out.
_CHARS_PER_TOKEN = 256
#: Misspelled names that are told; after that the input is just strange.
_MAX_WARNINGS = 20


@dataclass(frozen=True)
class TaskOptions:
    """How a command reads and writes records, whatever the model.

    `beam`: what to search with, of which `defaults` is then a part.
    `max_tokens_given`: the user chose the default max_tokens, so outputs cut there are no surprise.
    `by_priority`: the engine looks at a record's `priority`.
    `literal_special_tokens`: text of a record that spells a special token is only text.
    `warn` shows the user a message. `fingerprint` (hex) and `model` are named in answers to OpenAI Batch lines.
    """

    defaults: SamplingParams = field(default_factory=SamplingParams)
    beam: BeamSearchParams | None = None
    max_tokens_given: bool = False
    by_priority: bool = False
    prompt_field: str | None = None
    template: RecordTemplate | None = None
    system: str | None = None
    literal_special_tokens: bool = False
    strict: bool = False
    report_cache: bool = False
    fingerprint: str = ""
    model: str = ""
    warn: Callable[[str], None] = log.warning

    def with_fingerprint(self, fingerprint: str) -> TaskOptions:
        """These options for a job whose fingerprint is known."""
        return replace(self, fingerprint=fingerprint)


class Task(ABC):
    """One command's view of records.

    Args:
        options: see `TaskOptions`.
        tokenizer: None where prompts can only be token ids.
        max_model_len: most tokens of a prompt that are worth tokenizing.
    """

    #: What `infer` calls this task.
    command: str
    #: Whether the tokenizer adds its special tokens (BOS) to this task's text, unless the record says.
    add_special_tokens = True

    def __init__(self, options: TaskOptions, tokenizer: Tokenizer | None, *, max_model_len: int) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self._defaults = Defaults(options.defaults, has_tokenizer=tokenizer is not None)
        self._max_chars = max(_CHARS_PER_TOKEN * max_model_len, 1 << 16)
        if options.literal_special_tokens and tokenizer is not None:
            tokenizer.literal  # noqa: B018 (a tokenizer that cannot do it is refused before anything is read)
        self.fields = self.own_fields()
        self._consumed = known.KNOWN | self.fields
        self._guessable = known.GUESSABLE | self.fields
        self._sampling = known.SAMPLING - constraint.FIELDS - self.fields
        self._warned: set[str] = set()

    # --- what a task says about itself

    @abstractmethod
    def own_fields(self) -> frozenset[str]:
        """Fields that are this task's and no sampling parameters."""

    @abstractmethod
    def check_ours(self, fields: Mapping[str, Any]) -> None:
        """Raises RecordError (unsupported, missing_field) for a line of another command, naming it."""

    @abstractmethod
    def prompt_of(self, fields: Mapping[str, Any]) -> str | list[int]:
        """The prompt, as text or token ids. Raises RecordError."""

    @abstractmethod
    def choice_text(self, choice: CompletionOutput, pending: Pending) -> dict[str, Any]:
        """The part of a choice that carries its text: {"text": …} or {"message": …}. May set the choice's finish_reason."""

    @abstractmethod
    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int) -> dict[str, Any]:
        """The `logprobs` object of a choice that has them."""

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The sampling parameters in a record, by our names or aliases. Raises RecordError."""
        return {n: v for n, v in fields.items() if n in self._sampling and not known.is_neutral(n, v)}

    def look_ahead(self, pending: Pending, fields: Mapping[str, Any]) -> None:  # noqa: B027 (most tasks want nothing)
        """What the task wants to know of a record when it writes its row goes into `pending.reply`. Raises RecordError.

        Called last, with the prompt as `prompt_of` gave it and the parameters, which may be changed here.
        """

    # --- in

    def prepare(self, records: Sequence[Record]) -> list[Pending]:
        """Each record with its prompt as token ids, or its error. Never raises for what a record holds."""
        pendings = [self._start(record) for record in records]
        texts = [p for p in pendings if p.error is None and isinstance(p.prompt, str)]
        for added in (True, False):
            for batch in in_batches((p for p in texts if p.add_special_tokens is added), lambda p: len(p.prompt or "")):
                self._tokenize(batch, add_special_tokens=added)
        for pending in pendings:
            if pending.params is not None and pending.params.truncate_prompt_tokens is not None and isinstance(pending.prompt, list):
                pending.prompt = truncated(pending.prompt, pending.params, self.max_model_len)
        return pendings

    def encode(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        """The token ids of each text."""
        assert self.tokenizer is not None
        if self.options.literal_special_tokens:
            return self.tokenizer.encode_literal(texts, add_special_tokens=add_special_tokens)
        return self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)

    def _start(self, record: Record) -> Pending:
        pending = Pending.of(record)
        with contained(pending):
            if record.error is not None:
                raise record.error
            fields = self._open(record, pending)
            self.check_ours(fields)
            known.refuse_unsupported(fields, self.fields)
            self._check_spelling(fields, pending)
            self._set_params(pending, fields)
            pending.prompt = self._checked_prompt(self.prompt_of(fields), pending)
            self.look_ahead(pending, fields)
        return pending

    def _open(self, record: Record, pending: Pending) -> dict[str, Any]:
        """The fields of the request on a line, native or of OpenAI Batch form. Raises RecordError."""
        fields = record.fields
        if not is_batch(fields, self.fields):
            pending.extra = {name: value for name, value in fields.items() if name not in self._consumed}
            pending.id = record.take_id()
            return fields
        options = self.options
        pending.batch = batch_line(record.index, command=self.command, fingerprint=options.fingerprint, model=options.model)
        pending.batch.custom_id = record.take_id("custom_id")
        for name in fields:
            if name in known.SAMPLING:
                self._complain(name, f"field {name!r} beside body has no effect; put it into body")
        return body_of(fields, self.command)

    def _set_params(self, pending: Pending, fields: Mapping[str, Any]) -> None:
        given = self.sampling_of(fields)
        says, wanted = constraint.constraint_of(fields)
        pending.params = self._defaults.with_fields(given, wanted, unconstrained=says and wanted is None)
        chosen = any(given.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        pending.default_max_tokens = not (chosen or self.options.max_tokens_given)
        pending.add_special_tokens = known.flag(fields, "add_special_tokens", self.add_special_tokens)
        pending.priority = known.priority_of(fields)
        if pending.priority and not self.options.by_priority:
            self._warn("priority", "priority has no effect without --scheduling-policy priority")

    def _check_spelling(self, fields: Mapping[str, Any], pending: Pending) -> None:
        fate = "only travels through to `extra`" if pending.batch is None else "is ignored"
        for name in fields:
            if name in self._consumed or len(name) >= 64:
                continue
            meant = known.intended(name, self._guessable)
            if meant is not None:
                hint = f"did you mean {meant!r}?"
                self._complain(name, f"field {name!r} is not a parameter and {fate}; {hint}", f"unknown field {name!r}; {hint}")

    def _complain(self, name: str, warning: str, refusal: str | None = None) -> None:
        """A field that is surely a mistake: an error of its record if `strict`, else told once."""
        if self.options.strict:
            raise RecordError("unknown_field", refusal or warning, param=name)
        self._warn(name, warning)

    def _warn(self, name: str, warning: str) -> None:
        if name not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(name)
            self.options.warn(warning)

    def _checked_prompt(self, prompt: str | list[int], pending: Pending) -> str | list[int]:
        if not prompt:
            raise RecordError("invalid_value", "the prompt is empty", param="prompt")
        if isinstance(prompt, list):
            return prompt
        if self.tokenizer is None:
            raise RecordError("unsupported", "without a tokenizer a prompt can only be prompt_token_ids", param="prompt")
        if len(prompt) <= self._max_chars:
            return prompt
        assert pending.params is not None
        if pending.params.truncate_prompt_tokens is None:
            raise RecordError("prompt_too_long", f"{len(prompt):,} characters are far more than fit max_model_len", param="prompt")
        # Where tokens are cut off anyway, those that far away cannot stay.
        return prompt[-self._max_chars :] if pending.params.truncation_side == "left" else prompt[: self._max_chars]

    def _tokenize(self, batch: list[Pending], *, add_special_tokens: bool) -> None:
        try:
            texts = [p.prompt for p in batch if isinstance(p.prompt, str)]
            for pending, ids in zip(batch, self.encode(texts, add_special_tokens=add_special_tokens), strict=True):
                pending.prompt = ids
        except BaseException as error:
            if not one_records_fault(error):
                raise
            for pending in batch:  # one by one, to find which it was
                with contained(pending):
                    if isinstance(pending.prompt, str):
                        (pending.prompt,) = self.encode([pending.prompt], add_special_tokens=add_special_tokens)

    # --- out

    def to_row(self, pending: Pending, output: RequestOutput) -> dict[str, Any]:
        """The output line of an answered record, before it is bytes. Raises RecordError (non_finite_logits)."""
        assert pending.params is not None
        choices = [self._choice(choice, pending, pending.params) for choice in output.outputs]
        return answer_row(pending, output, choices, self.token_text, report_cache=self.options.report_cache)

    def _choice(self, choice: CompletionOutput, pending: Pending, params: SamplingParams) -> dict[str, Any]:
        row: dict[str, Any] = {"index": choice.index, **self.choice_text(choice, pending)}
        row["finish_reason"] = choice.finish_reason
        if choice.stop_reason is not None:
            row["stop_reason"] = choice.stop_reason
        if choice.logprobs is not None and params.logprobs is not None:
            row["logprobs"] = self.choice_logprobs(choice, params.logprobs)
            row["cumulative_logprob"] = choice.cumulative_logprob
        if params.return_token_ids:
            row["token_ids"] = choice.token_ids
        return row

    def token_text(self, token_id: int, decoded: str | None) -> str:
        """What to call a token in `logprobs`."""
        if decoded is not None:
            return decoded
        return self.tokenizer.token_text(token_id) if self.tokenizer else ""

    def text_from_record(self, fields: Mapping[str, Any]) -> str | None:
        """The text `--template` or `--prompt-field` makes of a record; None where neither was given. Raises RecordError."""
        if self.options.template is not None:
            return self.options.template.render(dict(fields))
        name = self.options.prompt_field
        if name is None:
            return None
        value = fields[name]
        if not isinstance(value, str):
            raise RecordError("invalid_type", f"{name} must be a string, not {json_type(value)}", param=name)
        return value

    def check_column(self, fields: Mapping[str, Any]) -> bool:
        """Whether `--template` or `--prompt-field` decides where the prompt is. Raises RecordError if the column is not there."""
        name = self.options.prompt_field
        if self.options.template is None and name is not None and name not in fields:
            raise RecordError("missing_field", f"no field {name!r}, which --prompt-field names", param=name)
        return self.options.template is not None or name is not None
