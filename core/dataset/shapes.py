"""The columns of answers and their types, the same for every batch, so that the parts of a data set fit together.

A shape is "int", "float", "bool", "text", "json" or a numpy type's name; [shape] is a list, {name: shape} a struct. What has other fields
from row to row (log-probabilities by token, probabilities by label, calls of functions) is JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..jobs.output.tables.arrow import text_cell

Shape = Any

_USAGE: Shape = {"prompt_tokens": "int", "total_tokens": "int"}
_WRITING_USAGE: Shape = {"prompt_tokens": "int", "completion_tokens": "int", "total_tokens": "int"}
_CHOICE: Shape = {
    "finish_reason": "text",
    "stop_reason": "text",
    "logprobs": "json",
    "cumulative_logprob": "float",
    "token_ids": ["int"],
}
#: Told of a prompt, and of a list of prompts in each choice.
_PROMPT: Shape = {"prompt_token_ids": ["int"], "prompt_logprobs": "json"}
ERROR: Shape = {"code": "text", "message": "text", "param": "text", "retryable": "bool"}

GENERATE: Shape = {**_PROMPT, "choices": [{"index": "int", "text": "text", **_CHOICE, **_PROMPT}], "usage": _WRITING_USAGE}
_MESSAGE: Shape = {"role": "text", "content": "text", "reasoning_content": "text", "tool_calls": "json"}
CHAT: Shape = {**_PROMPT, "choices": [{"index": "int", "message": _MESSAGE, **_CHOICE}], "usage": _WRITING_USAGE}
SCORE: Shape = {
    "score": "float32",
    "scores": ["float32"],
    "results": [{"index": "int", "document": "json", "relevance_score": "float32"}],
    "usage": _USAGE,
}
#: A list for each text, and in it a list for each token, where there are several of them: of no one type.
TOKEN_SCORE: Shape = {"scores": "json", "usage": _USAGE}
CLASSIFIER: Shape = {"label": "text", "labels": ["text"], "probs": "json", "answers": "json", "usage": _USAGE}
LABELS: Shape = {"label": "text", "probs": "json", "logprobs": "json", "label_mass": "float", "usage": _USAGE}


def embed(dtype: str) -> Shape:
    """The shape of vectors whose values are of a numpy type."""
    return {"embedding": [dtype], "embeddings": [[dtype]], "usage": _USAGE}


def fit(value: Any, shape: Shape) -> Any:
    """A value of a row in the form that Arrow takes for its shape."""
    if value is None:
        return None
    if shape in ("text", "json"):
        return text_cell(value)
    if isinstance(shape, Mapping):
        assert value.keys() <= shape.keys(), f"columns lack {sorted(value.keys() - shape.keys())}"
        return {name: fit(value.get(name), one) for name, one in shape.items()}
    if isinstance(shape, list):
        (one,) = shape
        if isinstance(value, str):  # a vector that its record wants as base64
            return np.frombuffer(base64.b64decode(value), one)
        return value if isinstance(value, np.ndarray) else [fit(item, one) for item in value]
    return value


def arrow_type(shape: Shape) -> Any:
    """The type of Arrow."""
    import pyarrow as pa

    if isinstance(shape, Mapping):
        return pa.struct([(name, arrow_type(one)) for name, one in shape.items()])
    if isinstance(shape, list):
        return pa.list_(arrow_type(shape[0]))
    plain = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(), "json": pa.string()}
    return plain[shape] if shape in plain else pa.from_numpy_dtype(np.dtype(shape))
