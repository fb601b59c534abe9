"""The shape of output lines: the only place that knows the JSON schema. Keys are in the order they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import RecordError
from ...text.spelling import Spelling
from ...types.outputs import CompletionOutput, Logprob, RequestOutput
from ..jsonl import dumps, loads
from . import openai_batch
from .pending import Pending, PendingPrompt

#: What is written for a log-probability of minus infinity, which JSON does not have (as OpenAI and vLLM do).
_NEVER = -9999.0

TokenName = Callable[[int, "str | None"], str]


def answer_of(
    pending: PendingPrompt, output: RequestOutput, choices: list[dict[str, Any]], token_name: TokenName, *, report_cache: bool
) -> dict[str, Any]:
    """The answer to one prompt."""
    answer: dict[str, Any] = {}
    if pending.params is not None and pending.params.return_token_ids:
        answer["prompt_token_ids"] = output.prompt_token_ids
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs, token_name)
    answer["choices"] = choices
    if pending.params is not None and pending.params.return_token_ids and output.encoder_prompt_token_ids is not None:
        answer["encoder_prompt_token_ids"] = output.encoder_prompt_token_ids
    num_prompt = output.num_prompt_tokens
    num_output = sum(len(choice.token_ids) for choice in output.outputs)
    answer["usage"] = {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}
    if report_cache:
        answer["usage"]["prompt_tokens_details"] = {"cached_tokens": output.num_cached_tokens}
    return answer


def joined(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer to a list of prompts, from those to each: choices are numbered through, usage is the sum, and what is told of a prompt
    is told in each of its choices, as vLLM does."""
    choices: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for one in answers:
        told: dict[str, Any] = {name: one[name] for name in ("prompt_token_ids", "prompt_logprobs") if name in one}
        choices += [{**choice, "index": len(choices) + i, **told} for i, choice in enumerate(one["choices"])]
        usage = _sum(usage, one["usage"])
    return {"choices": choices, "usage": usage}


def _sum(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _sum(first.get(name, {}), value) if isinstance(value, dict) else first.get(name, 0) + value for name, value in second.items()
    }


def written(pending: PendingPrompt, answer: dict[str, Any]) -> dict[str, Any]:
    """The line of an answered record."""
    if pending.batch is not None:
        return openai_batch.answer_row(pending.batch, answer)
    return native_row(pending, answer)


def error_row(pending: Pending, error: RecordError) -> dict[str, Any]:
    """The line of a failed record: no choices, no usage."""
    if pending.batch is not None:
        return openai_batch.error_row(pending.batch, error)
    return native_row(pending, {}, error)


def error_line(raw: bytes | None, error: RecordError) -> bytes | None:
    """The line that --errors writes of a failed input line: that line with its error in `_error`, which is ignored when it is run again.

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


def completion_logprobs(choice: CompletionOutput, spelling: Spelling) -> dict[str, Any]:
    """OpenAI's completions shape. `top_logprobs` has an entry for each token, the drawn one under its name in `tokens`;
    `text_offset` is where in the text a token begins."""
    tokens: list[str] = []
    drawn: list[float] = []
    top: list[dict[str, float]] = []
    for place, (token, entries) in enumerate(zip(choice.token_ids, choice.logprobs or (), strict=True)):
        names = spelling.names(place, entries)
        tokens.append(names[token])
        drawn.append(finite(entries[token].logprob))
        top.append({names[i]: finite(entry.logprob) for i, entry in entries.items()})
    return {"tokens": tokens, "token_logprobs": drawn, "top_logprobs": top, "text_offset": spelling.offsets}


def prompt_logprobs(entries: list[dict[int, Logprob] | None], token_name: TokenName) -> list[dict[str, Any] | None]:
    """vLLM's shape: one object a prompt token, token id -> {logprob, rank, decoded_token}; the first token has none."""
    return [
        None if one is None else {str(i): _entry(entry, token_name(i, entry.decoded_token)) for i, entry in one.items()} for one in entries
    ]


def _entry(entry: Logprob, text: str) -> dict[str, Any]:
    return {"logprob": finite(entry.logprob), "rank": entry.rank, "decoded_token": text}


def chat_logprobs(choice: CompletionOutput, num_top: int, spelling: Spelling) -> dict[str, Any]:
    """OpenAI's chat shape; `num_top` entries a position beside the drawn token, -1: all. The `bytes` of the drawn tokens, joined,
    are those of the text; a token that is left out of it has none."""
    content = []
    for place, (token, entries) in enumerate(zip(choice.token_ids, choice.logprobs or (), strict=True)):
        names = spelling.names(place, entries)
        adds = spelling.adds
        told = {i: _token(names[i], adds(place, i), entry.logprob) for i, entry in entries.items()}
        best = list(told.values())[: num_top if num_top >= 0 else None]
        content.append({**told[token], "top_logprobs": best})
    return {"content": content}


def _token(name: str, data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": name, "logprob": finite(logprob), "bytes": list(data)}


def finite(logprob: float) -> float:
    """A log-probability as JSON can hold it. NaN must not be written: it would turn into null and look like "not asked for"."""
    if math.isfinite(logprob):
        return logprob
    if logprob == -math.inf:
        return _NEVER
    raise RecordError("non_finite_logits", "the model gave a log-probability that is not a number")
