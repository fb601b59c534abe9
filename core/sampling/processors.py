"""Logits processors: a record's own Python functions on its logits.

Their mistakes are that record's error, and nobody else's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordError
from ..types.request import Sequence


def process(sequence: Sequence, logits: Tensor) -> Tensor:
    """The logits that the sequence's `logits_processors` make of its own, one after the other: float32 [vocabulary].

    Each is called with the output's token ids and the logits, or, if it takes three positional arguments, with the prompt's
    token ids in front (vLLM's convention). It may write to what it is given. It returns logits, where -inf forbids a token.

    Args:
        logits: float32 [vocabulary], finite; may be overwritten.

    Raises RecordError (invalid_value) if one of them raises, or gives anything but such logits.
    """
    shape = logits.shape
    for processor in sequence.request.params.logits_processors:
        given: list[Any] = [sequence.output_ids, logits]
        if _takes_prompt(processor):
            given.insert(0, sequence.prompt_ids)
        try:
            result = processor(*given)
        except Exception as error:
            raise _mistake(processor, f"raised {type(error).__name__}: {error}") from error
        if not isinstance(result, Tensor):
            raise _mistake(processor, f"must return logits, not {type(result).__name__}")
        if result.shape != shape or not result.is_floating_point():
            raise _mistake(processor, f"must return floating-point logits {list(shape)}, not {result.dtype} {list(result.shape)}")
        logits = result.to(device=logits.device, dtype=torch.float32)
        if bool((logits.isnan() | logits.isposinf()).any()):
            raise _mistake(processor, "returned logits that are NaN or infinite")
    return logits


def _takes_prompt(processor: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(processor).parameters.values()
    except (TypeError, ValueError):  # builtins may have none
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional for p in parameters) == 3


def _mistake(processor: Callable[..., Any], what: str) -> RecordError:
    name = getattr(processor, "__name__", type(processor).__name__)
    return RecordError("invalid_value", f"logits_processors: {name} {what}", param="logits_processors")
