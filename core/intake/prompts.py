"""Intake of prompts that a model goes on with: one text or one list of token ids each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RecordError
from ..media.placing import Placing, PromptMedia
from ..sampling.model_rules import ModelRules
from ..text.messages import TEXT_ALONE
from ..types.params import SamplingParams
from ..types.prompt_embeds import PromptEmbeds
from .intake import Draft, Intake
from .remarks import Remarks

if TYPE_CHECKING:
    from ..media.sound_prompts import SoundPrompts
    from ..text.chat import ChatTemplate
    from ..text.decoder_prompts import DecoderPrompts
    from ..text.tokenizer import Tokenizer

#: More characters than this per token that fits is not a prompt that fits; saves tokenizing megabytes to find out.
_CHARS_PER_TOKEN = 256


class PromptDraft(Draft, Protocol):
    """A prompt on its way to a Request: text until it is tokenized."""

    params: SamplingParams | None
    """None where there is an error."""
    add_special_tokens: bool
    """Those of the tokenizer, to a prompt that is text."""
    embeds: PromptEmbeds | None
    """What stands before the tokens of the prompt; they are not counted where it is cut to a number of tokens."""
    media: PromptMedia | None
    """Those in the prompt."""
    encoder_ids: tuple[int, ...]
    """What was the prompt, once it is read for a model with an encoder; the prompt is then the decoder's."""
    decoder: Mapping[str, Any]
    """The record's fields for the decoder: `decoder_prompt`, `source_language`, `target_language`, and `encoder_prompt` if the prompt was
    given under that name."""


class PromptIntake(Intake[PromptDraft]):
    """
    Args:
        tokenizer: None where prompts can only be token ids.
        max_model_len: most tokens of a prompt that are worth tokenizing.
        literal: text that spells a special token is only text.
        placing: puts media into prompts; None: the model takes none.
        decoder: of a model with an encoder, what its decoder begins with.
        hearing: of a model that reads sound, its prompts; None of others.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        max_model_len: int,
        remarks: Remarks,
        *,
        literal: bool = False,
        placing: Placing | None = None,
        decoder: DecoderPrompts | None = None,
        hearing: SoundPrompts | None = None,
    ) -> None:
        super().__init__(remarks)
        self._decoder, self._hearing = decoder, hearing
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_chars = max(_CHARS_PER_TOKEN * max_model_len, 1 << 16)
        self._literal = literal
        self._placing = placing

    def render(self, template: ChatTemplate, messages: Any, options: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        """The prompt of a conversation. Raises RecordError.

        Args:
            options: of `ChatTemplate.render`.
            variables: more of the template's; they win.
        """
        text = template.render(messages, **{**options, **variables})
        self.remarks.of_ignored(template.ignored(options["tools"], variables))
        return text

    def read(self, drafts: Sequence[PromptDraft]) -> None:
        media = [one.media for one in drafts if one.media is not None and one.error is None]
        reader = self._placing or self._hearing
        with reader.ahead(media) if media and reader is not None else nullcontext():
            super().read(drafts)

    def begin(self, one: PromptDraft) -> None:
        if isinstance(one.prompt, str):
            assert one.params is not None
            one.prompt = self._checked(one.prompt, one.params)
        if one.media is not None:
            self._begin_media(one, one.media)

    def _begin_media(self, one: PromptDraft, media: PromptMedia) -> None:
        """Puts what stands for media into the prompt. Raises RecordError."""
        assert one.params is not None
        if self._placing is None and self._hearing is None:
            raise RecordError("unsupported", f"the prompt has media, and {TEXT_ALONE}", param="messages")
        if one.params.truncate_prompt_tokens is not None:
            message = "a prompt with media cannot be cut; leave out truncate_prompt_tokens"
            raise RecordError("unsupported", message, param="truncate_prompt_tokens")
        if self._placing is None:
            assert self._hearing is not None
            self._hearing.begin(media)
            one.add_special_tokens = False
            return
        one.prompt = self._placing.expand(one.prompt, media)
        one.add_special_tokens &= not self._placing.frames_text

    def _checked(self, text: str, params: SamplingParams) -> str:
        """`text`, or of one that cannot fit the end that matters. Raises RecordError."""
        if self._tokenizer is None:
            raise RecordError("unsupported", "without a tokenizer (skip_tokenizer_init) a prompt is token ids", param="prompt")
        if len(text) <= self._max_chars:
            return text
        if params.truncate_prompt_tokens is None:
            raise RecordError("prompt_too_long", f"{len(text):,} characters are far more than fit max_model_len", param="prompt")
        # Where tokens are cut off anyway, those that far away cannot stay.
        return text[-self._max_chars :] if params.truncation_side == "left" else text[: self._max_chars]

    def size(self, one: PromptDraft) -> int:
        return len(one.prompt) if isinstance(one.prompt, str) else 0

    def tokenize(self, batch: Sequence[PromptDraft]) -> None:
        assert self._tokenizer is not None
        encode = self._tokenizer.encode_literal if self._literal else self._tokenizer.encode_batch
        for special in (True, False):
            some = [one for one in batch if one.add_special_tokens is special and isinstance(one.prompt, str)]
            if not some:
                continue
            for one, ids in zip(some, encode([one.prompt for one in some], add_special_tokens=special), strict=True):
                one.prompt = ids
                if special:
                    self.remarks.of_ids(ids)

    def end(self, one: PromptDraft) -> None:
        assert one.params is not None
        if one.media is not None and self._placing is not None:
            self._placing.place(one.prompt, one.media)
        if one.params.truncate_prompt_tokens is not None:
            whole = one.prompt
            one.prompt = truncated(whole, one.params, self._max_model_len - (0 if one.embeds is None else len(one.embeds)))
            self.remarks.of_cut(whole, one.prompt)
        if self._hearing is not None:
            ids = one.prompt or []  # of a text that is empty
            one.encoder_ids, one.prompt, one.params = self._hearing.end(one.media, ids, one.decoder, one.params)
        elif self._decoder is not None:
            source = one.decoder.get("source_language")
            one.encoder_ids = tuple(one.prompt if source is None else self._decoder.read_in(one.prompt, source))
            one.params = ModelRules(self._decoder.no_repeat_ngram_size, self._decoder.forced_end).applied(one.params)
            one.prompt = self._decoder.begin(one.decoder.get("decoder_prompt"), one.decoder.get("target_language"))
        elif one.decoder:
            raise of_encoders(next(iter(one.decoder)))
        self.remarks.of_stops(one.params)
        if one.params.structured_outputs is not None:
            self.remarks.of_choices(one.prompt, one.params)


def of_encoders(name: str) -> RecordError:
    """The error of a prompt for a model without an encoder that has a field for those with one."""
    return RecordError("unsupported", f"{name} is for models that have an encoder", param=name)


def truncated(ids: list[int], params: SamplingParams, max_model_len: int) -> list[int]:
    """The prompt tokens that are left after `truncate_prompt_tokens`; the same list where nothing is to be cut.

    Tokens are counted after special tokens were added, and cut whatever they are: with side "left" the last ones stay, as in
    vLLM, so a BOS at the beginning goes too. -1 leaves room for one output token. A limit above `max_model_len` is no
    error here: the prompt that it lets through is refused like any other that is too long.
    """
    limit = params.truncate_prompt_tokens
    if limit is None:
        return ids
    if limit == -1:
        limit = max(1, max_model_len - 1)
    if len(ids) <= limit:
        return ids
    return ids[len(ids) - limit :] if params.truncation_side == "left" else ids[:limit]
