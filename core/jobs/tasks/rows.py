"""The shape of output lines: the only place that knows the JSON schema. Keys are in the order they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...errors import RecordError
from ...outputs import CompletionOutput, Logprob, RequestOutput
from ..jsonl import dumps, loads
from . import openai_batch
from .pending import Pending, PendingPrompt

#: What is written for a log-probability of minus infinity, which JSON does not have (as OpenAI and vLLM do).
_NEVER = -9999.0

TokenText = Callable[[int, "str | None"], str]


def answer_row(
    pending: PendingPrompt, output: RequestOutput, choices: list[dict[str, Any]], token_text: TokenText, *, report_cache: bool
) -> dict[str, Any]:
    """The line of an answered record."""
    answer: dict[str, Any] = {}
    if pending.params is not None and pending.params.return_token_ids:
        answer["prompt_token_ids"] = output.prompt_token_ids
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, token_text)
    answer["choices"] = choices
    num_prompt = len(output.prompt_token_ids)
    num_output = sum(len(choice.token_ids) for choice in output.outputs)
    answer["usage"] = {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}
    if report_cache:
        answer["usage"]["prompt_tokens_details"] = {"cached_tokens": output.num_cached_tokens}
    if pending.batch is not None:
        return openai_batch.answer_row(pending.batch, answer)
    return native_row(pending, answer)


def error_row(pending: Pending, error: RecordError) -> dict[str, Any]:
    """The line of a failed record: no choices, no usage."""
    if pending.batch is not None:
        return openai_batch.error_row(pending.batch, error)
    return native_row(pending, {}, error)


def error_line(raw: bytes | None, error: RecordError) -> bytes | None:
    """What --errors writes of a failed input line: the line with its error in `_error`, which is ignored when it is run again.

    A line that is no JSON object becomes one that holds it as text. None if the line was not kept.
    """
    if raw is None:
        return None
    try:
        fields = loads(raw)
    except RecordError:
        fields = {"_line": raw.decode("utf-8", "replace")}
    return dumps({**fields, "_error": error.to_json()})


def native_row(pending: Pending, answer: dict[str, Any], error: RecordError | None = None) -> dict[str, Any]:
    """A line in our own form: `answer` is what is particular to the task, empty beside an error."""
    row: dict[str, Any] = {"index": pending.index}
    if pending.id is not None:
        row["id"] = pending.id
    row.update(answer)
    row["error"] = None if error is None else error.to_json()
    if pending.extra:
        row["extra"] = pending.extra
    return row


def completion_logprobs(choice: CompletionOutput, token_text: TokenText) -> dict[str, Any]:
    """OpenAI's completions shape. `text_offset` counts the characters of the tokens before."""
    tokens: list[str] = []
    drawn: list[float] = []
    top: list[dict[str, float]] = []
    offsets: list[int] = []
    offset = 0
    for token_id, entries in zip(choice.token_ids, choice.logprobs or (), strict=True):
        text = token_text(token_id, entries[token_id].decoded_token)
        tokens.append(text)
        drawn.append(finite(entries[token_id].logprob))
        best: dict[str, float] = {}
        for i, entry in entries.items():  # pieces of characters may look alike: the likeliest keeps the name
            best.setdefault(token_text(i, entry.decoded_token), finite(entry.logprob))
        top.append(best)
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": drawn, "top_logprobs": top, "text_offset": offsets}


def prompt_logprobs(entries: list[dict[int, Logprob] | None], token_text: TokenText) -> list[dict[str, Any] | None]:
    """vLLM's shape: one object a prompt token, token id -> {logprob, rank, decoded_token}; the first token has none."""
    return [
        None if one is None else {str(i): _entry(entry, token_text(i, entry.decoded_token)) for i, entry in one.items()} for one in entries
    ]


def _entry(entry: Logprob, text: str) -> dict[str, Any]:
    return {"logprob": finite(entry.logprob), "rank": entry.rank, "decoded_token": text}


def chat_logprobs(choice: CompletionOutput, num_top: int, token_text: TokenText) -> dict[str, Any]:
    """OpenAI's chat shape; `num_top` entries a position beside the drawn token, -1: all."""
    content = []
    for token_id, entries in zip(choice.token_ids, choice.logprobs or (), strict=True):
        best = [_token(token_text(i, e.decoded_token), e.logprob) for i, e in list(entries.items())[: num_top if num_top >= 0 else None]]
        drawn = entries[token_id]
        content.append({**_token(token_text(token_id, drawn.decoded_token), drawn.logprob), "top_logprobs": best})
    return {"content": content}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode("utf-8", "replace"))}


def finite(logprob: float) -> float:
    """A log-probability as JSON can hold it. NaN must not be written: it would turn into null and look like "not asked for"."""
    if math.isfinite(logprob):
        return logprob
    if logprob == -math.inf:
        return _NEVER
    raise RecordError("non_finite_logits", "the model gave a log-probability that is not a number")
