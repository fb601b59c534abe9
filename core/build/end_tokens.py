"""The tokens that end a model's outputs, read from its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.stopping import EndTokens
from .generation_config import FILE as GENERATION
from .generation_config import NONE, end_tokens, read_file

if TYPE_CHECKING:
    from ..settings.config import EngineConfig
    from ..text.tokenizer import Tokenizer
    from ..weights.source import ModelSource


def end_tokens_of(config: EngineConfig, source: ModelSource, tokenizer: Tokenizer | None) -> EndTokens:
    """The tokenizer's end token is the primary one; those of generation_config.json and config.json (overrides counted) count too.

    They say what the model's tokens mean and not how to draw them, so `generation_config=none` does not leave them out. Where
    neither file names one, it is the default of the model's kind, as in transformers.
    """
    own = config.generation_config in ("auto", *NONE)
    generation = read_file(source.read_json, "auto" if own else config.generation_config)
    spec = source.spec(config.hf_overrides)
    stated = [*end_tokens(generation, source.path / GENERATION), *spec.end_tokens]
    if generation is None and spec.default_end_token is not None:
        stated = [spec.default_end_token]
    primary = tokenizer.eos_token_id if tokenizer is not None else None
    if primary is None and stated:
        primary = stated[0]
    return EndTokens(primary, frozenset(stated) - {primary})
