"""Whole jobs in memory: bytes in, bytes out, through the fake engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.options import JobOptions
from infer.core.jobs.output.spill_index import SpillIndex
from infer.core.jobs.row import Row
from infer.core.jobs.row_format import MatrixRows
from infer.core.jobs.run import Job, Window
from infer.core.jobs.session import Session
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tasks import ChatTask, GenerateTask, TaskOptions

#: Values of a vector of `VectorTask`.
SIZE = 5


class VectorTask(GenerateTask):
    """The generated output as a vector: for outputs that are matrices."""

    def __init__(self, *args: Any, dtype: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rows = MatrixRows(SIZE, dtype, flat=self.options.error_format == "flat")

    def vector(self, pending: Any, output: Any) -> Any:
        """float32 [SIZE], never zero."""
        ids = [*output.prompt_token_ids, *(i for choice in output.outputs for i in choice.token_ids)]
        return np.random.default_rng(ids).standard_normal(SIZE, dtype=np.float32)

    def ids_row(self, pending: Any, output: Any) -> dict[str, Any]:
        row = {"index": pending.index, "id": pending.id, "error": None}
        return row if pending.batch is None else row | {"custom_id": pending.batch.custom_id}


class MemorySource:
    """Bytes as a Source, a little at a time."""

    def __init__(self, data: bytes, *, chunk: int = 1 << 20) -> None:
        self._stream = io.BytesIO(data)
        self._chunk = chunk

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._chunk))

    def ready(self) -> bool:
        return True


class MemoryOutput:
    """An output in memory that says whether it was finished. Like a pipe, it keeps nothing for later."""

    def __init__(self) -> None:
        self.data = b""
        self.finished = False
        self.num_rows = 0
        self.spilled = SpillIndex()

    def write(self, rows: Sequence[Row]) -> None:
        self.data += b"".join([row.data + b"\n" for row in rows])
        self.num_rows += len(rows)

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        return True

    def fetch(self, ordinal: int) -> Row:
        raise AssertionError("nothing is spilled here")

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def memory_source() -> type[MemorySource]:
    return MemorySource


@pytest.fixture(scope="session")
def memory_output() -> type[MemoryOutput]:
    return MemoryOutput


@dataclass
class Attempt:
    """One attempt at a job in files. `engine` is None if there was nothing to answer; `done`: it was finished before."""

    stats: JobStats
    engine: Any = None
    done: bool = False


@pytest.fixture(scope="session")
def attempt(fake_engine: Any, byte_tokenizer: Any) -> Callable[..., Attempt]:
    """attempt(inputs, out, resume=True, ..., engine={...}, job={...}): what `infer generate` does, with the fake engine.

    `job` is the fingerprint; `task` goes to TaskOptions; `size` is that of the vectors, where the output is a matrix; everything
    else goes to JobOptions.
    """

    def run(
        inputs: Path | Sequence[Path],
        output: Path,
        *,
        engine: dict[str, Any] | None = None,
        job: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        size: int = SIZE,
        between_steps: Callable[[JobStats], None] = lambda stats: None,
        **options: Any,
    ) -> Attempt:
        names = (inputs,) if isinstance(inputs, Path) else inputs
        told = {"overwrite": False, "stats": None, "quiet": True, "verbose": 0, "progress_interval": 1.0}
        told |= {"max_line_bytes": 1 << 20, "report_cache": False, "strict": False}
        chosen = JobOptions(tuple(map(str, names)), str(output), **(told | options))
        made = Attempt(JobStats(started_at=0.0))
        session = Session(chosen, made.stats)
        try:
            session.set_matrix(size, {"model": "fake"})
            session.begin(job or {"temperature": 0.0})
            if session.is_done:
                made.done = True
                return made
            given = TaskOptions(**(task or {})).with_fingerprint(session.fingerprint)

            def start() -> Any:
                made.engine = fake_engine(byte_tokenizer, **(engine or {}))
                length = made.engine.max_model_len
                if chosen.output_format == "jsonl":
                    return made.engine, GenerateTask(given, byte_tokenizer, max_model_len=length)
                return made.engine, VectorTask(given, byte_tokenizer, max_model_len=length, dtype=chosen.embedding_dtype)

            session.run(start, between_steps=lambda: between_steps(made.stats))
        finally:
            session.close()
        return made

    return run


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
        output = MemoryOutput()

        def start() -> Any:
            made = fake_engine(byte_tokenizer, **(engine or {}))
            chosen = TaskOptions(**options)
            if command == "chat":
                return made, ChatTask(chosen, byte_tokenizer, chatml, max_model_len=made.max_model_len)
            return made, GenerateTask(chosen, byte_tokenizer, max_model_len=made.max_model_len)

        reader = RecordReader(MemorySource(data, chunk=chunk), max_line_bytes)
        stats = Job(reader, output, start, window=window).run()
        assert output.num_rows == stats.num_records
        assert not output.finished  # publishing is the caller's
        return output.data, stats

    return run
