"""The base of tasks that have the model write: a prompt and sampling parameters in, choices out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import RecordError
from ...intake.prompts import PromptIntake
from ...intake.remarks import Remarks
from ...media.placing import PromptMedia
from ...media.sound_prompts import SoundPrompts
from ...text.decoder_prompts import DecoderPrompts
from ...text.spelling import Spelling
from ...types.beam_params import BeamSearchParams
from ...types.media import MediaPart
from ...types.outputs import CompletionOutput, RequestOutput
from ...types.params import AUTO, SamplingParams
from ...types.prompt_embeds import PromptEmbeds
from ..tally import Tally
from . import constraint
from . import fields as known
from .base import RecordOptions, Task
from .defaults import Defaults
from .pending import PendingPrompt
from .rows import answer_of, written

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

#: Fields that say how media are taken, and those of a native line that hold them.
MEDIA_OPTIONS = frozenset({"mm_processor_kwargs"})
MEDIA_FIELDS = frozenset({"image", "images"})


@dataclass(frozen=True)
class CompletionOptions(RecordOptions):
    """The options of tasks that have the model write.

    `beam`: what to search with, of which `defaults` is then a part.
    `max_tokens_given`: the user chose the default max_tokens, so outputs cut there are no surprise; `max_tokens_known`: the user or the
    model's own files did.
    `decoder`: of a model with an encoder. `hearing`: of one that reads sound. `target_language`: that both write in where a record
    names none.
    `by_priority`: the engine looks at a record's `priority`.
    """

    defaults: SamplingParams = field(default_factory=SamplingParams)
    beam: BeamSearchParams | None = None
    max_tokens_given: bool = False
    max_tokens_known: bool = False
    by_priority: bool = False
    system: str | None = None
    report_cache: bool = False
    decoder: DecoderPrompts | None = None
    hearing: SoundPrompts | None = None
    target_language: str | None = None


class CompletionTask(Task[PendingPrompt]):
    """See `Task`."""

    keeps = PendingPrompt
    known_fields = known.KNOWN
    guessable_fields = known.GUESSABLE
    parameters = known.SAMPLING
    options: CompletionOptions
    intake: PromptIntake
    #: Whether the tokenizer adds its special tokens (BOS) to this task's text, unless the record says.
    add_special_tokens = True

    def __init__(self, options: CompletionOptions, tokenizer: Tokenizer | None, *, max_model_len: int) -> None:
        self._defaults = Defaults(options.defaults, has_tokenizer=tokenizer is not None)
        super().__init__(options, tokenizer, max_model_len=max_model_len)
        self._sampling = known.SAMPLING - constraint.FIELDS - self.fields
        self._refusable = frozenset(known.NEUTRAL) - known.SAMPLING - self.fields

    # --- what a task says about itself

    @abstractmethod
    def prompt_of(self, fields: Mapping[str, Any]) -> str | list[int]:
        """The prompt, as text or token ids. Raises RecordError."""

    def embeds_of(self, fields: Mapping[str, Any]) -> PromptEmbeds | None:
        """Embeddings that a record brings in the place of a prompt. Raises RecordError."""
        return None

    def media_of(self, fields: Mapping[str, Any]) -> Sequence[MediaPart]:
        """The media that a record names. Raises RecordError."""
        return ()

    @abstractmethod
    def choice_text(self, choice: CompletionOutput, pending: PendingPrompt, prompt_ids: Sequence[int]) -> dict[str, Any]:
        """The part of a choice that carries its text: {"text": …} or {"message": …}. May set the choice's finish_reason."""

    @abstractmethod
    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int, spelling: Spelling) -> dict[str, Any]:
        """The `logprobs` object of a choice that has them."""

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The sampling parameters in a record, by our names or aliases. Raises RecordError."""
        return {
            n: v
            for n, v in fields.items()
            if n in self._sampling and v is not None and (n not in known.NEUTRAL or not known.is_neutral(n, v))
        }

    def look_ahead(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        """Puts into `pending.reply` what the task needs to know of a record when it writes its row. Raises RecordError.

        Called last, with the prompt as `prompt_of` gave it and the parameters, which may be changed here.
        """

    # --- in

    def make_intake(self, remarks: Remarks) -> PromptIntake:
        options = self.options
        more: dict[str, Any] = {"literal": options.literal_special_tokens, "placing": options.placing, "decoder": options.decoder}
        more["hearing"] = options.hearing
        return PromptIntake(self.tokenizer, self.max_model_len, remarks, **more)

    def check_ours(self, fields: Mapping[str, Any]) -> None:
        if fields.get("beam_width") is not None and "beam_width" not in self.fields:
            raise RecordError("unsupported", "a line with beam_width belongs to infer beam", param="beam_width")
        super().check_ours(fields)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        if not self._refusable.isdisjoint(fields):
            known.refuse_unsupported(fields, self._refusable)

    def read(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        self._set_params(pending, fields)
        if (adapter := self._chooser.prompt_adapter_of(fields)) is not None:
            name, pending.embeds = adapter
            pending.adapters += (name,)
        own = self.embeds_of(fields)
        if own is not None:
            pending.embeds = own if pending.embeds is None else pending.embeds.before(own)
        pending.prompt = self.prompt_of(fields) if own is None else []
        self.put_media(pending, fields)
        if not pending.prompt and own is None and self.options.hearing is None:
            raise RecordError("invalid_value", "the prompt is empty", param="prompt")
        self.look_ahead(pending, fields)

    def put_media(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        """Sets the media of a record. Raises RecordError."""
        if self.options.placing is None and self.options.hearing is None:
            return
        pending.media = PromptMedia.of(self.media_of(fields), fields.get("mm_processor_kwargs"))
        self.waits |= pending.media is not None
        if pending.media is not None and isinstance(pending.prompt, list) and pending.prompt and not isinstance(pending.prompt[0], int):
            raise RecordError("unsupported", "media go with one prompt a line, not with a list of them", param="prompt")

    def _set_params(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        given = self.sampling_of(fields)
        chosen = any(given.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        fills = not chosen and self.fills_context(pending)
        if fills:
            given["max_tokens"] = AUTO
        says, wanted = (False, None) if constraint.FIELDS.isdisjoint(fields) else constraint.constraint_of(fields)
        pending.params = self._defaults.with_fields(given, wanted, unconstrained=says and wanted is None)
        pending.default_max_tokens = not (chosen or fills or self.options.max_tokens_given)
        self._set_common(pending, fields)
        if pending.priority and not self.options.by_priority:
            self.warn("priority", "priority has no effect without --scheduling-policy priority")

    def fills_context(self, pending: PendingPrompt) -> bool:
        """True if the output of a record that names no max_tokens ends only where the context is full."""
        return False

    def _set_common(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        """Sets the fields that any record may have."""
        pending.add_special_tokens = self.add_special_tokens
        if not known.COMMON.isdisjoint(fields):
            pending.add_special_tokens = known.flag(fields, "add_special_tokens", self.add_special_tokens)
            pending.priority = known.priority_of(fields)

    # --- out

    def tally(self, pending: PendingPrompt, output: RequestOutput) -> Tally:
        return Tally.of_answer(pending.size, output, default_max_tokens=pending.default_max_tokens)

    def to_row(self, pending: PendingPrompt, output: RequestOutput) -> dict[str, Any]:
        return written(pending, self.answer_of(pending, output))

    def answer_of(self, pending: PendingPrompt, output: RequestOutput) -> dict[str, Any]:
        """The part of a row that is the answer: choices, usage, and what was asked about the prompt."""
        assert pending.params is not None
        choices = [self._choice(choice, pending, pending.params, output.prompt_ids) for choice in output.outputs]
        return answer_of(pending, output, choices, self.token_name, report_cache=self.options.report_cache)

    def empty_answer(self) -> dict[str, Any]:
        choice = {"index": 0, **self.empty_choice(), "finish_reason": "error"}
        return {"choices": [choice], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}

    def empty_choice(self) -> dict[str, Any]:
        """The result of `choice_text` for a choice without text."""
        return {"text": ""}

    def _choice(
        self, choice: CompletionOutput, pending: PendingPrompt, params: SamplingParams, prompt_ids: Sequence[int]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"index": choice.index, **self.choice_text(choice, pending, prompt_ids)}
        row["finish_reason"] = choice.finish_reason
        if choice.stop_reason is not None:
            row["stop_reason"] = choice.stop_reason
        if choice.logprobs is not None and params.reports_logprobs:
            # Those of given tokens are told whatever the number of the likeliest is.
            number = -1 if params.logprobs is None or params.logprob_token_ids else params.logprobs
            row["logprobs"] = self.choice_logprobs(choice, number, self.spelling(choice, params, prompt_ids))
            row["cumulative_logprob"] = choice.cumulative_logprob
        if params.return_token_ids:
            row["token_ids"] = choice.token_ids
        return row

    def spelling(self, choice: CompletionOutput, params: SamplingParams, prompt_ids: Sequence[int]) -> Spelling:
        """The tokens of a choice where they stand."""
        return Spelling(
            self.tokenizer,
            prompt_ids,
            choice.token_ids,
            text=choice.text if params.detokenize else None,
            ended=choice.finish_reason == "stop" and not isinstance(choice.stop_reason, str),
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )

    def token_name(self, token_id: int, decoded: str | None) -> str:
        """The name of a token of the prompt in `prompt_logprobs`."""
        if decoded is not None:
            return decoded
        return self.tokenizer.token_name(token_id) if self.tokenizer else ""
