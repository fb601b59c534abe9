"""The cells of a row: its JSON, flattened as far as every answer of a command has it.

    index, id, custom_id         as they are
    extra                        a cell for each field, under its own name
    choices                      the fields of the first one (of a message its own), and all of them where there are several
    probs                        as they are, and `prob`, that of `label`
    usage                        a cell for each number
    error                        error_code, error_message, error_param, error_retryable
    anything else                as it is

A value that is an object or a list is one cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...row_format import with_error
from ..previous import index_of

_ABOUT = ("index", "id", "custom_id")
#: Of an OpenAI Batch line: nothing that the answer or its place does not say.
_ENVELOPE = frozenset({"id", "object", "created", "model"})


class Cells(NamedTuple):
    """Name -> value of a row's cells, in the order of their columns."""

    about: Mapping[str, Any]
    extra: Mapping[str, Any]
    answer: Mapping[str, Any]
    usage: Mapping[str, Any]
    error: Mapping[str, Any]


def cells_of(row: dict[str, Any]) -> Cells:
    """The cells of a parsed row, native or of OpenAI Batch form."""
    row = with_error(row)
    error = row.get("error") or {}
    extra = row.get("extra") or {}
    if "response" in row and "custom_id" in row:
        body = row["response"].get("body") or {}
        about = {"index": index_of(row), "custom_id": row["custom_id"]}
        answer = {name: value for name, value in body.items() if name not in _ENVELOPE and name != "error"}
        error = {**(body.get("error") or {}), **error}
    else:
        about = {name: row[name] for name in _ABOUT if name in row}
        answer = {name: value for name, value in row.items() if name not in _ABOUT and name not in ("error", "extra")}
    if "output" in answer and _is_response(row):
        answer = _response(answer)
    usage = _usage(answer.pop("usage", None) or {})
    if isinstance(probs := answer.get("probs"), dict) and "label" in answer:
        answer = {"label": answer.pop("label"), "prob": probs.get(row["label"]), **answer}
    choices = answer.pop("choices", None)
    if choices:
        first = _choice(choices[0])
        answer = {**first, **answer}
        if len(choices) > 1:
            answer["choices"] = choices
    told = {f"error_{name}": error.get(name) for name in ("code", "message", "param", "retryable")} if error else {}
    return Cells(about, extra, answer, usage, told)


def _is_response(row: Mapping[str, Any]) -> bool:
    """True for a Batch line that answers /v1/responses."""
    return ((row.get("response") or {}).get("body") or {}).get("object") == "response"


def _response(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Of /v1/responses: the text, what it is in, and how it ended; not what the request had asked for."""
    parts = [part for item in answer["output"] if item.get("type") == "message" for part in item.get("content") or ()]
    text = "".join(part.get("text", "") for part in parts if part.get("type") == "output_text")
    return {"content": text, **{name: answer[name] for name in ("status", "incomplete_details", "output", "usage") if name in answer}}


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in choice.items():
        if name == "message":
            cells |= {key: one for key, one in value.items() if key != "role"}
        elif name != "index":
            cells[name] = value
    return cells


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in usage.items():
        cells |= value if isinstance(value, dict) else {name: value}
    return cells
