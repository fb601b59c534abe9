"""The run of a job: records in, engine, rows out, step by step.

    reader -> take -> task.prepare -> engine.add -> engine.step -> task.rows.answer -> writer.put -> writer.flush

A task that waits for files and other machines prepares beside the steps, see `tasks/beside.py`.
Records between reader and writer are a window of bounded size, so memory does not grow with the input. Knows nothing of
tokens, text or files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..containment import contained, own_error
from ..engine.protocol import Answer, AnyEngine
from ..errors import OutputError, RecordError, TooManyErrors
from .first_records import FirstRecords
from .input.reader import RecordReader
from .output.previous import Previous
from .output.writer import OrderedWriter, Output
from .record import Record
from .row import Row
from .stats import JobStats
from .tally import Tally
from .tasks.beside import BATCH, Beside
from .tasks.pending import Pending
from .tasks.protocol import AnyTask
from .tasks.rows import error_line
from .watch import Watch

#: While the run only waits for records, it reports progress and checks the engine each time this many seconds have passed.
_PATIENCE = 1.0
#: Records in the window for each sequence that runs: one runs, one waits, and others have rows that wait for their turn.
_PER_SEQUENCE = 4
#: Records after which a share of failed ones means something.
_SOME = 100


@dataclass(frozen=True)
class Window:
    """The distance that reading may run ahead of writing.

    `records` and `num_bytes` (of input lines, of media that were fetched for them, and of rows that wait for their turn) bound what is
    held in memory;
    up to `batch` more records (or as many as an engine runs at a time, if that is more) are read before a step when fewer than
    `low_water` sequences wait. None is as many as the engine needs to choose from: a few times those it runs.
    """

    records: int = 8192
    num_bytes: int = 64 << 20
    low_water: int | None = None
    batch: int = 256

    def for_engine(self, engine: AnyEngine) -> Window:
        """The same, wide enough that a large fleet has work; its bytes stay bounded as they are."""
        return replace(self, records=max(self.records, _PER_SEQUENCE * engine.max_num_seqs))

    def wants_more(self, engine: AnyEngine) -> bool:
        """True if too few sequences wait."""
        enough = max(self.batch, min(4 * engine.max_num_seqs, self.records // 2)) if self.low_water is None else self.low_water
        return engine.num_waiting < enough


@dataclass(frozen=True)
class MaxErrors:
    """The number of records that may fail: a count, or a share of those done (looked at from `_SOME` records on, and at the end)."""

    limit: int | float

    def check(self, stats: JobStats, *, at_end: bool = False) -> None:
        """Raises TooManyErrors."""
        failed, done = stats.num_failed, stats.num_records
        if isinstance(self.limit, int):
            too_many, allowed = failed > self.limit, f"{self.limit:,}"
        else:
            too_many, allowed = (at_end or done >= _SOME) and failed > self.limit * done, f"{100 * self.limit:.4g}% of them"
        if too_many:
            raise TooManyErrors(f"{failed:,} of {done:,} record{'s' * (done != 1)} failed; --max-errors allows {allowed}")


class Run:
    """Answers every record of `reader` into `output`: `needs_engine`, then `answer` if so, then `end`.

    What one record does wrong never ends it. Other errors do (InferError, BrokenPipeError, an interrupt); what is finished is safe
    before they are raised.

    Args:
        reader, output: both ends; the caller closes what is behind them.
        previous: has the rows of records that are not to be answered again.
        max_errors: when to give up.
        keep_going: also where the first records have all failed with one code, see `first_records`.
        watch: whoever looks on.
    """

    def __init__(
        self,
        reader: RecordReader,
        output: Output,
        *,
        stats: JobStats | None = None,
        window: Window | None = None,
        previous: Previous | None = None,
        max_errors: MaxErrors | None = None,
        keep_going: bool = True,
        watch: Watch | None = None,
    ) -> None:
        self.stats = stats or JobStats()
        self._reader = reader
        self._writer = OrderedWriter(output)
        self._window = window or Window()
        self._chooses_window = window is None
        self._previous = previous
        self._max_errors = max_errors
        self._watch = watch or Watch()
        self._hold = self._watch.hold
        self._batch = self._window.batch
        self._first_records = FirstRecords(over=keep_going, limited=max_errors is not None)
        self._first: list[Record] = []
        self._first_pending: list[Pending] | None = None
        self._was_answered = False
        self._beside: Beside | None = None
        self._in_engine: dict[str, Pending] = {}
        self._bytes_in_engine = 0

    def run(self, engine: AnyEngine, task: AnyTask) -> JobStats:
        """All of it, with an engine that is there already."""
        if self.needs_engine():
            self.answer(engine, task)
        return self.end()

    def needs_engine(self) -> bool:
        """Reads the first records to answer. An empty input is answered without a model; a pipe that has nothing yet is no reason to
        wait with loading it."""
        self._first = self._read_first()
        return bool(self._first) or not self._reader.at_end

    def look(self, task: AnyTask) -> None:
        """Reads what the first records hold, before there is an engine. Raises ConfigError or TooManyErrors where all of them fail in
        one way."""
        pendings = task.prepare(self._first)
        self._first_records.over |= self.stats.num_records > 0  # the first ones were an earlier attempt's
        self._first_records.check_read(self._first, pendings, task, at_end=self._reader.at_end)
        self._first_pending = pendings

    def answer(self, engine: AnyEngine, task: AnyTask) -> None:
        """Answers what there is to answer."""
        self._engine, self._task, self._was_answered = engine, task, True
        self._batch = max(self._batch, engine.max_num_seqs)
        if self._chooses_window:
            self._window = self._window.for_engine(engine)
        self.stats.engine, self.stats.at_a_time = engine.stats, engine.max_num_seqs
        self.stats.ready_at = time.monotonic()
        with self._saving():
            if self._first_pending is None:
                self._first_pending = task.prepare(self._first)
            first, self._first, self._first_pending = self._first_pending, [], None
            self._enter(first)
            self._loop()

    def end(self) -> JobStats:
        """Returns when every record has its row; publishing the output is the caller's."""
        if self._max_errors and not self._was_answered:
            self._max_errors.check(self.stats, at_end=True)  # of rows an earlier attempt finished
        self._flush()
        with self._hold():
            self._writer.finish()
        self.stats.finished_at = time.monotonic()
        self.stats.num_blank = self._reader.num_blank
        return self.stats

    def _read_first(self) -> list[Record]:
        """Rows that are kept go by without an engine."""
        if self._previous is None:
            return self._take(wait=False)
        with self._saving():
            while not (records := self._take(wait=True)) and not self._reader.at_end:
                self._flush()
                self._watch.stepped()
        return records

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Whatever ends the run inside, what is finished is safe."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, (BrokenPipeError, OutputError)):
                with self._hold():
                    self._writer.flush(force=True)  # not all that could be written, but all that is not safe yet
            raise

    def _loop(self) -> None:
        while True:
            self._refill()
            self._flush()
            if self._engine.num_unfinished:
                self._engine.expect_more(not self._reader.at_end or self._num_beside > 0)
                for output in self._engine.step():
                    self._finish(output)
                self._flush()
            elif self._num_beside:
                self._engine.check()
            at_end = self._reader.at_end and not self._engine.num_unfinished and not self._num_beside
            if self._max_errors:
                self._max_errors.check(self.stats, at_end=at_end)
            self._first_records.check()
            self._count_queues()
            if at_end:
                return
            self._watch.stepped()

    def _count_queues(self) -> None:
        self.stats.num_waiting, self.stats.num_open = self._engine.num_waiting, len(self._in_engine)
        self.stats.num_held = self._writer.num_held

    def _flush(self) -> None:
        more = True
        while more:
            with self._hold():
                more = self._writer.flush()

    def _refill(self) -> None:
        """Reads and admits records if too few wait in the engine: no more than one batch, so that no step waits long for it."""
        if self._beside is None and self._task.waits:
            self._beside, self._batch = Beside(self._task), BATCH
        if self._beside is not None:
            if pendings := self._beside.take(0.0 if self._engine.num_unfinished else _PATIENCE):
                self._enter(pendings)
            if self._num_beside:
                return
        if not self._reader.at_end and self._window.wants_more(self._engine):
            records = self._take(wait=False)
            if not records and not self._engine.num_unfinished:
                # Nobody knows how long a pipe is silent: what was finished is made safe before.
                with self._hold():
                    self._writer.flush(force=True)
                with self._watch.waiting():
                    records = self._wait_for_records()
            if records and self._beside is not None:
                self._beside.begin(records)
            elif records:
                self._admit(records)

    def _wait_for_records(self) -> list[Record]:
        """The next records as soon as there are any, or none at the end. The engine is looked after meanwhile."""
        while True:
            while not self._reader.ready(_PATIENCE):
                self._engine.check()
            records = self._take(wait=False)
            # More that came, and nothing to be had of it, is what cannot be read: that is said where it is waited for.
            if records or self._reader.at_end or self._reader.ready(0.0):
                return records or self._take(wait=True)

    def _take(self, *, wait: bool) -> list[Record]:
        held = len(self._in_engine) + self._writer.num_held  # nothing is beside when more is read
        room = min(self._batch, max(self._window.records - held, 0))
        room_bytes = self._window.num_bytes - self._bytes_in_engine - self._writer.bytes_held
        records = self._reader.take(room, room_bytes, wait=wait)
        if self._previous is not None:
            records = [record for record in records if not self._keep(record, self._previous.row_of(record))]
        return records

    @property
    def _num_beside(self) -> int:
        """Records that are being prepared beside the steps."""
        return 0 if self._beside is None else self._beside.num_records

    def _admit(self, records: list[Record]) -> None:
        self._enter(self._task.prepare(records))

    def _enter(self, pendings: list[Pending]) -> None:
        if pendings and self.stats.admitted_at is None:
            self.stats.admitted_at = time.monotonic()
        self.stats.num_blank = self._reader.num_blank
        self._first_records.entered(pendings)
        for pending in pendings:
            if pending.error is None:
                with contained(pending):
                    self._ask(pending)
            if pending.error is None:
                self._bytes_in_engine += pending.size + pending.num_held
            else:
                self._fail(pending, pending.error)

    def _ask(self, pending: Pending) -> None:
        """All that is to be asked for one record, or nothing. Raises RecordError."""
        requests = pending.to_requests()
        try:
            for request in requests:
                self._engine.add(request)
                self._in_engine[request.request_id] = pending
        except BaseException:
            for request in requests:
                if self._in_engine.pop(request.request_id, None) is not None:
                    self._engine.abort(request.request_id)
            raise
        pending.drop_prompt()

    def _keep(self, record: Record, row: Row | None) -> bool:
        if row is not None:
            self._put(row)
        return row is not None

    def _finish(self, output: Answer) -> None:
        pending = self._in_engine[output.request_id]
        whole = pending.answered(output)
        if whole is None:
            del self._in_engine[output.request_id]
            if pending.goes_on:
                self._go_on(pending)
            return
        with contained(pending):
            for one in whole if isinstance(whole, list) else (whole,):
                if one.error is not None:
                    raise one.error
            encoded = self._task.rows.answer(self._task, pending, whole)
            tally = self._task.tally(pending, whole)
            for name in pending.adapters:
                tally.adapters[name] += 1
        if pending.error is not None:
            self._fail(pending, pending.error)
        else:
            self._first_records.answered(pending)
            self._put(Row(pending.ordinal, encoded.data, pending.chain, tally, side=encoded.side))
        del self._in_engine[output.request_id]
        self._bytes_in_engine -= pending.size + pending.num_held

    def _go_on(self, pending: Pending) -> None:
        """Asks for more of a record of which a part is answered."""
        with contained(pending):
            self._ask(pending)
        if pending.error is not None:
            self._fail(pending, pending.error)
            self._bytes_in_engine -= pending.size

    def _fail(self, pending: Pending, error: RecordError) -> None:
        self._first_records.failed(pending, error)
        try:
            row = self._failed_row(pending, error)
        except BaseException as more:
            # What the record says of itself cannot be written: the row says no more than which one it is.
            error = own_error(more, pending.called)
            row = self._failed_row(replace(pending, id=None, extra={}, batch=None, raw=None), error)
        self._put(row)

    def _failed_row(self, pending: Pending, error: RecordError) -> Row:
        data, side = self._task.rows.failure(pending, error)
        tally = Tally.of_error(pending.size, pending.line, error)
        return Row(pending.ordinal, data, pending.chain, tally, error_line(pending.raw, error), side)

    def _put(self, row: Row) -> None:
        with self._hold():
            self.stats.add_row(row.tally)
            self._writer.put(row)
