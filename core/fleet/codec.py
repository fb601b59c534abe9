"""Requests and answers as JSON, for the wire between engines of one job: plain data of known classes comes back as it was.

None, bool, int, finite float, str      themselves
a list of such                          itself
anything else                           {"": tag, "v": ...}
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np
import orjson

from ..errors import RecordError
from ..pooling.contrast import Contrast
from ..pooling.late import LateInteraction
from ..pooling.recipe import DenseSpec, Recipe
from ..pooling.template import PairTemplate
from ..sampling.model_rules import ForcedEnd, NoRepeatedNgrams
from ..text.speech.opening import Opening
from ..text.speech.rules import SpeechRules
from ..text.speech.tokens import SpeechTokens
from ..types.adapters import LoRARequest
from ..types.beam_params import BeamSearchParams
from ..types.media import MediaPart
from ..types.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from ..types.params import RequestOutputKind, SamplingParams
from ..types.placed import Placed
from ..types.pooling_params import PoolingParams
from ..types.pooling_request import Pooled, PoolingRequest, TextIds
from ..types.prompt_embeds import PromptEmbeds
from ..types.repetition import RepetitionDetectionParams
from ..types.request import Request
from ..types.spans import Spans
from ..types.structured import GuidedDecodingParams, StructuredOutputsParams

_CLASSES: dict[str, type[Any]] = {
    c.__name__: c
    for c in (
        BeamSearchParams,
        CompletionOutput,
        Contrast,
        DenseSpec,
        ForcedEnd,
        GuidedDecodingParams,
        LateInteraction,
        Logprob,
        LoRARequest,
        NoRepeatedNgrams,
        Opening,
        PairTemplate,
        Pooled,
        PoolingParams,
        PoolingRequest,
        PromptEmbeds,
        Recipe,
        RepetitionDetectionParams,
        Request,
        RequestMetrics,
        RequestOutput,
        SamplingParams,
        Spans,
        SpeechRules,
        SpeechTokens,
        StructuredOutputsParams,
        TextIds,
    )
}
_FIELDS = {name: tuple(f.name for f in fields(c) if f.init) for name, c in _CLASSES.items()}
_PLAIN = frozenset({type(None), bool, int, str})


def dumps(value: Any) -> bytes:
    """Raises TypeError for what is of no known class (a caller's logits processor is a function: it stays where it is)."""
    encoded = _encode(value)
    try:
        return orjson.dumps(encoded)
    except TypeError:  # integers of more than 64 bits, half a surrogate pair: the standard library writes both
        return orjson.dumps({"": "json", "v": json.dumps(encoded)})


def loads(data: bytes) -> Any:
    return decode(orjson.loads(data))


def frame(head: Any, values: Iterable[tuple[str, bytes]] = ()) -> bytes:
    """One frame of a wire: `head`, which is JSON, and values that `dumps` gave, each with the request it is about. They
    stay apart: what is wrong with one is that request's error, for whoever writes them and whoever reads them."""
    pieces = b",".join(b"[%b,%b]" % (orjson.dumps(name), data) for name, data in values)
    return b"[%b,[%b]]" % (orjson.dumps(head), pieces)


def unframe(data: bytes) -> tuple[Any, list[tuple[str, Any]]]:
    """The head, and the values for `decode`."""
    head, values = orjson.loads(data)
    return head, [(name, value) for name, value in values]


def _encode(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"": "float", "v": repr(value)}
    if kind is list:
        return value if _is_plain(value) else [_encode(item) for item in value]
    if kind is tuple:
        return {"": "tuple", "v": [_encode(item) for item in value]}
    if kind is dict:
        return {"": "dict", "v": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if kind is np.ndarray:
        if value.dtype == np.int64:
            return {"": "ints", "v": value.tolist()}
        assert value.dtype == np.float32
        return {"": "array", "v": [base64.b64encode(value.tobytes()).decode("ascii"), *value.shape]}
    if kind is Placed:  # without the medium, for which replicas ask by its key
        return {"": "Placed", "v": [value.key.hex(), value.rows.tolist(), value.part.kind, value.part.param, _encode(dict(value.options))]}
    if kind is RecordError:
        return {"": "RecordError", "v": value.to_json()}
    if isinstance(value, Enum):
        assert kind is RequestOutputKind
        return {"": "RequestOutputKind", "v": value.value}
    if kind.__name__ in _CLASSES:
        return {"": kind.__name__, "v": [_encode(getattr(value, name)) for name in _FIELDS[kind.__name__]]}
    raise TypeError(f"a {kind.__name__} cannot be sent to another engine")


def decode(value: Any) -> Any:
    """A value as `unframe` gives it."""
    if type(value) is list:
        return value if _is_plain(value) else [decode(item) for item in value]
    if type(value) is not dict:
        return value
    tag, inner = value[""], value["v"]
    if tag == "json":
        return decode(json.loads(inner))
    if tag == "float":
        return float(inner)
    if tag == "tuple":
        return tuple(decode(item) for item in inner)
    if tag == "dict":
        return {decode(key): decode(item) for key, item in inner}
    if tag == "array":
        return np.frombuffer(base64.b64decode(inner[0]), np.float32).reshape(inner[1:]).copy()  # or it could not be written to
    if tag == "ints":
        return np.array(inner, dtype=np.int64)
    if tag == "Placed":
        key, rows, medium, param, options = inner
        part = MediaPart(medium, bytes.fromhex(key), param)
        return Placed(part.source, np.array(rows, dtype=np.int64), part, options=decode(options))
    if tag == "RecordError":
        return RecordError(inner["code"], inner["message"], param=inner["param"], retryable=inner["retryable"])
    if tag == "RequestOutputKind":
        return RequestOutputKind(inner)
    return _CLASSES[tag](**dict(zip(_FIELDS[tag], map(decode, inner), strict=True)))


def _is_plain(values: list[Any]) -> bool:
    """Token ids, mostly: nothing to look into."""
    return _PLAIN.issuperset(map(type, values))
