"""OpenAI Batch lines: `{"custom_id", "method", "url", "body"}` in, `{"id", "custom_id", "response", "error"}` out.

The body is read as the fields of a native line are. Answers carry no random ids and no times, so that they are the same
whenever they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RecordError, nearest
from ..jsonl import wrong_type

#: What a line is asked of -> the command that answers such lines alone ("batch" answers those of all urls that its model can).
COMMANDS = {
    "/v1/completions": "generate",
    "/v1/chat/completions": "chat",
    "/v1/responses": "batch",
    "/v1/embeddings": "embed",
    "/v1/score": "score",
    "/v1/rerank": "score",
    "/v2/rerank": "score",
    "/v1/classify": "classify",
    "/v1/audio/transcriptions": "transcribe",
    "/v1/audio/translations": "transcribe",
}
#: The same as they are called elsewhere: by vLLM's servers, and in Azure's files.
COMMANDS |= {url.removeprefix("/v1"): command for url, command in COMMANDS.items() if url.startswith("/v1")}
#: Those that messages name.
_SHOWN = [url for url in COMMANDS if url.startswith(("/v1", "/v2"))]
#: What the answer's body calls itself.
_OBJECTS = {
    "generate": "text_completion",
    "beam": "text_completion",
    "chat": "chat.completion",
    "batch": "response",
    "embed": "list",
    "score": "list",
    "classify": "list",
    "transcribe": "transcription",
}

#: The fields of a Batch line itself.
FIELDS = frozenset({"custom_id", "method", "url", "body"})

#: Errors that are ours, not the request's: HTTP says 500 for them.
_OURS = frozenset({"internal", "non_finite_logits"})

_FINGERPRINT_DIGITS = 12


@dataclass(slots=True)
class BatchLine:
    """The part of a Batch line that its answer needs.

    Args:
        id: names the answer: `infer-<start of the run's fingerprint>-<index>`.
        object, model: of the answer's body.
        url: what the line is asked of, whatever is written there.
        custom_id: the line's own id; None until it is known to be one.
    """

    id: str
    object: str
    model: str
    url: Any = None
    custom_id: str | int | None = None


def is_batch(fields: Mapping[str, Any], own: frozenset[str]) -> bool:
    """True if a line is a Batch line, and not a native one (with `own` fields) that has columns of such names."""
    if "url" not in fields or "body" not in fields or not own.isdisjoint(fields):
        return False
    return isinstance(fields["body"], dict) or "custom_id" in fields or "method" in fields


def batch_line(index: int, *, command: str, fingerprint: str, model: str, url: Any = None) -> BatchLine:
    """For the line of record `index`."""
    return BatchLine(f"infer-{fingerprint[:_FINGERPRINT_DIGITS]}-{index}", _OBJECTS[command], model, url)


def body_of(fields: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The request in a Batch line that `command` can answer. Raises RecordError."""
    url, body = request_of(fields)
    if COMMANDS[url] != command:
        other = "" if COMMANDS[url] == "batch" else "; infer batch answers lines of all urls that its model can"
        raise RecordError("unsupported", f"a line with url {url} belongs to infer {COMMANDS[url]}{other}", param="url")
    return body


def request_of(fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The url of a Batch line, which is one of COMMANDS, and its body. Raises RecordError."""
    if fields.get("custom_id") is None:
        raise RecordError("missing_field", "an OpenAI Batch line needs a custom_id", param="custom_id")
    for name in ("url", "body"):
        if name not in fields:
            raise RecordError("missing_field", f"an OpenAI Batch line needs a {name}", param=name)
    method, url, body = fields.get("method", "POST"), fields["url"], fields["body"]
    if method != "POST":
        raise RecordError("invalid_value", "method must be POST", param="method")
    if not isinstance(url, str):
        raise wrong_type("url", "a string", url)
    if url not in COMMANDS:
        known = ", ".join(_SHOWN)
        raise RecordError("unsupported", f"url {url[:100]!r} is not supported{nearest(url[:100], _SHOWN)} (known: {known})", param="url")
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    return url, body


def answer_row(line: BatchLine, answer: dict[str, Any]) -> dict[str, Any]:
    """The line of an answered record; `answer` has what a native line says: choices, usage, prompt_token_ids."""
    for choice in answer["choices"]:
        choice.setdefault("logprobs", None)
    return body_row(line, {"id": line.id, "object": line.object, "created": 0, "model": line.model, **answer})


def classification_row(line: BatchLine, data: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    """The line of a record that was classified, as vLLM's servers give it: `data` has an entry for each text."""
    return body_row(line, {"id": line.id, "object": line.object, "created": 0, "model": line.model, "data": data, "usage": usage})


def body_row(line: BatchLine, body: dict[str, Any]) -> dict[str, Any]:
    """The line of a record whose answer is this body."""
    return _row(line, 200, body, None)


def error_row(line: BatchLine, error: RecordError) -> dict[str, Any]:
    """The line of a failed record. Failure is told in both ways that readers look for: `error` and the status code."""
    ours = error.code in _OURS
    details = {"type": "server_error" if ours else "invalid_request_error", **error.to_json()}
    return _row(line, 500 if ours else 400, {"error": details}, {"code": error.code, "message": error.message})


def _row(line: BatchLine, status: int, body: dict[str, Any], error: dict[str, Any] | None) -> dict[str, Any]:
    response = {"status_code": status, "request_id": line.id, "body": body}
    return {"id": line.id, "custom_id": line.custom_id, "response": response, "error": error}
