"""Output rows read back: what a row says, whichever of the forms it has."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..jobs.jsonl import dumps, exact


@dataclass(frozen=True, slots=True)
class Answer:
    """One row. `index` is its record's; None where the row does not say (OpenAI Batch lines).

    Args:
        error: its code; None: it was answered.
        texts, reasons, logprobs: of each choice; logprobs of the drawn tokens, empty where there are none.
        tokens: output tokens of all choices; prompt_tokens: those of the prompt.
        vectors: embeddings.
        labels, numbers: of classes and scores, by where they stand.
    """

    index: int | None
    error: str | None
    message: str
    texts: tuple[str, ...]
    reasons: tuple[str, ...]
    logprobs: tuple[tuple[float, ...], ...]
    tokens: int
    prompt_tokens: int
    vectors: tuple[Any, ...]
    labels: tuple[str, ...]
    numbers: Mapping[str, float]
    row: Mapping[str, Any]

    @classmethod
    def of(cls, line: bytes) -> Answer:
        """Raises ValueError for what is no row of an output."""
        row = exact(line)
        if not isinstance(row, dict):
            raise ValueError("it is not a JSON object")
        body, error = row, row.get("error")
        if isinstance(row.get("response"), dict):  # an OpenAI Batch line
            body = row["response"].get("body") or {}
            error = error or body.get("error")
        elif "index" not in row and "error" not in row:
            raise ValueError('it has neither "index" nor "error"')
        error = error if isinstance(error, dict) else None
        choices = [choice for choice in body.get("choices") or () if isinstance(choice, dict)]
        usage = body.get("usage") or {}
        index = row.get("index")
        return cls(
            index if type(index) is int else None,
            None if error is None else str(error.get("code")),
            "" if error is None else str(error.get("message", "")),
            tuple(_text(choice) for choice in choices) or tuple(_of_responses(body)),
            tuple(str(choice.get("finish_reason")) for choice in choices),
            tuple(tuple(_logprobs(choice.get("logprobs"))) for choice in choices),
            usage.get("completion_tokens", usage.get("output_tokens", 0)),
            usage.get("prompt_tokens", usage.get("input_tokens", 0)),
            tuple(_vectors(body)),
            tuple(_labels(body)),
            dict(_numbers(body)),
            row,
        )

    def content(self) -> dict[str, Any]:
        """The row without what depends on the run and not on the answer: ids that name it, and what a cache had."""
        return {name: _cleared(value) for name, value in self.row.items() if name != "id" or "response" not in self.row}


def _cleared(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    skipped = {"prompt_tokens_details", "request_id", *(("id", "model", "created") if "object" in value else ())}
    return {name: _cleared(one) for name, one in value.items() if name not in skipped}


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    if not isinstance(message, dict):
        return str(choice.get("text") or "")
    parts = [str(message[name]) for name in ("reasoning_content", "reasoning", "content") if message.get(name)]
    return "\n".join([*parts, *(dumps(call).decode() for call in message.get("tool_calls") or ())])


def _of_responses(body: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a body of OpenAI's Responses."""
    output = body.get("output")
    for item in output if isinstance(output, list) else ():
        parts = [str(part.get("text", "")) for part in item.get("content") or () if isinstance(part, dict)]
        yield "\n".join(parts) if parts else dumps({name: item[name] for name in ("name", "arguments") if name in item}).decode()


def _logprobs(told: Any) -> Iterator[float]:
    if isinstance(told, dict):
        for value in told.get("token_logprobs") or ():
            yield float("nan") if value is None else float(value)
        for entry in told.get("content") or ():
            yield float(entry["logprob"])


def _vectors(body: Mapping[str, Any]) -> Iterator[Any]:
    found = [body["embedding"]] if body.get("embedding") else list(body.get("embeddings") or ())
    data = body.get("data")
    found += [one["embedding"] for one in data if isinstance(one, dict) and "embedding" in one] if isinstance(data, list) else []
    for vector in found:
        yield _floats(vector) if isinstance(vector, str) else np.asarray(vector, dtype=np.float64)


def _floats(text: str) -> Any:
    """Base64 of float32. Raises ValueError."""
    try:
        return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)
    except (binascii.Error, ValueError):
        raise ValueError("an embedding is base64 of something else than float32") from None


def _labels(body: Mapping[str, Any]) -> Iterator[str]:
    for one in (body, *_listed(body, "answers"), *_listed(body, "data")):
        if "label" in one:
            yield str(one["label"])


def _numbers(body: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Scores and probabilities, by a name for where each stands."""
    for i, one in enumerate(
        (body, *_listed(body, "answers"), *_listed(body, "data"), *_listed(body, "results"), *_listed(body, "choices"))
    ):
        for name in ("score", "scores", "relevance_score", "probs"):
            value = one.get(name)
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [("", value)]
            for key, number in items:
                if isinstance(number, (int, float)):
                    yield f"{i} {name} {key}", float(number)


def _listed(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = body.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
