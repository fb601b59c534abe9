"""/v1/responses: OpenAI's newer form of a conversation, with text in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....errors import RecordError
from ....types.outputs import RequestOutput
from ...record import Record
from ..chat import ChatTask
from ..openai_batch import body_row
from ..pending import PendingPrompt
from .response_answer import response_body
from .response_request import chat_fields

#: Field of a chat request -> the field that it was made of, for errors.
_CALLED = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_NAMES = re.compile(r"\b(" + "|".join(_CALLED) + r")\b")


@dataclass(slots=True)
class PendingResponse(PendingPrompt):
    """`body`: of the request, parts of which the answer repeats."""

    body: Mapping[str, Any] = field(default_factory=dict)


class ResponsesTask(ChatTask):
    """The request becomes one of the chat API, and is answered as that is."""

    command = "batch"
    keeps = PendingResponse

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "input"'

    def _open(self, record: Record, pending: PendingPrompt) -> dict[str, Any]:
        body = super()._open(record, pending)
        assert isinstance(pending, PendingResponse)
        fields = chat_fields(body)
        pending.body = body
        return fields

    def _start(self, record: Record) -> Any:
        pending = super()._start(record)
        assert isinstance(pending, PendingResponse)
        if pending.error is not None and pending.body:  # what is told before knows how fields are called here
            pending.error = _renamed(pending.error)
        return pending

    def to_row(self, pending: PendingPrompt, output: RequestOutput) -> dict[str, Any]:
        assert isinstance(pending, PendingResponse)
        assert pending.batch is not None
        assert pending.params is not None
        settings = {"temperature": pending.params.temperature, "top_p": pending.params.top_p}
        line = pending.batch
        answer = self.answer_of(pending, output)
        return body_row(line, response_body(line.id, line.model, pending.body, settings, answer, self._count))

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False)) if self.tokenizer is not None else 0


def _renamed(error: RecordError) -> RecordError:
    """An error about a chat request, in the words of this API."""
    param = error.param
    if param not in _CALLED:
        return error
    message = _NAMES.sub(lambda found: _CALLED[found[1]], error.message)
    return RecordError(error.code, message, param=_CALLED[param].partition(".")[0], retryable=error.retryable)
