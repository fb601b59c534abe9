"""The memory of an unfinished job, beside its output: append-only, a checksum on every entry.

    header    what the job is: everything that can change a byte of the output
    row       a finished row that is not in the output yet, because an earlier one is missing or its frame is not full
    commit    so many rows are in the output, which is so long and has this checksum; the input's chain after them
    made      the finished file, which is not the output's rows as they are, has this size and checksum and is on disk

An entry is a line: eight hex digits of CRC-32, a space, JSON. The first entry that is torn or wrong ends the journal. Of the
commits, the last one whose part of the output is there, whole, counts: what a crash lost of the output is computed again.
"""

from __future__ import annotations

import base64
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from ..jsonl import spelled
from ..row import Row
from ..tally import Tally
from .files import Files
from .spill_index import SpillIndex

JOURNAL_SUFFIX = ".partial.journal"
#: Bumped whenever a journal of before cannot be continued.
FORMAT = 2

_CHUNK = 1 << 20
#: How a journal begins, after the checksum.
_BEGINNING = b' {"t":"header"'
#: How an entry of a row begins: after the checksum, with its ordinal.
_ROW = re.compile(rb'[0-9a-f]{8} \{"t":"row","n":([0-9]+),')


@dataclass(frozen=True, slots=True)
class Commit:
    """The state of the output after its first `rows` rows."""

    rows: int = 0
    out_bytes: int = 0
    out_crc: int = 0
    chain: bytes = b""
    """The input's chain after the record of the last of these rows."""
    sides: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(bytes, checksum) of each file of lines beside the output, by its name ("errors", "ids")."""
    tally: dict[str, Any] = field(default_factory=dict)
    """Of these rows."""
    attempts: int = 1
    """The number of times that the job was started, and the seconds that it ran, up to here."""
    run_s: float = 0.0


@dataclass
class Recovered:
    """An unfinished job as its journal describes it. Good as long as the journal is open."""

    header: dict[str, Any]
    commit: Commit
    spilled: SpillIndex
    tally: Tally
    """Of all rows, in the output or spilled."""
    size: int
    """Bytes of the journal that are whole; the rest is torn."""
    made: tuple[int, str] | None
    """(bytes, sha256) of the finished file, if it was made."""
    chain_of: Callable[[int], bytes]
    """The input's chain at a spilled row."""

    @property
    def holds_answers(self) -> bool:
        return bool(self.commit.rows or len(self.spilled))


class Journal:
    """An open journal. `size` is where the next entry goes."""

    def __init__(self, files: Files, fd: int, size: int = 0) -> None:
        self._files = files
        self._fd = fd
        self.size = size
        self._due: list[bytes] = []

    def begin(self, header: dict[str, Any]) -> None:
        """Starts over with a header, which is on disk when this returns."""
        self._files.truncate(self._fd, 0)
        self.size = 0
        self._append({"t": "header", "format": FORMAT, **spelled(header)})
        self.write()
        self._files.sync(self._fd)

    def continue_from(self, recovered: Recovered) -> None:
        """Cuts the torn tail off and goes on."""
        self._files.truncate(self._fd, recovered.size)
        self.size = recovered.size

    def spill(self, row: Row) -> tuple[int, int]:
        """Keeps a row; returns where: (offset, size). On disk with the next `write`."""
        entry: dict[str, Any] = {"t": "row", "n": row.ordinal, "c": row.chain.hex(), "s": row.tally.to_entry()}
        try:
            entry["r"] = row.data.decode()
        except UnicodeDecodeError:  # a vector
            entry["b"] = base64.b64encode(row.data).decode()
        if row.error_line is not None:
            entry["e"] = row.error_line.decode()
        if row.side is not None:
            entry["i"] = row.side.decode()
        return self._append(entry)

    def commit(self, commit: Commit) -> None:
        self._append({"t": "commit", **asdict(commit), "chain": commit.chain.hex()})

    def made(self, num_bytes: int, sha256: str) -> None:
        """Says what the finished file is; nothing comes after it but a new attempt."""
        self._append({"t": "made", "bytes": num_bytes, "sha256": sha256})

    def write(self) -> None:
        """Hands everything appended so far to the system, in one piece."""
        if self._due:
            self._files.write(self._fd, b"".join(self._due))
            self._due = []

    @property
    def bytes_due(self) -> int:
        """Appended and not written yet."""
        return sum(len(line) for line in self._due)

    def sync(self) -> None:
        self._files.sync(self._fd)

    def read_row(self, offset: int, size: int) -> Row:
        """A row that was spilled and written."""
        entry = _parse(self._files.read(self._fd, size, offset))
        assert entry is not None, "the journal changed under our feet"
        return _row(entry)

    def _append(self, entry: dict[str, Any]) -> tuple[int, int]:
        payload = orjson.dumps(entry)
        line = b"%08x %s\n" % (zlib.crc32(payload), payload)
        offset = self.size
        self._due.append(line)
        self.size += len(line)
        return offset, len(line)


def is_journal(files: Files, fd: int) -> bool:
    """True if a file can be a journal. An empty one counts too, and one whose first entry was torn or lost to zeros."""
    head = files.read(fd, 8 + len(_BEGINNING), 0).rstrip(b"\0")
    digits, beginning = head[:8], head[8:]
    return all(digit in b"0123456789abcdef" for digit in digits) and _BEGINNING.startswith(beginning)


def recover(files: Files, journal_fd: int, out_fd: int, sides: Mapping[str, int]) -> Recovered | None:
    """Reads an unfinished job's journal and finds how much of its output is good. None: there is no usable header.

    `sides` are the descriptors of the files beside it that count. The journal is read twice, as it may hold more than memory does:
    which rows still count depends on the commit that does.
    """
    header: dict[str, Any] | None = None
    made: tuple[int, str] | None = None
    marks = _Marks(sides)
    size = 0
    for offset, line in _lines(files, journal_fd):
        entry = _parse(line)
        if entry is None or (header is None) != (entry["t"] == "header"):
            break
        size = offset + len(line)
        if entry["t"] == "header":
            header = entry
        elif entry["t"] == "commit":
            marks.add(entry, offset, len(line))
            made = None  # of fewer rows
        elif entry["t"] == "made":
            made = entry["bytes"], entry["sha256"]
    if header is None or header.get("format") != FORMAT:
        return None
    commit = marks.last_good(files, journal_fd, out_fd)
    spilled, tally = SpillIndex(), Tally.from_entry(commit.tally)
    spilled.base = commit.rows
    for offset, line in _lines(files, journal_fd):
        if offset >= size:
            break
        row = _ROW.match(line)
        if row is not None and int(row[1]) >= commit.rows:
            entry = _parse(line)
            assert entry is not None, "the journal changed under our feet"
            if entry["n"] not in spilled:
                tally.add(Tally.from_entry(entry["s"]))
            spilled.put(entry["n"], offset, len(line))
    journal = Journal(files, journal_fd)
    return Recovered(header, commit, spilled, tally, size, made, lambda ordinal: journal.read_row(*spilled.get(ordinal)).chain)


class _Marks:
    """The commits of a journal: what each says about the files, and where it is. 16 bytes a commit and file, and 16 more."""

    def __init__(self, sides: Mapping[str, int]) -> None:
        self._sides = sides
        self._out = array("Q"), array("Q")  # sizes, checksums
        self._beside = {name: (array("Q"), array("Q")) for name in sides}
        self._places = array("Q"), array("Q")  # offsets and lengths in the journal

    def add(self, entry: dict[str, Any], offset: int, length: int) -> None:
        sides = _sides(entry)
        pairs = [(self._out, (entry["out_bytes"], entry["out_crc"])), (self._places, (offset, length))]
        pairs += [(self._beside[name], sides.get(name, (0, 0))) for name in self._sides]
        for (first, second), (a, b) in pairs:
            first.append(a)
            second.append(b)

    def last_good(self, files: Files, journal_fd: int, out_fd: int) -> Commit:
        """The last commit that the files bear out; the empty one if none."""
        good = [_borne_out(files, out_fd, *self._out)]
        good += [_borne_out(files, fd, *self._beside[name]) for name, fd in self._sides.items()]
        for i in reversed(range(len(good[0]))):
            if all(file[i] for file in good):
                entry = _parse(files.read(journal_fd, self._places[1][i], self._places[0][i]))
                assert entry is not None, "the journal changed under our feet"
                values = {name: entry[name] for name in Commit.__dataclass_fields__ if name in entry}
                return Commit(**{**values, "chain": bytes.fromhex(entry["chain"]), "sides": _sides(entry)})
        return Commit()


def _sides(entry: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """A commit's files beside the output; journals once knew of one such file only."""
    if "sides" not in entry:
        return {"errors": (entry["error_bytes"], entry["error_crc"])}
    return {name: (size, crc) for name, (size, crc) in entry["sides"].items()}


def _borne_out(files: Files, fd: int, sizes: array[int], checksums: array[int]) -> bytearray:
    """Of each size and checksum, whether the beginning of a file has them (1 or 0)."""
    good = bytearray(len(sizes))
    crc = offset = 0
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        while offset < sizes[i]:
            chunk = files.read(fd, min(_CHUNK, sizes[i] - offset), offset)
            if not chunk:
                return good
            crc = zlib.crc32(chunk, crc)
            offset += len(chunk)
        good[i] = crc == checksums[i]
    return good


def _lines(files: Files, fd: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its newline) of every whole line."""
    start, rest = 0, b""
    while chunk := files.read(fd, _CHUNK, start + len(rest)):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield start, line + b"\n"
            start += len(line) + 1


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        payload = line[9:-1]
        if line[8:9] != b" " or not line.endswith(b"\n") or int(line[:8], 16) != zlib.crc32(payload):
            return None
        entry: dict[str, Any] = orjson.loads(payload)
        return entry
    except ValueError:
        return None


def _row(entry: dict[str, Any]) -> Row:
    data = entry["r"].encode() if "r" in entry else base64.b64decode(entry["b"])
    error, side = (None if entry.get(name) is None else entry[name].encode() for name in ("e", "i"))
    return Row(entry["n"], data, bytes.fromhex(entry["c"]), Tally.from_entry(entry["s"]), error, side)
