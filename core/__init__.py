"""The engine, usable without the command line: `from infer.core import LLM, SamplingParams`.

Names are imported when they are first used: torch loads with the first one that needs it, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .args import EngineArgs
    from .config import EngineConfig
    from .errors import ConfigError, EngineError, InferError, ModelError, OutputError, RecordError
    from .llm import LLM
    from .outputs import CompletionOutput, Logprob, RequestOutput
    from .params import SamplingParams

_HOME = {
    "LLM": "llm",
    "EngineArgs": "args",
    "EngineConfig": "config",
    "SamplingParams": "params",
    "RequestOutput": "outputs",
    "CompletionOutput": "outputs",
    "Logprob": "outputs",
    "InferError": "errors",
    "ConfigError": "errors",
    "ModelError": "errors",
    "EngineError": "errors",
    "OutputError": "errors",
    "RecordError": "errors",
}

__all__ = [
    "LLM",
    "CompletionOutput",
    "ConfigError",
    "EngineArgs",
    "EngineConfig",
    "EngineError",
    "InferError",
    "Logprob",
    "ModelError",
    "OutputError",
    "RecordError",
    "RequestOutput",
    "SamplingParams",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
