"""One job: records in, engine, rows out. `Job.run` is the loop that every command calls.

    reader -> take -> task.prepare -> engine.add -> engine.step -> task.to_row -> writer.put -> writer.flush

Records between reader and writer are a window of bounded size, so memory does not grow with the input. Knows nothing of
tokens, text or files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..engine.request import Request
from ..errors import OutputError, RecordError
from ..outputs import RequestOutput
from .jsonl import dumps
from .reader import RecordReader
from .record import Record
from .stats import EngineNumbers, JobStats
from .tasks.base import Task
from .tasks.pending import Pending, contained
from .tasks.rows import error_row
from .writer import OrderedWriter


class JobEngine(Protocol):
    """The part of the engine a job needs."""

    @property
    def num_unfinished(self) -> int:
        """Requests added and not returned yet."""

    @property
    def num_waiting(self) -> int:
        """Sequences not running yet."""

    @property
    def stats(self) -> EngineNumbers:
        """What the engine counted so far."""

    def add(self, request: Request) -> None:
        """Raises RecordError for a request that can never be answered."""

    def step(self) -> list[RequestOutput]:
        """One scheduler step; the requests that finished or failed in it."""


@dataclass(frozen=True)
class Window:
    """How far reading may run ahead of writing.

    `records` and `num_bytes` (of input lines and of rows that wait for their turn) bound what is held in memory;
    more records are read when fewer than `low_water` sequences wait, up to `batch` at a time.
    """

    records: int = 8192
    num_bytes: int = 64 << 20
    low_water: int = 256
    batch: int = 256


class Job:
    """Answers every record of `reader` into `writer`.

    Args:
        reader, writer: both ends; the caller closes what is behind them.
        start: makes the engine and the task. Not called for an empty input.
        on_progress: called often (after each step); must be quick.
    """

    def __init__(
        self,
        reader: RecordReader,
        writer: OrderedWriter,
        start: Callable[[], tuple[JobEngine, Task]],
        *,
        stats: JobStats | None = None,
        window: Window | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.stats = stats or JobStats()
        self._reader = reader
        self._writer = writer
        self._start = start
        self._window = window or Window()
        self._on_progress = on_progress
        self._in_engine: dict[str, Pending] = {}
        self._bytes_in_engine = 0

    def run(self) -> JobStats:
        """Returns when every record has its row and the output is published.

        What one record does wrong never ends the run. Other errors do (InferError, BrokenPipeError); rows whose turn has
        come are written before they are raised.
        """
        # An empty input is answered without a model. A pipe that has nothing yet is no reason to wait with loading it.
        first = self._take(wait=False)
        if first or not self._reader.at_end:
            self._engine, self._task = self._start()
            self.stats.engine = self._engine.stats
            self.stats.ready_at = time.monotonic()
            try:
                self._admit(first)
                self._loop()
            except BaseException as error:
                if not isinstance(error, (BrokenPipeError, OutputError)):
                    self._writer.flush()
                raise
        self._writer.finish()
        self.stats.finished_at = time.monotonic()
        self.stats.num_blank = self._reader.num_blank
        return self.stats

    def _loop(self) -> None:
        while True:
            self._refill()
            self._writer.flush()
            if self._engine.num_unfinished:
                for output in self._engine.step():
                    self._finish(output)
                self._writer.flush()
            elif self._reader.at_end:
                return
            self._on_progress()

    def _refill(self) -> None:
        """Reads and admits records until enough wait in the engine, the window is full, or there is nothing to be had now."""
        while not self._reader.at_end and self._engine.num_waiting < self._window.low_water:
            records = self._take(wait=not self._engine.num_unfinished)
            if not records:
                return
            self._admit(records)
            if not self._engine.num_unfinished:
                return  # all of them failed: write that before more is read

    def _take(self, *, wait: bool) -> list[Record]:
        held = len(self._in_engine) + self._writer.num_held
        room = min(self._window.batch, self._window.records - held)
        room_bytes = self._window.num_bytes - self._bytes_in_engine - self._writer.bytes_held
        return self._reader.take(room, room_bytes, wait=wait)

    def _admit(self, records: list[Record]) -> None:
        if records and self.stats.admitted_at is None:
            self.stats.admitted_at = time.monotonic()
        self.stats.num_blank = self._reader.num_blank
        for pending in self._task.prepare(records):
            if pending.error is None:
                with contained(pending):
                    self._engine.add(pending.to_request())
                    pending.prompt = None  # the engine has it now
            if pending.error is None:
                self._in_engine[str(pending.index)] = pending
                self._bytes_in_engine += pending.size
            else:
                self._fail(pending, pending.error)

    def _finish(self, output: RequestOutput) -> None:
        pending = self._in_engine.pop(output.request_id)
        self._bytes_in_engine -= pending.size
        with contained(pending):
            if output.error is not None:
                raise output.error
            row = dumps(self._task.to_row(pending, output))
        if pending.error is not None:
            self._fail(pending, pending.error)
            return
        self.stats.count_answer(pending.size, output, default_max_tokens=pending.default_max_tokens)
        self._writer.put(pending.index, row)

    def _fail(self, pending: Pending, error: RecordError) -> None:
        self.stats.count_error(pending.size, pending.line, error)
        self._writer.put(pending.index, dumps(error_row(pending, error)))
