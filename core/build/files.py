"""The places of a model and its tokenizer, by the settings. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..text.tokenizer import Tokenizer
from ..weights.find import find
from ..weights.quantized import as_stored
from ..weights.source import ModelSource

if TYPE_CHECKING:
    from ..settings.args import EngineArgs
    from ..settings.config import EngineConfig


#: Either has what is asked for here.
Settings: TypeAlias = "EngineArgs | EngineConfig"


def find_model(settings: Settings) -> ModelSource:
    """The place of the model, a quantized one seen as it is stored; cheap. Raises ModelError, ConfigError."""
    found = find(
        settings.model,
        revision=settings.revision,
        download_dir=settings.download_dir,
        hf_token=settings.hf_token,
        with_code=settings.trust_remote_code,
    )
    return as_stored(found)


def find_tokenizer(settings: Settings, model: ModelSource) -> tuple[ModelSource, Tokenizer | None]:
    """The place of the tokenizer (the model's unless another is named), and the tokenizer; None with skip_tokenizer_init.

    Raises ModelError, ConfigError.
    """
    source = model
    name, revision = settings.tokenizer or settings.model, settings.tokenizer_revision or settings.revision
    if (name, revision) != (settings.model, settings.revision):
        source = find(
            name,
            revision=revision,
            download_dir=settings.download_dir,
            hf_token=settings.hf_token,
            with_code=settings.trust_remote_code,
            tokenizer_only=True,
        )
    if settings.skip_tokenizer_init:
        return source, None
    tokenizer = Tokenizer.load(
        source.read,
        mode=settings.tokenizer_mode,
        name=source.name,
        folder=str(source.path) if source.path.is_dir() else None,
        trust_remote_code=settings.trust_remote_code,
    )
    return source, tokenizer
