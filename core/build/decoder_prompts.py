"""The first tokens of the decoder in a model that has an encoder, read from the model's files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..spec.hf_values import TOKEN
from ..text.decoder_prompts import DecoderPrompts
from .generation_config import FILE, NONE, read_file

if TYPE_CHECKING:
    from ..settings.config import EngineConfig
    from ..text.tokenizer import Tokenizer
    from ..weights.source import ModelSource

#: Tokens of languages: mBART's ("ro_RO"), NLLB's ("ron_Latn") and M2M-100's ("__ro__").
_LANGUAGE = re.compile(r"[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}|__([a-z]{2,3})__")


def decoder_prompts_of(config: EngineConfig, source: ModelSource, tokenizer: Tokenizer | None) -> DecoderPrompts | None:
    """None of a model without an encoder. The tokens mean what they mean, so `generation_config=none` does not leave them out.

    Raises ModelError for a token id that the vocabulary does not have.
    """
    spec = source.spec(config.hf_overrides)
    if not spec.has_encoder:
        return None
    own = config.generation_config in ("auto", *NONE)
    generation = read_file(source.read_json, "auto" if own else config.generation_config) or {}

    def token(name: str) -> int | None:
        value: Any = generation.get(name)
        value = spec.config.get(name) if value is None else value
        if value is not None and not TOKEN.fits(value):
            raise ModelError(f"{FILE} or config.json of {source.name}: {name} is {value!r}; it must be a token id or null")
        return value

    languages = {} if tokenizer is None else {_name(text): i for text, i in tokenizer.added_tokens().items() if _LANGUAGE.fullmatch(text)}
    start = token("decoder_start_token_id")
    ruled = config.generation_config not in NONE  # these say how to write, not what tokens mean
    size = (generation.get("no_repeat_ngram_size") or 0) if ruled else 0
    if type(size) is not int or size < 0:
        raise ModelError(f"{FILE} of {source.name}: no_repeat_ngram_size is {size!r}; it must be a number of tokens")
    return DecoderPrompts(
        tokenizer,
        token("bos_token_id") if start is None else start,
        token("forced_bos_token_id"),
        languages,
        no_repeat_ngram_size=size,
        forced_end=token("forced_eos_token_id") if ruled else None,
    )


def forbidden_tokens(config: EngineConfig, source: ModelSource) -> list[int]:
    """Tokens that generation_config.json says a model with an encoder never writes, such as Marian's padding; longer
    `bad_words_ids` are not among them. Raises ModelError for what is no token."""
    generation = read_file(source.read_json, config.generation_config) or {}
    listed = [one[0] for one in generation.get("bad_words_ids") or [] if isinstance(one, list) and len(one) == 1]
    found = [*listed, *(generation.get("suppress_tokens") or [])]
    size = source.spec(config.hf_overrides).vocab_size or 0
    if wrong := next((one for one in found if not TOKEN.fits(one) or not 0 <= one < size), None):
        raise ModelError(f"{FILE} of {source.name}: bad_words_ids or suppress_tokens name {wrong!r}, which is no token of the vocabulary")
    return sorted({*found})


def _name(text: str) -> str:
    found = _LANGUAGE.fullmatch(text)
    return text if found is None or found[1] is None else found[1]
