"""Prompts of a model that reads sound: one window of it for the encoder, and tokens that the decoder begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import RecordError
from ..text.decoder_prompts import DecoderPrompts
from ..text.speech.opening import Opening
from ..text.speech.rules import SpeechRules
from ..text.speech.tokens import SpeechTokens
from ..types.params import SamplingParams
from .placing import PromptMedia
from .sounds import SoundStore

#: Said of a prompt without a sound.
_NO_SOUND = 'no "audio": the model reads one sound for each prompt (sounds of any length: infer transcribe)'


class SoundPrompts:
    """
    Args:
        store: of the model's sounds.
        decoder: reads what a record says the decoder begins with.
        language: that of prompts that say neither that nor a language; None: it is detected.
    """

    def __init__(self, store: SoundStore, tokens: SpeechTokens, decoder: DecoderPrompts, language: str | None = None) -> None:
        self._store, self._tokens, self._decoder, self._language = store, tokens, decoder, language

    def writing_in(self, language: str) -> SoundPrompts:
        """The same with another language."""
        return SoundPrompts(self._store, self._tokens, self._decoder, language)

    def ahead(self, many: Iterable[PromptMedia]) -> AbstractContextManager[None]:
        """Inside, the sounds of these prompts are loaded before `begin` is called for them, in this order."""
        return self._store.loader.ahead([part for given in many if _is_one_sound(given) for part in given.parts])

    def begin(self, given: PromptMedia) -> None:
        """Reads the sound. Raises RecordError (media_error, media_refused, prompt_too_long, unsupported), ModelError."""
        if not _is_one_sound(given):
            message = "the model reads one sound for each prompt, and no images or videos"
            raise RecordError("unsupported", message, param=given.parts[-1].param or None)
        (part,) = given.parts
        if not isinstance(part.source, (str, bytes, bytearray, tuple)):  # samples alone have the model's rate, as in vLLM
            part = replace(part, source=(np.asarray(part.source), self._store.features.rate))
        medium, frames = self._store.measured(part)
        if frames > self._store.features.window:
            seconds, window = frames / 100, self._store.features.window / 100
            message = f"the sound lasts {seconds:.2f} s, and the model reads {window:g} s at once: infer transcribe reads longer ones"
            raise RecordError("prompt_too_long", message, param=part.param or None)
        held = medium if medium.data is not None else None
        placed = self._store.window(part, medium, 0, held=held)
        given.parts, given.media, given.placed = (part,), ((placed.key, held),), (placed,)

    def end(
        self, media: PromptMedia | None, prompt: list[int], decoder: Mapping[str, Any], params: SamplingParams
    ) -> tuple[tuple[int, ...], list[int], SamplingParams]:
        """The tokens that stand for the window, those that the decoder begins with, and parameters with the rules of what it writes.

        Args:
            media: the sound, once `begin` has read it.
            prompt: the decoder's, empty where `decoder`, or nothing, says what it is.
            decoder: `decoder_prompt` and `target_language`.

        Raises RecordError.
        """
        if media is None:
            raise RecordError("missing_field", _NO_SOUND, param="audio")
        given, language = decoder.get("decoder_prompt"), decoder.get("target_language")
        if decoder.get("source_language") is not None:
            raise RecordError("unsupported", "source_language: a model that reads sound has target_language alone", param="source_language")
        if prompt:
            if given is not None:
                message = "prompt and decoder_prompt are both what the decoder begins with: give one of them"
                raise RecordError("invalid_value", message, param="decoder_prompt")
            given = prompt
        tokens = self._tokens
        begun = [tokens.start] if given is None else self._decoder.begin(given)
        rules: SpeechRules | Opening
        if begun == [tokens.start]:
            begun, rules = self._opened(language, params)
        elif language is not None:
            message = "target_language is a token of the decoder's prompt: give one of them"
            raise RecordError("invalid_value", message, param="target_language")
        else:
            rules = SpeechRules(tokens, tokens.no_timestamps not in begun)
        (placed,) = media.placed
        return (0,) * len(placed.rows), begun, replace(params, logits_processors=(rules, *params.logits_processors))

    def _opened(self, language: Any, params: SamplingParams) -> tuple[list[int], SpeechRules | Opening]:
        tokens, language = self._tokens, self._language if language is None else language
        if language is not None:
            if not isinstance(language, str):
                raise RecordError("invalid_type", "target_language must be a string", param="target_language")
            try:
                language = tokens.language_of(language)
            except RecordError as error:
                raise RecordError(error.code, f"target_language: {error.message}", param="target_language") from None
        if not tokens.needs_language(language, None):
            return tokens.beginning(language=language, task=None, timestamps=False), SpeechRules(tokens, False)
        for name in ("structured_outputs", "allowed_token_ids"):
            if getattr(params, name) is not None:
                message = f"{name} leaves no room for the language that the output begins with: name it as target_language"
                raise RecordError("unsupported", message, param=name)
        return [tokens.start], Opening(SpeechRules(tokens, False))


def _is_one_sound(given: PromptMedia) -> bool:
    return len(given.parts) == 1 and given.parts[0].kind == "audio"
