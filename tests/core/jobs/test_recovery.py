"""A killed job goes on to the same bytes, wherever it was killed and whatever the disk made of it.

A recording file layer logs what a job does to its files. From the log every state is built that a crash could leave: after each
operation, within each write, with and without what was never synced. Each is recovered, finished and compared with the
unbroken run. States that recovery makes equal are finished once: after recovery nothing of the differences is left.
"""

from __future__ import annotations

import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.output import compression, faults
from infer.core.jobs.output import journal as journal_module
from infer.core.jobs.output import output as output_module
from infer.core.jobs.output.faults import MATRIX_POINTS, POINTS
from infer.core.jobs.output.files import Files
from infer.core.jobs.output.journal import recover
from infer.core.jobs.output.output_format import is_matrix, is_table
from infer.core.jobs.output.writer import OrderedWriter
from infer.core.jobs.row import Row

OUT, JOURNAL, PARTIAL = "out", "out.partial.journal", "out.partial"
ERRORS, ERRORS_PARTIAL = "bad", "bad.partial"
IDS, IDS_PARTIAL = "out.ids.jsonl", "out.ids.jsonl.partial"
ROWS = "out.rows.jsonl.zst"
MADE = "out.partial.made"
MUTABLE = (PARTIAL, JOURNAL, ERRORS_PARTIAL, IDS_PARTIAL, MADE)
#: Files beside the output: by their names in the journal, where they are before and after they are published.
SIDES = {"errors": (ERRORS_PARTIAL, ERRORS), "ids": (IDS_PARTIAL, IDS)}


def make_lines(count: int = 17) -> bytes:
    """Good, bad and blank lines, long and short, native and OpenAI Batch."""
    lines: list[bytes] = []
    for i in range(count):
        lines.append(
            {
                3: b"{not json",
                5: b'{"custom_id":"b%d","url":"/v1/completions","body":{"prompt":"batch"}}' % i,
                6: b'{"prompt":"%s"}' % (b"x" * 300),  # too long
                8: b'{"custom_id":"c","url":"/v1/chat/completions","body":{}}',
                9: b'{"prompt":"' + "é€\\u0007\\u2028".encode() + b'","n":2}',
            }.get(i % 11, b'{"prompt":"p%d","id":%d}' % (i, i))
        )
        if i % 7 == 2:
            lines.append(b"  ")
    return b"\n".join(lines)


#: Their requests fail while they run.
FAIL = {i: RecordError("non_finite_logits", f"NaN in {i}") for i in (1, 12, 16)}


def contents(folder: Path, *, notes: bool = False) -> dict[str, bytes]:
    """The files that are there, but for the note beside OUT, which tells how often and how long a job ran."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if notes or not path.name.endswith(".job.json")}


class Crash(BaseException):
    """The machine stopped."""


class Op(NamedTuple):
    """kind: write (of `data`), truncate (to `size`), sync, rename (to `target`), remove. `given`: rows finished by then."""

    kind: str
    name: str
    data: bytes = b""
    size: int = 0
    target: str = ""
    given: int = 0


class RecordingFiles(Files):
    """Real files, but nothing is really synced. Stops after `crash_after` operations, the last one, if a write, cut to `cut` bytes."""

    def __init__(self, crash_after: int | None = None, cut: float = 1.0) -> None:
        self.log: list[Op] = []
        self.given = 0
        self._names: dict[int, str] = {}
        self._left = crash_after
        self._cut = cut

    def _note(self, op: Op) -> None:
        self._stop_if_over()
        self.log.append(op._replace(given=self.given))
        if self._left is not None:
            self._left -= 1

    def _stop_if_over(self) -> None:
        if self._left is not None and self._left <= 0:
            raise Crash

    def open(self, path: Path, mode: int) -> int:
        self._stop_if_over()
        fd = super().open(path, mode)
        self._names[fd] = path.name
        return fd

    def write(self, fd: int, data: bytes) -> None:
        if self._left == 1:
            data = data[: int(len(data) * self._cut)]
        self._note(Op("write", self._names[fd], data))
        super().write(fd, data)
        self._stop_if_over()

    def truncate(self, fd: int, size: int) -> None:
        self._note(Op("truncate", self._names[fd], size=size))
        super().truncate(fd, size)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._stop_if_over()
        return super().read(fd, size, offset)

    def sync(self, fd: int) -> None:
        self._note(Op("sync", self._names[fd]))

    def rename(self, source: Path, target: Path) -> None:
        self._note(Op("rename", source.name, target=target.name))
        source.replace(target)
        self._names = {fd: target.name if name == source.name else name for fd, name in self._names.items()}

    def remove(self, path: Path) -> None:
        if self._left is not None and self._left <= 0:
            return  # a machine that has stopped cannot tidy up
        self._note(Op("remove", path.name))
        super().remove(path)


@dataclass
class Disk:
    """The content of the disk: of each file its bytes, and how many of them are there for good."""

    files: dict[str, bytes] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)

    def apply(self, op: Op, cut: int | None = None) -> None:
        if op.kind == "write":
            self.files[op.name] = self.files.get(op.name, b"") + op.data[:cut]
        elif op.kind == "truncate":
            self.files[op.name] = self.files.get(op.name, b"")[: op.size]
            self.synced[op.name] = min(self.synced.get(op.name, 0), op.size)
        elif op.kind == "sync":
            self.synced[op.name] = len(self.files[op.name])
        elif op.kind == "rename":
            self.files[op.target] = self.files.pop(op.name)
            self.synced[op.target] = self.synced.pop(op.name, 0)
        else:
            self.files.pop(op.name, None)
            self.synced.pop(op.name, None)

    def lose(self, names: tuple[str, ...], *, zeros: bool) -> Disk:
        """After a power cut that cost these files what was not synced; `zeros`: their lengths are there, their bytes are not."""
        lost = dict(self.files)
        for name in names:
            kept = lost[name][: self.synced.get(name, 0)]
            lost[name] = kept + b"\0" * (len(lost[name]) - len(kept)) * zeros
        return Disk(lost, dict(self.synced))


class MemoryFiles(Files):
    """Reads contents instead of descriptors."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = contents

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return self._contents[fd][offset : offset + size]


def recovered_as(files: dict[str, bytes]) -> tuple[Any, int]:
    """(all that is left of a state after recovery, how many rows that is)."""
    if PARTIAL not in files:
        return tuple(sorted(files.items())), 0
    out, journal = files[PARTIAL], files.get(JOURNAL, b"")
    sides = {side: files.get(partial, files.get(final)) for side, (partial, final) in SIDES.items()}
    there = {side: data for side, data in sides.items() if data is not None}
    found = recover(MemoryFiles(journal, out, *there.values()), 0, 1, {side: 2 + i for i, side in enumerate(there)})
    others = tuple(sorted((name, data) for name, data in files.items() if name not in MUTABLE)), *(n in files for n in MUTABLE[2:])
    if found is None:
        return (others, bool(out)), 0
    commit = found.commit
    left = journal[: found.size], out[: commit.out_bytes], *(data[: commit.sides.get(side, (0, 0))[0]] for side, data in there.items())
    return (others, left), commit.rows + len(found.spilled)


@dataclass
class Job:
    """A small job, and what its unbroken run came to."""

    attempt: Callable[..., Any]
    folder: Path
    options: dict[str, Any]
    data: bytes
    monkeypatch: pytest.MonkeyPatch
    done: set[Any] = field(default_factory=set)
    num_states: int = 0
    num_runs: int = 0

    def run(self, folder: Path, files: RecordingFiles, *, schedule: int = 0, **options: Any) -> Any:
        """One attempt; what it does to files is in `files.log`."""
        ticks = itertools.count()
        self.monkeypatch.setattr(output_module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
        self.monkeypatch.setattr(output_module, "Files", lambda: files)
        put = OrderedWriter.put

        def counting(writer: OrderedWriter, row: Row) -> None:
            files.given += 1
            put(writer, row)

        engine = {"fail": FAIL, "fail_in": "step", "max_num_seqs": 3 + schedule, "patience": lambda i: i * (7 + schedule) % (5 + schedule)}
        with self.monkeypatch.context() as patch:
            patch.setattr(OrderedWriter, "put", counting)
            return self.attempt(folder / "in", folder / OUT, engine=engine, **self.tell(folder), **options)

    def tell(self, folder: Path) -> dict[str, Any]:
        return {**self.options, "errors": str(folder / ERRORS) if self.options.get("errors") else None}

    def start(self) -> None:
        """The unbroken run."""
        folder = self.folder / "whole"
        folder.mkdir()
        (folder / "in").write_bytes(self.data)
        files = RecordingFiles()
        made = self.run(folder, files)
        self.log = files.log
        self.whole = contents(folder)
        self.tally, self.num_blank = made.stats.to_entry(), made.stats.num_blank
        self.num_records = made.stats.num_records
        beside = {ERRORS: self.options.get("errors"), IDS: self.is_matrix, ROWS: self.is_table}
        assert set(self.whole) == {"in", OUT, *(name for name, is_there in beside.items() if is_there)}

    @property
    def is_matrix(self) -> bool:
        return is_matrix(self.options.get("output_format", "jsonl"), vectors="vectors" in self.options)

    @property
    def is_table(self) -> bool:
        return is_table(self.options.get("output_format", "jsonl"), vectors="vectors" in self.options)

    def check(self, state: dict[str, bytes], note: str = "") -> int:
        """Recovers a state, finishes the job, compares; returns the number of rows that were recovered."""
        self.num_states += 1
        left, rows = recovered_as(state)
        if left in self.done:
            return rows
        self.done.add(left)
        self.num_runs += 1
        folder = self.folder / "again"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, data in {**state, "in": self.data}.items():
            (folder / name).write_bytes(data)
        made = self.run(folder, RecordingFiles(), schedule=1, resume=True)
        after = contents(folder)
        assert after == self.whole, note
        if OUT in state and self.options.get("fsync") != "never":
            assert made.done, note  # nothing is done again
        if not made.done:
            assert made.stats.num_resumed == rows or PARTIAL not in state, note
            assert (made.stats.to_entry(), made.stats.num_blank) == (self.tally, self.num_blank), note
            assert made.engine is None or made.engine.stats.num_prompt_tokens <= made.stats.prompt_tokens
        return rows


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, errors": {"errors": True},
    "gzip": {"compression": "gzip"},
    "gzip, errors": {"compression": "gzip", "errors": True},
    "zstd, errors": {"compression": "zstd", "errors": True},
    "plain, errors, always": {"errors": True, "fsync": "always"},
    "zstd, never": {"compression": "zstd", "fsync": "never"},
    "npy": {"output_format": "npy"},
    "safetensors, errors": {"output_format": "safetensors", "embedding_dtype": "int8", "errors": True},
    "parquet": {"output_format": "parquet", "vectors": True, "embedding_dtype": "float16"},
    "parquet, always": {"output_format": "parquet", "vectors": True, "fsync": "always"},
    "npy, errors, never": {"output_format": "npy", "embedding_dtype": "binary", "errors": True, "fsync": "never"},
    "csv": {"output_format": "csv"},
    "table, errors": {"output_format": "parquet", "errors": True, "fsync": "always"},
}


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 400)
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 2.0)  # ticks: of the calls of the clock
    monkeypatch.setattr(output_module, "SYNC_EVERY", 8.0)


def parametrized(*names: str) -> Any:
    return pytest.mark.parametrize("job", names, indirect=True)


all_cases = parametrized(*CASES)


@pytest.fixture
def job(request: Any, attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_frames: None) -> Job:
    job = Job(attempt, tmp_path, CASES[request.param], make_lines(), monkeypatch)
    job.start()
    return job


def states(log: list[Op]) -> Iterator[tuple[int, Disk]]:
    """(number of operations, the disk after them)."""
    disk = Disk()
    for i, op in enumerate(log):
        disk.apply(op)
        yield i + 1, disk


@all_cases
def test_the_unbroken_run_is_worth_breaking(job: Job) -> None:
    """The other tests test something: rows are spilled, commits are many, some writes are not synced."""
    entries = [json.loads(line[9:]) for op in job.log if (op.kind, op.name) == ("write", JOURNAL) for line in op.data.splitlines()]
    kinds = [entry["t"] for entry in entries]
    assert kinds.count("commit") >= 5
    assert kinds.count("row") >= 4
    assert sum((op.kind, op.name) == ("write", PARTIAL) for op in job.log) >= 4
    assert job.tally["num_failed"] >= 5
    if job.is_matrix:
        ids = [json.loads(line) for line in job.whole[IDS].splitlines()]
        assert [row["index"] for row in ids] == list(range(job.num_records))
        assert sum(row["error"] is not None for row in ids) == job.tally["num_failed"]
        assert sum((op.kind, op.name) == ("write", MADE) for op in job.log) >= 2
    elif job.is_table:
        assert sum((op.kind, op.name) == ("write", MADE) for op in job.log) >= 1
    elif "compression" not in job.options:
        assert [json.loads(row).get("index", i) for i, row in enumerate(job.whole[OUT].splitlines())] == list(range(job.num_records))
    if "errors" in job.options:
        assert job.whole[ERRORS].count(b"\n") == job.tally["num_failed"]


@all_cases
def test_after_every_operation(job: Job) -> None:
    rows = [job.check(dict(disk.files), f"after operation {i}") for i, disk in states(job.log)]
    assert job.num_runs > 8
    # What was safe stays safe, until OUT is there.
    published = next(i for i, op in enumerate(job.log) if op.kind == "rename" and op.target == OUT)
    assert rows[:published] == sorted(rows[:published])
    assert rows[published - 1] == job.num_records
    # A commit keeps every row there is by then, whether its turn has come or not.
    commits = [i for i, op in enumerate(job.log[:published]) if (op.kind, op.name) == ("write", JOURNAL)]
    assert [rows[i] for i in commits] == [job.log[i].given for i in commits]
    assert len({rows[i] for i in commits}) > 4


@parametrized("plain", "plain, errors", "gzip", "zstd, errors", "npy")
def test_within_every_write(job: Job) -> None:
    disk = Disk()
    for i, op in enumerate(job.log):
        if op.kind == "write":
            before = disk.files.get(op.name, b"")
            for cut in range(0, len(op.data), 50 if op.name == MADE else 1):
                job.check({**disk.files, op.name: before + op.data[:cut]}, f"byte {cut} of operation {i}")
        disk.apply(op)
    assert job.num_states > 3000


@all_cases
def test_with_what_was_not_synced_lost(job: Job) -> None:
    for i, disk in states(job.log):
        published = (OUT, ERRORS, IDS) if job.options.get("fsync") != "never" else ()
        there = [name for name in (*MUTABLE, *published) if len(disk.files.get(name, b"")) > disk.synced.get(name, 0)]
        for count in range(1, len(there) + 1):
            for names in itertools.combinations(there, count):
                for zeros in (False, True):
                    job.check(disk.lose(names, zeros=zeros).files, f"after operation {i}, of {names} {'zeros' if zeros else 'nothing'}")
    assert job.num_states > 50


@parametrized("plain", "gzip, errors", "npy", "safetensors, errors")
def test_torn_and_unsynced_at_once(job: Job) -> None:
    """A write is cut while another file loses what was not synced."""
    disk = Disk()
    for i, op in enumerate(job.log):
        if op.kind == "write":
            for cut in range(0, len(op.data), 23):
                torn = Disk(dict(disk.files), dict(disk.synced))
                torn.apply(op, cut)
                others = [n for n in MUTABLE if n != op.name and len(torn.files.get(n, b"")) > torn.synced.get(n, 0)]
                for name, zeros in itertools.product(others, (False, True)):
                    job.check(torn.lose((name,), zeros=zeros).files, f"byte {cut} of operation {i}, {name} lost")
        disk.apply(op)


@parametrized("plain", "gzip, errors", "npy")
def test_a_flipped_bit_in_the_journal(job: Job) -> None:
    """Whatever the disk does to an entry, it and what follows do not count. All but the header: without it nothing is known."""
    disk = Disk()
    for op in itertools.takewhile(lambda op: op.kind != "rename", job.log):
        disk.apply(op)
    journal = disk.files[JOURNAL]
    for place in range(journal.index(b"\n") + 1, len(journal), 5):
        flipped = journal[:place] + bytes([journal[place] ^ 0x10]) + journal[place + 1 :]
        job.check({**disk.files, JOURNAL: flipped}, f"byte {place} of the journal")


made = parametrized("npy", "safetensors, errors", "parquet, always", "csv", "table, errors")


@made
def test_without_resume_nothing_is_touched_but_everything_told(job: Job) -> None:
    """A plain rerun after a crash says how to go on, or that the output is there."""
    folder = job.folder / "plain"
    folder.mkdir()
    said = set()
    for i, disk in states(job.log):
        rows = recovered_as(disk.files)[1]
        if not rows and OUT not in disk.files:
            continue  # there is nothing to lose
        for path in folder.iterdir():
            path.unlink()
        for name, data in {**disk.files, "in": job.data}.items():
            (folder / name).write_bytes(data)
        with pytest.raises(ConfigError, match="--overwrite") as caught:
            job.run(folder, RecordingFiles())
        if OUT in disk.files:  # what is left of the run is tidied away
            assert contents(folder) == job.whole, f"after operation {i}"
            said.add("exists" in str(caught.value))
        else:
            assert contents(folder, notes=True) == {**disk.files, "in": job.data}, f"after operation {i}"
            said.add("--resume" in str(caught.value) and f"{rows} records" in str(caught.value))
    assert said == {True}


@made
def test_over_an_older_output(job: Job) -> None:
    """--overwrite, killed anywhere: until the new files are published the old ones are there, and --resume takes nothing of them."""
    folder = job.folder / "over"
    old = {OUT: b"old", **({IDS: job.whole[IDS][:-7] + b"older}\n"} if job.is_matrix else {ROWS: b"older"})}
    folder.mkdir()
    for i, disk in states(job.log):
        for path in folder.iterdir():
            path.unlink()
        for name, data in {"in": job.data, **old, **disk.files}.items():
            (folder / name).write_bytes(data)
        if PARTIAL in disk.files or JOURNAL in disk.files:
            job.run(folder, RecordingFiles(), schedule=1, resume=True)
        after = contents(folder)
        assert after == job.whole, f"after operation {i}"


@made
@pytest.mark.parametrize("point", [*POINTS, *MATRIX_POINTS])
def test_killed_at_a_named_point(job: Job, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job.folder / "killed"
    folder.mkdir()
    (folder / "in").write_bytes(job.data)
    passed = []

    def fault(here: str) -> None:
        passed.append(here)
        if point in passed:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(faults, "fault", fault)
        patch.setattr(output_module.JobOutput, "close", lambda self: self.unlock())  # who is killed tidies nothing
        with pytest.raises(Crash):
            job.run(folder, RecordingFiles())
    assert point in passed
    made = job.run(folder, RecordingFiles(), schedule=1, resume=True)
    assert contents(folder) == job.whole
    assert made.done == (point in ("published", "cleaned"))


@parametrized("npy")
def test_the_vectors_are_where_the_ids_say(job: Job) -> None:
    """NaN for each that failed, and for no other."""
    failed = [json.loads(line)["error"] is not None for line in job.whole[IDS].splitlines()]
    assert np.isnan(np.load(io.BytesIO(job.whole[OUT]))).all(axis=1).tolist() == failed
    assert 0 < sum(failed) < len(failed)


crashes = st.lists(
    st.tuples(
        st.integers(1, 70),  # operations until the crash
        st.floats(0, 1),  # how much of the last write is there
        st.sets(st.sampled_from(MUTABLE)),  # which files lose what was not synced
        st.booleans(),  # to zeros
        st.integers(0, 6),  # how the engine goes about it
    ),
    max_size=6,
)


@pytest.mark.parametrize("case", [name for name in CASES if "never" not in name and name != "parquet, always"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crashes=crashes, grows=st.booleans())
def test_chains_of_crashes(
    case: str,
    crashes: list[tuple[int, float, set[str], bool, int]],
    grows: bool,
    attempt: Any,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    small_frames: None,
) -> None:
    """Crash, resume, crash, resume…, each attempt with another schedule; lines may be appended to the input meanwhile."""
    base = tmp_path_factory.mktemp("chain")
    data, more = make_lines(17) + b"\n", b'{"prompt":"more"}\n'
    job = Job(attempt, base, CASES[case], data + more * grows, monkeypatch)
    job.start()
    folder = base / "chain"
    folder.mkdir()
    (folder / "in").write_bytes(data)
    disk = Disk()
    for after, cut, lost, zeros, schedule in crashes:
        files = RecordingFiles(after, cut)
        finished = False
        with suppress(Crash):
            job.run(folder, files, schedule=schedule, resume=True)
            finished = True
        for op in files.log:
            disk.apply(op)
        on_disk = {name: data for name, data in contents(folder, notes=True).items() if name not in ("in", "out.partial.lock")}
        assert {name: on_disk[name] for name in disk.files} == disk.files
        if finished:
            break
        disk = disk.lose(tuple(name for name in lost if name in disk.files), zeros=zeros)
        for name, content in disk.files.items():
            (folder / name).write_bytes(content)
        disk.synced = {name: len(content) for name, content in disk.files.items()}
    if grows:
        with (folder / "in").open("ab") as opened:
            opened.write(more)
        if OUT in disk.files:
            return  # it had finished before
    made = job.run(folder, RecordingFiles(), resume=True)
    after_all = contents(folder)
    assert after_all == job.whole
    if not made.done:
        assert made.stats.to_entry() == job.tally


def test_a_checksum_is_more_than_a_length(small_frames: None) -> None:
    """The guard of these tests' own oracle: output bytes that are there but wrong do not count."""
    commit = journal_module.Commit(rows=1, out_bytes=4, out_crc=zlib.crc32(b"abc\n"))
    written: list[bytes] = []
    files = SimpleNamespace(write=lambda fd, data: written.append(data), truncate=lambda fd, size: None, sync=lambda fd: None)
    journal = journal_module.Journal(files, 0)  # type: ignore[arg-type]
    journal.begin({})
    journal.commit(commit)
    journal.write()
    for out, rows in ((b"abc\n", 1), (b"abc\nmore", 1), (b"abc", 0), (b"abd\n", 0), (b"\0\0\0\0", 0), (b"", 0)):
        found = recover(MemoryFiles(b"".join(written), out), 0, 1, {})
        assert found is not None
        assert found.commit.rows == rows
