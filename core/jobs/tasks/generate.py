"""`infer generate`: text or token ids in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import RecordError
from ...intake.embeds import decoded
from ...intake.prompts import of_encoders
from ...text.spelling import Spelling
from ...types.media import MediaPart
from ...types.media_parts import of_data, of_fields
from ...types.outputs import CompletionOutput, RequestOutput
from ...types.params import SamplingParams
from ...types.prompt_embeds import PromptEmbeds
from ...types.prompts import fields_of_prompt
from ..jsonl import wrong_type
from ..tally import Tally
from .completion import MEDIA_FIELDS, MEDIA_OPTIONS, CompletionOptions, CompletionTask
from .echo import Echo
from .pending import PendingPrompt
from .rows import completion_logprobs, joined, written

if TYPE_CHECKING:
    from ...build.plan import Plan
    from ...text.tokenizer import Tokenizer


#: Of models with an encoder.
_DECODER_FIELDS = frozenset({"decoder_prompt", "source_language", "target_language"})
#: What the encoder reads, and with it the decoder's prompt: vLLM's two prompts in one.
_BOTH = "encoder_prompt"
#: Of models that read sound.
_SOUNDS = ("audio", "audios", "multi_modal_data")


class GenerateTask(CompletionTask):
    """`prompt` (a string, token ids, or a list of either, as OpenAI allows), `prompt_token_ids` or `prompt_embeds`; or `--prompt-field` or
    `--template`.

    The choices of a list are numbered through, those of its first prompt first, as OpenAI's and vLLM's servers number them. With `echo` the
    prompt stands before each of its outputs.
    """

    command = "generate"
    columns: tuple[str, ...] = ("prompt", "prompt_token_ids", "prompt_embeds")
    _reads_both = False  # encoder_prompt is a field

    @classmethod
    def of(cls, options: CompletionOptions, plan: Plan) -> GenerateTask:
        """The task with the model of `plan`."""
        decoder, hearing, language = plan.decoder_prompts, plan.hearing, options.target_language
        if language is not None and decoder is not None:
            decoder, hearing = replace(decoder, language=language), hearing and hearing.writing_in(language)
        options = replace(options, decoder=decoder, hearing=hearing)
        return cls(options, plan.tokenizer, max_model_len=plan.config.max_model_len)

    def __init__(self, options: CompletionOptions, tokenizer: Tokenizer | None, *, max_model_len: int) -> None:
        if options.hearing is not None:
            self.columns = (*_SOUNDS, *self.columns)
        if options.decoder is not None and not options.has_column:
            self.columns, self._reads_both = (*self.columns, _BOTH), True
        super().__init__(options, tokenizer, max_model_len=max_model_len)

    def own_fields(self) -> frozenset[str]:
        own = super().own_fields() | ({"echo"} if self.options.decoder is None else _DECODER_FIELDS)
        reads_media = self.options.placing is not None and not self.options.has_column
        return own | MEDIA_FIELDS | MEDIA_OPTIONS | {"multi_modal_data"} if reads_media else own

    def missing(self, fields: Mapping[str, Any]) -> str:
        if self.options.hearing is not None:
            return 'no "audio" (sounds of any length, and without a prompt, are for infer transcribe)'
        if fields.get(_BOTH) is not None and self.options.decoder is None:
            raise of_encoders(_BOTH)
        hint = ' ("text" is a field of infer embed; or give --prompt-field text)' if "text" in fields else ""
        return f'no "prompt" and no "prompt_token_ids"{hint}'

    def read(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        if self._reads_both:
            fields = self._of_both(fields)
        super().read(pending, fields)
        if self.options.decoder is not None:
            pending.decoder = {name: fields[name] for name in _DECODER_FIELDS if fields.get(name) is not None}
        prompt = pending.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            pending.split(prompt)
        if "echo" in self.fields and Echo.wanted(fields):
            for part in pending.parts or (pending,):
                self._echo(part, fields)

    def _of_both(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields with `encoder_prompt` and `decoder_prompt` in their plain forms. Raises RecordError."""
        begun = fields.get("decoder_prompt")
        if isinstance(begun, Mapping):
            told = fields_of_prompt(begun, "decoder_prompt")
            if len(told) != 1 or not told.keys() <= {"prompt", "prompt_token_ids"}:
                message = "decoder_prompt is text (prompt) or token ids (prompt_token_ids), and nothing else"
                raise RecordError("invalid_value", message, param="decoder_prompt")
            fields = {**fields, "decoder_prompt": next(iter(told.values()))}
        if fields.get(_BOTH) is None:
            return fields
        if beside := next((name for name in self.columns if name != _BOTH and fields.get(name) is not None), None):
            raise RecordError("invalid_value", f"give encoder_prompt or {beside}, not both", param=_BOTH)
        return {**fields, **fields_of_prompt(fields[_BOTH], _BOTH)}

    def read_prompts(self, pendings: Sequence[PendingPrompt]) -> None:
        several = [pending for pending in pendings if pending.parts]
        if not several:
            super().read_prompts(pendings)
            return
        super().read_prompts([part for pending in pendings for part in pending.parts or (pending,)])
        for pending in several:
            pending.error = next((part.error for part in pending.parts if part.error is not None), None)

    def prompt_of(self, fields: Mapping[str, Any]) -> Any:
        if self.options.literal_special_tokens and self.options.template is not None and self.tokenizer is not None:
            literal = self.tokenizer.literal  # the template's own special tokens are meant, the record's are not
            return literal.settle(self.options.template.render(literal.mark(dict(fields))))
        if self.options.has_column and (text := self.text_from_record(fields)) is not None:
            return text
        prompt, ids = fields.get("prompt"), fields.get("prompt_token_ids")
        if prompt is not None and ids is not None:
            raise RecordError("invalid_value", "give prompt or prompt_token_ids, not both", param="prompt_token_ids")
        if ids is not None:
            return _token_ids("prompt_token_ids", ids)
        if isinstance(prompt, list):
            if prompt and isinstance(prompt[0], (str, list)):
                return [_one_of_several(one, i) for i, one in enumerate(prompt)]
            return _token_ids("prompt", prompt)
        if prompt is None and self.options.hearing is not None:
            return ""  # the sound is all that is read
        if not isinstance(prompt, str):
            raise wrong_type("prompt", "a string or a list of token ids", prompt)
        return prompt

    def media_of(self, fields: Mapping[str, Any]) -> Sequence[MediaPart]:
        if self.options.has_column:
            if self.options.hearing is not None:
                message = "--prompt-field and --template read text alone: leave them out, so that a record's audio and prompt are read"
                raise RecordError("unsupported", message, param="audio")
            return ()
        return [*of_fields(fields), *of_data(fields.get("multi_modal_data") or {})]

    def embeds_of(self, fields: Mapping[str, Any]) -> PromptEmbeds | None:
        value = None if self.options.has_column else fields.get("prompt_embeds")
        if value is None:
            return None
        if not self._chooser.takes_embeds:
            raise RecordError("unsupported", "prompt_embeds needs --enable-prompt-embeds", param="prompt_embeds")
        if given := next((name for name in ("prompt", "prompt_token_ids") if fields.get(name) is not None), None):
            raise RecordError("invalid_value", f"give {given} or prompt_embeds, not both", param="prompt_embeds")
        return decoded(value)

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = super().sampling_of(fields)
        if "top_logprobs" in given:
            raise RecordError("unsupported", "top_logprobs belongs to infer chat; here logprobs is their number", param="top_logprobs")
        if "echo" in self.fields and Echo.is_only(given) and Echo.wanted(fields):
            given = {**given, "max_tokens": 1, "max_completion_tokens": None, "min_tokens": 0}
        return given

    def _echo(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        """Sets up the echo of one prompt."""
        params = pending.params
        assert params is not None
        whole = params.truncate_prompt_tokens is None and isinstance(pending.prompt, str)
        text = self._plain(pending.prompt) if whole else None
        echo = Echo(text, Echo.is_only(fields), shows_prompt_logprobs=params.prompt_logprobs is not None)
        pending.reply, pending.params = echo, echo.params(params)
        if echo.only:
            pending.continuations = ()

    def _plain(self, prompt: str) -> str:
        """A prompt without the marks of text that is no special token."""
        if self.options.literal_special_tokens and self.tokenizer is not None:
            return self.tokenizer.literal.plain(prompt)
        return prompt

    # --- out

    def tally(self, pending: PendingPrompt, output: Any) -> Tally:
        if not pending.parts:
            return super().tally(pending, output)
        whole = super().tally(pending, output[0])
        for one in output[1:]:
            whole.add(replace(super().tally(pending, one), num_answered=0, bytes_done=0))
        return whole

    def to_row(self, pending: PendingPrompt, output: Any) -> dict[str, Any]:
        if not pending.parts:
            return super().to_row(pending, output)
        return written(pending, joined([self.answer_of(part, one) for part, one in zip(pending.parts, output, strict=True)]))

    def answer_of(self, pending: PendingPrompt, output: RequestOutput) -> dict[str, Any]:
        echo: Echo | None = pending.reply
        if echo is None:
            return super().answer_of(pending, output)
        echo.entries = None if output.prompt_logprobs is None else output.prompt_logprobs[output.num_virtual_tokens :]
        return super().answer_of(pending, output if echo.shows_prompt_logprobs else replace(output, prompt_logprobs=None))

    def _choice(
        self, choice: CompletionOutput, pending: PendingPrompt, params: SamplingParams, prompt_ids: Sequence[int]
    ) -> dict[str, Any]:
        row = super()._choice(choice, pending, params, prompt_ids)
        if pending.reply is not None:
            pending.reply.put_before(row, self.tokenizer, prompt_ids, skip_special_tokens=params.skip_special_tokens)
        return row

    def choice_text(self, choice: CompletionOutput, pending: PendingPrompt, prompt_ids: Sequence[int]) -> dict[str, Any]:
        return {"text": choice.text}

    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int, spelling: Spelling) -> dict[str, Any]:
        return completion_logprobs(choice, spelling)


def _one_of_several(value: Any, place: int) -> str | list[int]:
    """A prompt of a list of them."""
    if isinstance(value, str):
        if not value:
            raise RecordError("invalid_value", f"prompt[{place}] is empty", param="prompt")
        return value
    try:
        return _token_ids(f"prompt[{place}]", value)
    except RecordError as error:
        raise RecordError(error.code, error.message, param="prompt") from None


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise RecordError("invalid_type", f"{name} must be a list of integers", param=name)
    if not value:
        raise RecordError("invalid_value", f"{name} is empty", param=name)
    return value
