"""Whole jobs in memory: bytes in, bytes out, through the fake engine."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from infer.core.jobs.reader import RecordReader
from infer.core.jobs.run import Job, Window
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tasks import ChatTask, GenerateTask, TaskOptions
from infer.core.jobs.writer import OrderedWriter


class MemorySource:
    """Bytes as a Source, a little at a time."""

    def __init__(self, data: bytes, *, chunk: int = 1 << 20) -> None:
        self._stream = io.BytesIO(data)
        self._chunk = chunk

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._chunk))

    def ready(self) -> bool:
        return True


class MemorySink:
    """What was written, and whether it was finished."""

    def __init__(self) -> None:
        self.data = b""
        self.finished = False

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def memory_source() -> type[MemorySource]:
    return MemorySource


@pytest.fixture(scope="session")
def memory_sink() -> type[MemorySink]:
    return MemorySink


@pytest.fixture(scope="session")
def run_job(fake_engine: Any, chatml: Any, byte_tokenizer: Any) -> Callable[..., tuple[bytes, JobStats]]:
    """run_job(data, command="chat", engine={...}, window=..., max_line_bytes=..., **task options) -> output bytes, stats."""

    def run(
        data: bytes,
        *,
        command: str = "generate",
        engine: dict[str, Any] | None = None,
        window: Window | None = None,
        max_line_bytes: int = 1 << 20,
        chunk: int = 1 << 20,
        **options: Any,
    ) -> tuple[bytes, JobStats]:
        sink = MemorySink()

        def start() -> Any:
            made = fake_engine(byte_tokenizer, **(engine or {}))
            chosen = TaskOptions(**options)
            if command == "chat":
                return made, ChatTask(chosen, byte_tokenizer, chatml, max_model_len=made.max_model_len)
            return made, GenerateTask(chosen, byte_tokenizer, max_model_len=made.max_model_len)

        reader = RecordReader(MemorySource(data, chunk=chunk), max_line_bytes)
        stats = Job(reader, OrderedWriter(sink), start, window=window).run()
        assert sink.finished
        return sink.data, stats

    return run
