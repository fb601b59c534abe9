"""The base of all tasks: Record -> Pending -> what the engine is asked, and the engine's answer -> output row.

A record goes through the checks in one fixed order, so that a line with several mistakes always gets the same error:
line, id, whose line it is, fields we refuse, misspellings (`strict`), parameters, prompt, length.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ...containment import own_error
from ...errors import RecordError, nearest
from ...intake.intake import Intake
from ...intake.remarks import Remarks
from ..jsonl import wrong_type
from ..recent import Recent
from ..record import Record
from ..row_format import FlatRows, JsonRows, RowFormat
from ..tally import Tally
from . import fields as known
from . import refused
from .adapters.chooser import Chooser
from .adapters.declared import Adapters
from .openai_batch import batch_line, body_of, is_batch
from .pending import Pending

if TYPE_CHECKING:
    from ...media.placing import Placing
    from ...pooling.images import ImageReader
    from ...text.templates.template import RecordTemplate
    from ...text.tokenizer import Tokenizer

log = logging.getLogger("infer.jobs")

#: Misspelled names that are told; after that the input is just strange.
_MAX_WARNINGS = 20
#: Names of fields that are this long are data, and not told of.
_LONGEST_NAME = 64
#: Fields that a message names, those with most text first.
_SHOWN = 5

P = TypeVar("P", bound=Pending)


@dataclass(frozen=True)
class RecordOptions:
    """The options of a command about reading and writing records, whatever the model and whatever it does with them.

    `literal_special_tokens`: text of a record that spells a special token is only text.
    `error_format`: how rows tell of errors, "object" or "flat", see `row_format`.
    `batch_only`: all lines are OpenAI Batch lines, whatever else is on them.
    `warn` shows the user a message. `fingerprint` (hex) and `model` are named in answers to OpenAI Batch lines. `now` is the time
    that templates tell, the same for all records of a job; None: that of each rendering. `adapters` are those that records may name, and
    `chooser` chooses among them for one model; None: there are none. `placing` puts media into prompts of a model that takes some.
    `images` reads those of a model that makes vectors of them.
    """

    prompt_field: str | None = None
    template: RecordTemplate | None = None
    literal_special_tokens: bool = False
    error_format: str = "object"
    strict: bool = False
    batch_only: bool = False
    fingerprint: str = ""
    model: str = ""
    now: datetime | None = None
    adapters: Adapters = field(default_factory=Adapters)
    chooser: Chooser | None = None
    placing: Placing | None = None
    images: ImageReader | None = None
    warn: Callable[[str], None] = log.warning

    @property
    def has_column(self) -> bool:
        """True if a template or --prompt-field says where the prompt is."""
        return self.template is not None or self.prompt_field is not None


class Task(ABC, Generic[P]):
    """One command's view of records. `P` is what it keeps of one until its row is written.

    Args:
        options: see `RecordOptions`.
        tokenizer: None where prompts can only be token ids.
        max_model_len: most tokens of a prompt that are worth tokenizing.
    """

    #: What `infer` calls this task.
    command: str
    #: How answers and errors become the bytes of rows.
    rows: RowFormat = JsonRows()
    #: See `AnyTask`: true once a record has brought media.
    waits: bool = False
    #: The kind of Pending it keeps.
    keeps: type[P]
    #: Fields that hold what is read, where neither a template nor --prompt-field says otherwise.
    columns: tuple[str, ...]
    #: Field -> the command whose lines have it.
    owners: ClassVar[Mapping[str, str]] = {
        "messages": "chat",
        "prompt": "generate",
        "prompt_token_ids": "generate",
        "input": "embed",
        "documents": "score",
        "queries": "score",
        "text_1": "score",
        "data_1": "score",
    }
    #: Fields that any record may have, and those that a misspelled one may have meant.
    known_fields: frozenset[str]
    guessable_fields: frozenset[str]
    #: Parameters of the tasks that write, which mean nothing to this one.
    of_writing: ClassVar[frozenset[str]] = frozenset()
    #: Fields that are parameters: beside the body of an OpenAI Batch line they are surely a mistake.
    parameters: frozenset[str]

    def __init__(self, options: RecordOptions, tokenizer: Tokenizer | None, *, max_model_len: int) -> None:
        if options.template is not None and options.now is not None:
            options = replace(options, template=options.template.at(options.now))
        self.options = options
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        if options.literal_special_tokens and tokenizer is not None:
            tokenizer.literal  # noqa: B018 (a tokenizer that cannot do it is refused before anything is read)
        self.fields = self.own_fields()
        self._consumed = self.known_fields | self.fields
        self._guessable = self.guessable_fields | self.fields
        self._warned: set[str] = set()
        if options.error_format == "flat":
            self.rows = FlatRows(self.empty_answer())
        self._ids = Recent()
        self._chooser = options.chooser or Chooser(Adapters())
        self.intake = self.make_intake(Remarks(tokenizer, options.warn))

    def speak_as(self, first: Task[Any]) -> None:
        """Tells of records what it tells as one with another task: once for both, and of ids that both have seen."""
        self._warned, self._ids = first._warned, first._ids

    # --- what a task says about itself

    def own_fields(self) -> frozenset[str]:
        """Fields that are this task's beside those that any record may have."""
        if self.options.template is not None:
            return frozenset()
        return frozenset(self.columns if self.options.prompt_field is None else {self.options.prompt_field})

    @abstractmethod
    def make_intake(self, remarks: Remarks) -> Intake[Any]:
        """The intake that tokenizes the prompts of records."""

    @abstractmethod
    def missing(self, fields: Mapping[str, Any]) -> str:
        """The words for a line that has none of the columns."""

    def check_ours(self, fields: Mapping[str, Any]) -> None:
        """Raises RecordError (unsupported, missing_field) for a line of another command, naming it."""
        if self.check_column(fields) or any(fields.get(name) is not None for name in self.columns):
            return
        for name, command in self.owners.items():
            if name in fields and name not in self.fields:
                hint = f" (or give --prompt-field {name})" if name in ("prompt", "input") and self.command != "score" else ""
                raise RecordError("unsupported", f"a line with {name} belongs to infer {command}{hint}", param=name)
        said = self.missing(fields)
        hint = "" if said.endswith(")") else self._instead(fields)  # one hint is enough
        raise RecordError("missing_field", said + hint, param=self.columns[0])

    def _instead(self, fields: Mapping[str, Any]) -> str:
        """ "; …" for a line that has none of the columns: the field that is one misspelled, or those that --prompt-field may name."""
        for name in fields:
            if len(name) < _LONGEST_NAME and name not in self.columns and (meant := nearest(name, self.columns)):
                return f"{meant} (the record has {name!r})"
        texts = {name: len(value) for name, value in fields.items() if isinstance(value, str) and name not in self.known_fields}
        names = [name for name in sorted(texts, key=texts.__getitem__, reverse=True) if len(name) < _LONGEST_NAME][:_SHOWN]
        if not names or self.options.batch_only or self.command == "score":
            return ""
        return f"; --prompt-field takes it from another field: {', '.join(names)}"

    @abstractmethod
    def refuse(self, fields: Mapping[str, Any]) -> None:
        """Raises RecordError (unsupported) for a known field that cannot be honoured."""

    @abstractmethod
    def read(self, pending: P, fields: Mapping[str, Any]) -> None:
        """Parameters and prompt of a record, the prompt as text where it is that. Raises RecordError."""

    @abstractmethod
    def to_row(self, pending: P, output: Any) -> dict[str, Any]:
        """The output line of an answered record, before it is bytes. Raises RecordError (non_finite_logits)."""

    @abstractmethod
    def tally(self, pending: P, output: Any) -> Tally:
        """The counts of an answered record."""

    @abstractmethod
    def empty_answer(self) -> dict[str, Any]:
        """The stand-in for an answer in a failed row, where all rows are to have one shape."""

    # --- in

    def prepare(self, records: Sequence[Record]) -> list[P]:
        """Each record with its prompt as token ids, or its error. Never raises for what a record holds."""
        pendings = [self._start(record) for record in records]
        self.read_prompts(pendings)
        return pendings

    def read_prompts(self, pendings: Sequence[P]) -> None:
        """Turns the prompts of records into token ids. What is wrong with one becomes its error."""
        self.intake.read(pendings)

    def _start(self, record: Record) -> P:
        pending = self.keeps.of(record)
        try:  # as `contained` does, at a third of its price
            if record.error is not None:
                raise record.error
            fields = self._open(record, pending)
            others = pending.extra if pending.batch is None else self._others(fields)
            self.check_ours(fields)
            self.refuse(fields)
            if others:
                refused.refuse(others, self.command, columns=self.options.has_column)
                self._check_spelling(others, pending)
            self._choose(pending, fields)
            self.read(pending, fields)
        except BaseException as error:
            pending.error = own_error(error, pending.called)
        return pending

    def _choose(self, pending: P, fields: Mapping[str, Any]) -> None:
        """Chooses the adapters of a record. Raises RecordError."""
        if not self.options.has_column and (stranger := self._chooser.stranger(fields)) is not None:
            self._tell_of(stranger)
        pending.lora = self._chooser.lora_of(fields)
        if pending.lora is not None:
            pending.adapters = (pending.lora.lora_name,)
        if pending.batch is not None and (adapter := self._chooser.model_of(fields)) is not None:
            pending.batch.model = adapter

    def _tell_of(self, stranger: str) -> None:
        """Of a record's model that is not here: once, and of each where the name may be an adapter's; then an error if `strict`."""
        own, shown = self.options.model, stranger[:100]
        if not self._chooser.names:
            self.warn("model", f"a record names model {shown!r}; {own} answers all of them, whatever model they name")
            return
        told = f"model {shown!r} is neither {own} nor an adapter{nearest(shown, self._chooser.names)}"
        if self.options.strict:
            raise RecordError("invalid_value", told, param="model")
        default = f" with {self._chooser.default!r}" if self._chooser.default else ""
        self.warn(f"model {stranger}", f"{told}; {own}{default} answers such records")

    def _open(self, record: Record, pending: P) -> dict[str, Any]:
        """The fields of the request on a line, native or of OpenAI Batch form. Raises RecordError."""
        fields = record.fields
        if not self.options.batch_only and ("url" not in fields or not is_batch(fields, self.fields)):
            pending.extra = self._others(fields)
            if fields.get("id") is not None:
                pending.id = record.take_id()
                self._note_id("id", pending.id, record)
            return fields
        options = self.options
        pending.batch = batch_line(
            record.index, command=self.command, fingerprint=options.fingerprint, model=options.model, url=fields.get("url")
        )
        pending.batch.custom_id = record.take_id("custom_id")
        self._note_id("custom_id", pending.batch.custom_id, record)
        for name in fields:
            if name in self.parameters:
                self.complain(name, f"field {name!r} beside body has no effect; put it into body")
        return body_of(fields, self.command)

    def is_extra(self, name: str) -> bool:
        """True for a field that the task does not know, so that it comes back."""
        return name not in self._consumed

    def _others(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that the task does not know."""
        return {name: value for name, value in fields.items() if name not in self._consumed}

    def _note_id(self, name: str, value: str | int | None, record: Record) -> None:
        """Tells once of an id that an earlier record has too."""
        if value is not None and self._ids.add(repr(value)):
            where = f"{record.source} line {record.line}" if record.source else f"line {record.line}"
            message = f"{where} has the {name} of an earlier one, {str(value)[:100]!r}: only their order tells such answers apart"
            self.warn(f"repeated {name}", message)

    def _check_spelling(self, others: Mapping[str, Any], pending: P) -> None:
        """Of fields that the task does not know."""
        for name, value in others.items():
            if len(name) >= _LONGEST_NAME:
                continue
            if name in self.of_writing:
                if value is not None:
                    nothing = f"is a parameter of infer generate, means nothing to infer {self.command}"
                    self.complain(name, f"field {name!r} {nothing}, and {self.fate(pending)}")
            elif (hint := self._hint(name, value)) is not None:
                message = f"field {name!r} is not a parameter and {self.fate(pending)}; {hint}"
                self.complain(name, message, f"unknown field {name!r}; {hint}")

    def _hint(self, name: str, value: Any) -> str | None:
        """The meaning that an unknown field was surely to have; None: it is a column like any other."""
        if (meant := known.intended(name, self._guessable)) is not None:
            return f"did you mean {meant!r}?"
        if self.options.has_column:
            return None
        return known.place_of(name, value, constrains="structured_outputs" in self._guessable)

    def fate(self, pending: P) -> str:
        """The fate of a field that is not a parameter, for messages."""
        return "only travels through to `extra`" if pending.batch is None else "is ignored"

    def complain(self, name: str, warning: str, refusal: str | None = None) -> None:
        """A field that is surely a mistake: an error of its record if `strict`, else told once."""
        if self.options.strict:
            raise RecordError("unknown_field", refusal or warning, param=name)
        self.warn(name, warning)

    def warn(self, name: str, warning: str) -> None:
        """Tells the user of a field, once however many records have it."""
        if name not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(name)
            self.options.warn(warning)

    def text_from_record(self, fields: Mapping[str, Any]) -> str | None:
        """The text `--template` or `--prompt-field` makes of a record; None where neither was given. Raises RecordError."""
        if self.options.template is not None:
            return self.options.template.render(dict(fields))
        name = self.options.prompt_field
        if name is None:
            return None
        value = fields[name]
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        return value

    def check_column(self, fields: Mapping[str, Any]) -> bool:
        """True if `--template` or `--prompt-field` decides where the prompt is. Raises RecordError if the column is not there."""
        name = self.options.prompt_field
        if self.options.template is None and name is not None and name not in fields:
            raise RecordError("missing_field", f"no field {name!r}, which --prompt-field names", param=name)
        return self.options.has_column
