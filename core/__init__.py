"""The engine, usable without the command line: `from infer.core import LLM, SamplingParams`.

Names are imported when they are first used: torch loads with the first one that needs it, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .args import EngineArgs
    from .beam_params import BeamSearchParams
    from .config import EngineConfig
    from .errors import ConfigError, EngineError, InferError, ModelError, OutputError, RecordError, UnknownArgument
    from .llm import LLM
    from .outputs import BeamSearchOutput, BeamSearchSequence, CompletionOutput, Logprob, RequestMetrics, RequestOutput
    from .params import RequestOutputKind, SamplingParams
    from .pooling_outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from .pooling_params import PoolingParams
    from .prompts import TextPrompt, TokensPrompt
    from .structured import GuidedDecodingParams, StructuredOutputsParams

_HOME = {
    "LLM": "llm",
    "EngineArgs": "args",
    "EngineConfig": "config",
    "RequestOutputKind": "params",
    "SamplingParams": "params",
    "BeamSearchParams": "beam_params",
    "PoolingParams": "pooling_params",
    "TextPrompt": "prompts",
    "TokensPrompt": "prompts",
    "GuidedDecodingParams": "structured",
    "StructuredOutputsParams": "structured",
    "RequestOutput": "outputs",
    "CompletionOutput": "outputs",
    "BeamSearchOutput": "outputs",
    "BeamSearchSequence": "outputs",
    "Logprob": "outputs",
    "ClassificationOutput": "pooling_outputs",
    "ClassificationRequestOutput": "pooling_outputs",
    "EmbeddingOutput": "pooling_outputs",
    "EmbeddingRequestOutput": "pooling_outputs",
    "PoolingOutput": "pooling_outputs",
    "PoolingRequestOutput": "pooling_outputs",
    "ScoringOutput": "pooling_outputs",
    "ScoringRequestOutput": "pooling_outputs",
    "RequestMetrics": "outputs",
    "InferError": "errors",
    "ConfigError": "errors",
    "ModelError": "errors",
    "EngineError": "errors",
    "OutputError": "errors",
    "RecordError": "errors",
    "UnknownArgument": "errors",
}

__all__ = [
    "LLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineConfig",
    "EngineError",
    "GuidedDecodingParams",
    "InferError",
    "Logprob",
    "ModelError",
    "OutputError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RecordError",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "UnknownArgument",
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
