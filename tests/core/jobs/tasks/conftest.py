"""One record through one task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask, Pending, Task
from infer.core.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_bert: Path) -> Tokenizer:
    """Of a model that pools."""
    return Tokenizer.load(lambda name: (tiny_bert / name).read_bytes() if (tiny_bert / name).exists() else None)


@pytest.fixture
def task(byte_tokenizer: Any, chatml: Any) -> Callable[..., Task]:
    """task("chat", strict=True, ...)"""

    def make(command: str = "generate", **options: Any) -> Task:
        chosen = CompletionOptions(**options)
        if command == "chat":
            return ChatTask(chosen, byte_tokenizer, chatml, max_model_len=256)
        return GenerateTask(chosen, byte_tokenizer, max_model_len=256)

    return make


@pytest.fixture
def prepare() -> Callable[..., Pending]:
    """prepare(task, field=value, ...): the record on its way, or its error raised."""

    def one(task: Task, **fields: Any) -> Pending:
        (pending,) = task.prepare([Record.parse(0, 1, 1, dumps(fields))])
        if pending.error:
            raise pending.error
        return pending

    return one


@pytest.fixture
def code_of(prepare: Any) -> Callable[..., tuple[str, str | None]]:
    """(code, param) of the error a record gets."""

    def one(task: Task, **fields: Any) -> tuple[str, str | None]:
        with pytest.raises(RecordError) as caught:
            prepare(task, **fields)
        return caught.value.code, caught.value.param

    return one
