"""Prompts as callers write them in Python, and their text or token ids. Names are vLLM's."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, cast

from ..errors import ConfigError, RecordError, nearest
from .prompt_embeds import PromptEmbeds


class _Media(TypedDict, total=False):
    """The fields that vLLM takes beside a prompt: {"image": a PIL image, or a list of them}, and what the model's processor is told."""

    multi_modal_data: Mapping[str, Any] | None
    mm_processor_kwargs: Mapping[str, Any] | None


class _Text(TypedDict):
    prompt: str


class TextPrompt(_Text, _Media):
    """A prompt as text."""


class _Tokens(TypedDict):
    prompt_token_ids: Sequence[int]


class TokensPrompt(_Tokens, _Media, total=False):
    """A prompt as token ids; `prompt` is only repeated in the output."""

    prompt: str


class _Embeds(TypedDict):
    prompt_embeds: Any


class EmbedsPrompt(_Embeds, _Media, total=False):
    """A prompt as embeddings [tokens, features], a torch tensor or a numpy array; `prompt` is only repeated in the output."""

    prompt: str


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt | EmbedsPrompt | Mapping[str, Any]

_KEYS = ("prompt", "prompt_token_ids", "prompt_embeds")
#: More keys, of media that go with it.
_MEDIA = ("multi_modal_data", "mm_processor_kwargs")
#: Of models with an encoder: vLLM's two prompts in one, and what else may be said of the decoder's.
_BOTH, _DECODER = "encoder_prompt", ("decoder_prompt", "source_language", "target_language")
#: Keys of vLLM's prompts that we know and refuse unless they say nothing.
_LATER = frozenset(
    {
        "cache_salt",
        "media_io_kwargs",
        "multi_modal_placeholders",
        "multi_modal_uuids",
        "token_type_ids",
    }
)
_WANTED = 'a str, a list of token ids, {"prompt": str} or {"prompt_token_ids": list}'


@dataclass(frozen=True, slots=True)
class Parsed:
    """A prompt's text, its token ids, or both: the ids then are what is computed. `ids` is the caller's own list copied. Or embeddings;
    `ids` is then empty."""

    text: str | None
    ids: list[int] | None
    embeds: PromptEmbeds | None = None
    media: Any = None
    """`multi_modal_data` as it was given."""
    media_options: Any = None
    """`mm_processor_kwargs`"""
    decoder: Mapping[str, Any] = field(default_factory=dict)
    """For models with an encoder, the fields for the decoder: its prompt as text or ids, the languages, and `encoder_prompt` if the prompt
    was given under that name."""

    @classmethod
    def of(cls, prompt: Any) -> Parsed:
        """Raises RecordError (invalid_type, invalid_value, unsupported)."""
        if isinstance(prompt, str):
            return cls(prompt, None)
        if isinstance(prompt, Mapping):
            return cls._of_mapping(prompt)
        return cls(None, _token_ids(prompt, "prompt"))

    @classmethod
    def _of_mapping(cls, prompt: Mapping[str, Any]) -> Parsed:
        decoder = {key: prompt[key] for key in _DECODER if prompt.get(key) is not None}
        inner = {key: value for key, value in prompt.items() if key not in _DECODER}
        if inner.get(_BOTH) is not None:
            if len(inner) > 1:
                raise RecordError("invalid_value", "beside encoder_prompt a prompt has decoder_prompt and nothing else", param=_BOTH)
            if isinstance(inner[_BOTH], Mapping) and inner[_BOTH].keys() & {_BOTH, *_DECODER}:
                message = "encoder_prompt is a prompt by itself; decoder_prompt and languages stand beside it"
                raise RecordError("invalid_value", message, param=_BOTH)
            return replace(cls.of(inner[_BOTH]), decoder={**decoder, **_of_decoder(decoder), _BOTH: True})
        if decoder:
            return replace(cls._of_mapping(inner), decoder={**decoder, **_of_decoder(decoder)})
        prompt = {key: value for key, value in inner.items() if key != _BOTH}
        for key, value in prompt.items():
            if key in _LATER and value is not None and not (isinstance(value, Mapping) and not value):
                raise RecordError("unsupported", f"{key} in a prompt is not supported yet", param=key)
            if key not in _LATER and key not in _KEYS and key not in _MEDIA:
                raise RecordError("invalid_value", f"a prompt has no {key!r}{nearest(str(key), _KEYS)}; it is {_WANTED}", param="prompt")
        text, ids, embeds = (prompt.get(name) for name in _KEYS)
        media, media_options = (prompt.get(name) or None for name in _MEDIA)
        if text is None and ids is None and embeds is None:
            raise RecordError("missing_field", f"a prompt is {_WANTED}", param="prompt")
        if text is not None and not isinstance(text, str):
            raise _wrong_type("prompt", text)
        if embeds is not None:
            if ids is not None:
                raise RecordError("invalid_value", "give prompt_token_ids or prompt_embeds, not both", param="prompt_embeds")
            if media is not None:
                raise RecordError("unsupported", "media go with text or token ids, not with prompt_embeds", param="prompt_embeds")
            return cls(text, [], PromptEmbeds.of(embeds))
        return cls(text, None if ids is None else _token_ids(ids, "prompt_token_ids"), None, media, media_options)


def fields_of_prompt(value: Any, name: str) -> dict[str, Any]:
    """The field `name` of a record, which is a prompt in any form, as the fields that the record would have without it: `prompt` or
    `prompt_token_ids`, and media. Raises RecordError (invalid_type, invalid_value, unsupported)."""
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, list):
        return {"prompt_token_ids": value}
    if not isinstance(value, Mapping):
        raise RecordError("invalid_type", f"{name} must be a string, a list of token ids or an object with one of them", param=name)
    known = ("prompt", "prompt_token_ids", *_MEDIA)
    if wrong := next((key for key in value if key not in known), None):
        raise RecordError("invalid_value", f"{name} has no {wrong[:100]!r}{nearest(wrong, known)}: it has {', '.join(known)}", param=name)
    found = {key: one for key, one in value.items() if one is not None}
    if not found:
        raise RecordError("missing_field", f"{name} is empty: it has prompt or prompt_token_ids", param=name)
    return found


def _of_decoder(decoder: Mapping[str, Any]) -> dict[str, Any]:
    """`decoder_prompt` as text or ids, in whichever form of a prompt it is."""
    if "decoder_prompt" not in decoder:
        return {}
    parsed = Parsed.of(decoder["decoder_prompt"])
    return {"decoder_prompt": parsed.text if parsed.ids is None else parsed.ids}


def as_prompts(prompts: Any, prompt_token_ids: Any = None) -> list[Any]:
    """One prompt or many, in their form or the legacy one, as a list of prompts.

    Args:
        prompts: one prompt or a sequence of them; a sequence of integers is one. Wins over `prompt_token_ids`.
        prompt_token_ids: vLLM's former argument: the ids of one prompt or of many; None unless it is used.

    Raises ConfigError (a ValueError) where neither is given, or both and not as many of one as of the other.
    """
    if prompts is None and prompt_token_ids is None:
        raise ConfigError("either prompts or prompt_token_ids must be given")
    legacy = None if prompt_token_ids is None else _many(prompt_token_ids)
    if prompts is None:
        assert legacy is not None
        return [{"prompt_token_ids": ids} for ids in legacy]
    many = _many(prompts)
    if legacy is not None and len(legacy) != len(many):
        raise ConfigError(f"{len(many)} prompts and {len(legacy)} prompt_token_ids: there must be as many of both")
    return many


def _many(prompts: Any) -> list[Any]:
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if isinstance(prompts, bytes) or not hasattr(prompts, "__iter__"):
        raise ConfigError(f"prompts are {_WANTED}, or a list of such, not {type(prompts).__name__}")
    many = list(prompts)
    return [many] if many and _is_int(many[0]) else many


def _token_ids(value: Any, name: str) -> list[int]:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise _wrong_type(name, value)
    ids = list(value)
    if not all(_is_int(token) for token in ids):
        raise _wrong_type(name, next(token for token in ids if not _is_int(token)), "a list with ")
    return [operator.index(token) for token in cast("list[int]", ids)]


def _is_int(value: Any) -> bool:
    """Also the integers of numpy."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    return hasattr(value, "__index__") and not hasattr(value, "__len__")


def _wrong_type(name: str, value: Any, more: str = "") -> RecordError:
    return RecordError("invalid_type", f"{name}: a prompt is {_WANTED}, not {more}{type(value).__name__}", param=name)
