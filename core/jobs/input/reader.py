"""Input: lines to records, in order, from one or several sources.

Blank lines are skipped and counted, an over-long one becomes a record error. Knows nothing of what a record means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from ...errors import InferError, RecordError
from ..record import Record
from .lines import DEFAULT_MAX_LINE_BYTES, SHORT_DIGEST_BYTES, Line, LineReader, digest
from .selection import Selection
from .source import Source


class RecordReader:
    """The selected records of the input, in order, each made when it is asked for.

    Args:
        sources: the input, or several that are read one after the other as if they were one.
        max_line_bytes: a longer line becomes an error.
        selection: which records are wanted; the others are read and hashed, not parsed. Reading stops after the last.
        keep_raw: keep each record's line in `Record.raw`.

    Attributes:
        num_records: records of the whole input seen so far, selected or not.
        num_selected: of those, the selected ones.
        num_blank, bytes_read: blank lines and bytes so far.
        chain: running hash of the selected lines so far: chain = digest(chain + line's digest), at first b"".
        input_chain: the same of all non-blank lines, selected or not.
        digests: the first SHORT_DIGEST_BYTES of the hash of each selected line so far.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        *,
        selection: Selection | None = None,
        keep_raw: bool = False,
    ) -> None:
        self._sources = list(sources) if isinstance(sources, Sequence) else [sources]
        self._limit = max_line_bytes
        self._selection = selection or Selection()
        self._keep_raw = keep_raw
        self._lines: LineReader | None = None
        self._source_name = ""
        self._line_number = 0
        self._next_source = 0
        self.num_records = 0
        self.num_selected = 0
        self.num_blank = 0
        self.bytes_read = 0
        self.chain = self.input_chain = b""
        self.digests = bytearray()
        self._again: deque[Record] = deque()

    @property
    def at_end(self) -> bool:
        """True if the input is known to be over. May turn true only after a `take` that found nothing."""
        if self._again:
            return False
        stop = self._selection.stop
        if stop is not None and self.num_records >= stop:
            return True
        return self._next_source == len(self._sources) and (self._lines is None or self._lines.at_end)

    def ready(self, seconds: float) -> bool:
        """True if `take` has bytes to look at without blocking, or will have within so many seconds, which are then waited for."""
        return bool(self._again) or self.at_end or self._lines is None or self._lines.ready(seconds)

    def put_back(self, records: Sequence[Record]) -> None:
        """Records that were taken are the next ones to take. They were counted when they were read, and are not counted again."""
        self._again.extend(records)

    def take(self, max_records: int, max_bytes: int, *, wait: bool) -> list[Record]:
        """Up to so many records and about so many bytes, at least one record if there is one.

        Without `wait`, what can be had without blocking; with it, blocks for the first record only. Raises InferError when
        the input cannot be read on, but not before all earlier records were given, nor (unless it is the very first thing
        read) without `wait`: so whoever waits only when nothing else is left to do has done all that could be done.
        """
        records: list[Record] = []
        size = 0
        while self._again and len(records) < max_records and size < max_bytes:
            records.append(self._again.popleft())
            size += records[-1].size
        if records:
            return records
        while len(records) < max_records and size < max_bytes:
            try:
                line = self._next_selected(wait=wait and not records)
            except InferError:
                if records or (self.num_selected and not wait):
                    break  # the source will say it again
                raise
            if line is None:
                break
            records.append(self._record(line))
            size += line.size
        return records

    def skip(self, count: int) -> int:
        """Reads and hashes up to `count` selected records without parsing them; waits for them.

        Returns how many there were; fewer mean that the input is over. Afterwards everything is as after a `take` of them:
        lines behind the last of them are not read. May be called for a part of them at a time.
        """
        for skipped in range(count):
            if self._next_selected(wait=True) is None:
                return skipped
        return count

    def __iter__(self) -> Iterator[Record]:
        while records := self.take(1, 1, wait=True):
            yield from records

    def _next_selected(self, *, wait: bool) -> Line | None:
        """The line of the next selected record, counted; None at the end or when it is not there yet."""
        while not self.at_end:
            line = self._next_line(wait=wait)
            if line is None:
                return None
            self.bytes_read += line.size
            self._line_number += 1
            if line.blank:
                self.num_blank += 1
                continue
            self.num_records += 1
            self.input_chain = digest(self.input_chain + line.digest)
            if self.num_records - 1 in self._selection:
                self.num_selected += 1
                self.chain = digest(self.chain + line.digest)
                self.digests += line.digest[:SHORT_DIGEST_BYTES]
                return line
        return None

    def _next_line(self, *, wait: bool) -> Line | None:
        while True:
            if self._lines is not None:
                line = self._lines.next(wait=wait)
                if line is not None or not self._lines.at_end:
                    return line
            if self._next_source == len(self._sources):
                return None
            source = self._sources[self._next_source]
            self._next_source += 1
            self._lines = LineReader(source, self._limit)
            self._line_number = 0
            self._source_name = getattr(source, "name", "") if len(self._sources) > 1 else ""

    def _record(self, line: Line) -> Record:
        """The record of a line that was just counted."""
        record = Record(
            self.num_records - 1,
            self._line_number,
            line.size,
            ordinal=self.num_selected - 1,
            source=self._source_name,
            digest=line.digest,
            chain=self.chain,
        )
        if line.data is None:
            record.error = RecordError("line_too_long", f"the line is longer than --max-line-bytes {self._limit}")
            record.raw = b"" if self._keep_raw else None
        else:
            record.read(line.data)
            record.raw = line.data if self._keep_raw else None
        return record
