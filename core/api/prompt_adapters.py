"""Prompt adapters of `LLM.generate`: read once, and put before the prompts that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..adapters.prompt_adapter import read_prompt_adapter
from ..errors import AdapterError, ConfigError, RecordError, nearest
from ..jobs.tasks.adapters.declared import Declared
from ..settings.config import EngineConfig
from ..types.adapters import PromptAdapterRequest
from ..types.prompt_embeds import PromptEmbeds
from .drafts import Written


class PromptAdapters:
    """See `LLM.generate`. What was read is kept as long as the `LLM` is."""

    def __init__(self, config: EngineConfig, declared: Declared) -> None:
        self._config, self._declared = config, declared
        self._read: dict[tuple[str, int | None], PromptEmbeds | RecordError] = {}

    def put_before(self, drafts: Sequence[Written], asked: Any) -> None:
        """Puts adapters before prompts; what is wrong with one is the error of its prompts.

        Args:
            asked: one PromptAdapterRequest (or the name of one that was declared) for all, a list with one (or None) for each, or None.

        Raises ConfigError for anything else, and where prompt adapters are not enabled.
        """
        many = list(asked) if isinstance(asked, (list, tuple)) else [asked] * len(drafts)
        if len(many) != len(drafts):
            message = (
                f"{len(drafts)} prompts and {len(many)} prompt_adapter_request: there must be as many of both, or one of the latter for all"
            )
            raise ConfigError(message)
        many = [self._named(one) for one in many]
        for draft, one in zip(drafts, many, strict=True):
            if one is None or draft.error is not None:
                continue
            found = self._embeds_of(one)
            if isinstance(found, RecordError):
                draft.error = found
            else:
                draft.put_before(found)

    def _named(self, one: Any) -> PromptAdapterRequest | None:
        """What was asked for one prompt. Raises ConfigError."""
        declared = self._declared
        if isinstance(one, str):
            if one not in declared.paths:
                raise ConfigError(f"prompt_adapter_request: there is no adapter {one!r}{nearest(one, declared.paths)}")
            return declared.prompt_request(one)
        if one is None:
            return None if declared.is_implied else declared.default_prompt_adapter
        if not isinstance(one, PromptAdapterRequest):
            raise ConfigError(f"prompt_adapter_request must be a PromptAdapterRequest, one or a list, not {type(one).__name__}")
        if not self._config.enable_prompt_adapter:
            raise ConfigError("prompt_adapter_request needs LLM(..., enable_prompt_adapter=True)")
        return one

    def _embeds_of(self, asked: PromptAdapterRequest) -> PromptEmbeds | RecordError:
        path, count = asked.prompt_adapter_local_path, asked.prompt_adapter_num_virtual_tokens
        if (path, count) not in self._read:
            config = self._config
            try:
                made: PromptEmbeds | RecordError = read_prompt_adapter(
                    path, size=config.embeds_size, most=config.max_prompt_adapter_token, stated=count
                )
            except AdapterError as error:
                made = error.of_record("prompt_adapter_request")
            self._read[path, count] = made
        return self._read[path, count]
