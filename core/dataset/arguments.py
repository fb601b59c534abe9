"""The arguments of the callable classes that say what becomes of rows."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from ..errors import ConfigError, RecordError, UnknownArgument, nearest
from ..settings.args import EngineArgs
from ..text.templates.template import RecordTemplate
from ..types.params import SamplingParams

#: Names that are the engine's too, and mean that.
_OF_THE_ENGINE = frozenset({"seed", "logits_processors"})


def template_of(text: str | None, prompt_field: str | None) -> RecordTemplate | None:
    """A template of prompts. Raises ConfigError."""
    if text is None:
        return None
    if prompt_field is not None:
        raise ConfigError("prompt_field and template both say where the prompt is; give one")
    return RecordTemplate.load(text)


def take_sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes sampling parameters out of settings. Raises UnknownArgument for what is neither."""
    names = {one.name for one in fields(SamplingParams)} - _OF_THE_ENGINE
    known = names | set(EngineArgs.settings())
    for name in settings:
        if name not in known:
            raise UnknownArgument(f"unknown argument {name!r}{nearest(name, known)}")
    return {name: settings.pop(name) for name in names & settings.keys()}


def sampling(given: dict[str, Any]) -> SamplingParams:
    """Parameters of rows that have none of their own. Raises ConfigError."""
    try:
        return SamplingParams(**given)
    except RecordError as error:
        raise ConfigError(str(error)) from None


def with_pooler(args: EngineArgs, **over: Any) -> EngineArgs:
    """Settings with keys of `pooler_config` that were given."""
    given = {name: value for name, value in over.items() if value is not None}
    return replace(args, pooler_config={**(args.pooler_config or {}), **given} or None)
