"""Whole jobs in memory: bytes in, bytes out, through the fake engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infer.core.jobs import attempt as jobs
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.options import JobOptions
from infer.core.jobs.output.output_format import is_matrix
from infer.core.jobs.output.spill_index import SpillIndex
from infer.core.jobs.publish import publish
from infer.core.jobs.resume import resume
from infer.core.jobs.row import Row
from infer.core.jobs.row_format import MatrixRows
from infer.core.jobs.run import MaxErrors, Run, Window
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask
from infer.core.jobs.watch import Watch

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

    def ready(self, seconds: float = 0.0) -> bool:
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


class Watched(Watch):
    """Calls a test's own function after each step."""

    def __init__(self, stats: JobStats, stepped: Callable[[JobStats], None]) -> None:
        self._stats, self._stepped = stats, stepped

    def stepped(self) -> None:
        self._stepped(self._stats)


@dataclass
class Attempt:
    """One attempt at a job in files. `engine` is None if there was nothing to answer; `done`: it was finished before."""

    stats: JobStats
    engine: Any = None
    done: bool = False


@pytest.fixture(scope="session")
def attempt(fake_engine: Any, byte_tokenizer: Any) -> Callable[..., Attempt]:
    """attempt(inputs, out, resume=True, ..., engine={...}, job={...}): what `infer generate` does, with the fake engine.

    `job` is the fingerprint; `task` goes to CompletionOptions; `size` is that of the vectors, where the output is a matrix; everything
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
        opened = jobs.Attempt(chosen, made.stats)
        watch = Watched(made.stats, between_steps)
        try:
            opened.describe(size, {"model": "fake"})
            if not resume(opened, job or {"temperature": 0.0}):
                made.done = True
                return made
            given = CompletionOptions(**(task or {}), fingerprint=opened.fingerprint)
            run = Run(
                opened.reader,
                opened.output,
                stats=made.stats,
                previous=opened.previous,
                max_errors=None if chosen.max_errors is None else MaxErrors(chosen.max_errors),
                keep_going=chosen.keep_going,
                watch=watch,
            )
            if run.needs_engine():
                made.engine = fake_engine(byte_tokenizer, **(engine or {}))
                length = made.engine.max_model_len
                matrix = is_matrix(chosen.output_format, vectors=chosen.vectors)
                kind = partial(VectorTask, dtype=chosen.embedding_dtype) if matrix else GenerateTask
                of_records = kind(given, byte_tokenizer, max_model_len=length)
                run.look(of_records)
                run.answer(made.engine, of_records)
            run.end()
            publish(opened, watch)
        finally:
            opened.close()
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

        made = fake_engine(byte_tokenizer, **(engine or {}))
        chosen = CompletionOptions(**options)
        if command == "chat":
            task: Any = ChatTask(chosen, byte_tokenizer, chatml, max_model_len=made.max_model_len)
        else:
            task = GenerateTask(chosen, byte_tokenizer, max_model_len=made.max_model_len)
        reader = RecordReader(MemorySource(data, chunk=chunk), max_line_bytes)
        stats = Run(reader, output, window=window).run(made, task)
        assert output.num_rows == stats.num_records
        assert not output.finished  # publishing is the caller's
        return output.data, stats

    return run
