"""The engine, usable without the command line: `from infer.core import LLM, SamplingParams`.

Names are imported when they are first used: torch loads with the first one that needs it, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.llm import LLM
    from .api.llm_engine import LLMEngine
    from .errors import ConfigError, EngineError, InferError, ModelError, OutputError, RecordError, UnknownArgument
    from .settings.args import EngineArgs
    from .settings.config import EngineConfig
    from .types.adapters import LoRARequest, PromptAdapterRequest
    from .types.beam_params import BeamSearchParams
    from .types.outputs import BeamSearchOutput, BeamSearchSequence, CompletionOutput, Logprob, RequestMetrics, RequestOutput
    from .types.params import RequestOutputKind, SamplingParams
    from .types.pooling_outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        LabelOutput,
        LabelRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from .types.pooling_params import PoolingParams
    from .types.prompts import EmbedsPrompt, TextPrompt, TokensPrompt
    from .types.repetition import RepetitionDetectionParams
    from .types.structured import GuidedDecodingParams, StructuredOutputsParams

_HOME = {
    "LLM": "api.llm",
    "LLMEngine": "api.llm_engine",
    "EngineArgs": "settings.args",
    "EngineConfig": "settings.config",
    "RequestOutputKind": "types.params",
    "SamplingParams": "types.params",
    "BeamSearchParams": "types.beam_params",
    "LoRARequest": "types.adapters",
    "PromptAdapterRequest": "types.adapters",
    "PoolingParams": "types.pooling_params",
    "EmbedsPrompt": "types.prompts",
    "TextPrompt": "types.prompts",
    "TokensPrompt": "types.prompts",
    "GuidedDecodingParams": "types.structured",
    "RepetitionDetectionParams": "types.repetition",
    "StructuredOutputsParams": "types.structured",
    "RequestOutput": "types.outputs",
    "CompletionOutput": "types.outputs",
    "BeamSearchOutput": "types.outputs",
    "BeamSearchSequence": "types.outputs",
    "Logprob": "types.outputs",
    "ClassificationOutput": "types.pooling_outputs",
    "ClassificationRequestOutput": "types.pooling_outputs",
    "EmbeddingOutput": "types.pooling_outputs",
    "EmbeddingRequestOutput": "types.pooling_outputs",
    "LabelOutput": "types.pooling_outputs",
    "LabelRequestOutput": "types.pooling_outputs",
    "PoolingOutput": "types.pooling_outputs",
    "PoolingRequestOutput": "types.pooling_outputs",
    "ScoringOutput": "types.pooling_outputs",
    "ScoringRequestOutput": "types.pooling_outputs",
    "RequestMetrics": "types.outputs",
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
    "EmbedsPrompt",
    "EngineArgs",
    "EngineConfig",
    "EngineError",
    "GuidedDecodingParams",
    "InferError",
    "LLMEngine",
    "LabelOutput",
    "LabelRequestOutput",
    "LoRARequest",
    "Logprob",
    "ModelError",
    "OutputError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "PromptAdapterRequest",
    "RecordError",
    "RepetitionDetectionParams",
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
