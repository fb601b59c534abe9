"""From settings to a running engine, in two steps: a Plan, which is quick, and the weights.

The only place of the job layer behind which torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..args import EngineArgs
from ..errors import ModelError
from ..text.chat import ChatTemplate
from ..text.tokenizer import Tokenizer
from ..weights.find import find
from ..weights.source import ModelSource

if TYPE_CHECKING:
    from ..config import EngineConfig
    from ..engine.engine import Engine


@dataclass(frozen=True)
class Plan:
    """Everything about a run but the weights. `tokenizer_source` is the model's own unless --tokenizer named another."""

    config: EngineConfig
    source: ModelSource
    tokenizer: Tokenizer
    tokenizer_source: ModelSource

    def chat_template(self, override: str | None = None) -> ChatTemplate:
        """The model's chat template, or another one. Raises ModelError if there is none, or none that can be used."""
        template = ChatTemplate.load(self.tokenizer_source.read, self.tokenizer, override=override)
        template.require()
        return template

    def start(self) -> Engine:
        """Loads the weights and takes the memory. Raises ModelError, ConfigError, EngineError."""
        from ..engine.engine import Engine

        return Engine.create(self.config, self.source, self.tokenizer)


@dataclass(frozen=True)
class Built:
    """An engine ready to take requests, and its tokenizer."""

    engine: Engine
    tokenizer: Tokenizer


def find_model(args: EngineArgs) -> ModelSource:
    """Where the model is; cheap, without torch. Raises ModelError, ConfigError."""
    return find(args.model, revision=args.revision, download_dir=args.download_dir, hf_token=args.hf_token)


def make_plan(args: EngineArgs, source: ModelSource | None = None, *, given: Mapping[str, str] | None = None) -> Plan:
    """Decides all settings and loads the tokenizer.

    Args:
        args: the settings.
        source: what `find_model(args)` gave, if that was called before.
        given: where each setting came from, as `EngineArgs.load` tells.

    Raises:
        ConfigError: contradicting settings. ModelError: the model's small files cannot be used.
    """
    source = source or find_model(args)
    hf_config = source.read_json("config.json")
    if hf_config is None:
        raise ModelError(f"model {source.name!r} has no config.json in {str(source.path)!r}; is it a model folder?")
    tokenizer_source = source
    if args.tokenizer and args.tokenizer != args.model:
        revision = args.tokenizer_revision or args.revision
        tokenizer_source = find(args.tokenizer, revision=revision, download_dir=args.download_dir, hf_token=args.hf_token)
    folder = str(tokenizer_source.path) if tokenizer_source.path.is_dir() else None
    tokenizer = Tokenizer.load(tokenizer_source.read, mode=args.tokenizer_mode, name=tokenizer_source.name, folder=folder)
    return Plan(args.resolve(hf_config, given=given), source, tokenizer, tokenizer_source)


def build_engine(args: EngineArgs) -> Built:
    """Both steps at once. Raises InferError."""
    plan = make_plan(args)
    return Built(plan.start(), plan.tokenizer)
