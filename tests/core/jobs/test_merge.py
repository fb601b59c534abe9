"""Shards written by hand: what `infer merge` makes of good ones, and what it refuses."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.identity import Identity
from infer.core.jobs.input.selection import Selection, Shard
from infer.core.jobs.merge import Merged, merge
from infer.core.jobs.output import output as output_module
from infer.core.jobs.output.job_note import JobNote, find_note, note_path
from infer.core.jobs.output.opening import open_output
from infer.core.jobs.shards import open_shards
from infer.core.jobs.tally import Tally


def answer(index: int, text: str = "x", *, failed: bool = False) -> bytes:
    error = {"code": "invalid_json", "message": "m", "param": None, "retryable": False} if failed else None
    row: dict[str, Any] = {"index": index} if failed else {"index": index, "choices": [{"index": 0, "text": text}]}
    return json.dumps({**row, "error": error, "extra": {"error": {"code": '"error":{'}}}, separators=(",", ":")).encode() + b"\n"


def encode(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        middle = len(data) // 2
        return gzip.compress(data[:middle], mtime=0) + gzip.compress(data[middle:], mtime=0)
    return zstandard.ZstdCompressor().compress(data) if name.endswith(".zst") else data


class Job:
    """A run split in `n`: its rows, and the shards on disk."""

    def __init__(self, folder: Path, rows: Sequence[bytes], n: int, *, offset: int = 0, suffix: str = "") -> None:
        self.folder, self.rows, self.n, self.offset = folder, list(rows), n, offset
        self.names = [str(folder / f"part-{i}{suffix}") for i in range(n)]
        for i, name in enumerate(self.names):
            mine = [row for k, row in enumerate(rows, offset) if k % n == i]
            Path(name).write_bytes(encode(name, b"".join(mine)))
            self.note(i, records=len(mine), errors=sum(b'"error":null' not in row for row in mine))

    def note(self, i: int, **changes: Any) -> None:
        """Writes the note of shard `i`, or changes it."""
        path = Path(self.names[i])
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        note = find_note(path)
        if note is None:
            records, errors = changes.pop("records"), changes.pop("errors")
            digests = b"".join(b"%04d" % k for k in range(self.offset, self.offset + len(self.rows)) if k % self.n == i)
            tally = Tally(num_answered=records - errors, num_failed=errors).to_entry()
            total_seen = self.offset + len(self.rows)
            note = JobNote(self.identity(i), records, total_seen, "c", sha256, tally, "2026-01-01T00:00:00", digests=digests)
        if (told := changes.pop("fingerprint", None)) is not None:
            changes["identity"] = dataclasses.replace(note.identity, fingerprint=told)
        if (part := changes.pop("shard", None)) is not None:
            changes["identity"] = dataclasses.replace(note.identity, place={**note.identity.place, "shard": part})
        if "errors" in changes:
            errors = changes.pop("errors")
            changes["tally"] = Tally(num_answered=note.records - errors, num_failed=errors).to_entry()
        if (format := changes.pop("output_format", None)) is not None:
            changes["identity"] = dataclasses.replace(note.identity, file={**note.identity.file, "output format": format})
        dataclasses.replace(note, **changes).write(path)

    def identity(self, i: int) -> Identity:
        selection = Selection(self.offset, None, Shard(i, self.n))
        return Identity.of({"temperature": 0}, selection, output_format="jsonl", compression="none", errors=False)

    def merge(self, name: str = "out", names: Sequence[str] | None = None, **options: Any) -> Merged:
        given = list(self.names if names is None else names)
        shards = open_shards(given)
        target = open_output(str(self.folder / name), inputs=[shard.status for shard in shards], merge=True, **options)
        try:
            return merge(given, target, shards, overwrite=options.get("overwrite", False))
        finally:
            target.close()

    @property
    def files(self) -> set[str]:
        """The files in the folder besides the shards."""
        return {path.name for path in self.folder.iterdir() if not path.name.startswith("part-")}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, [answer(k, failed=k in (3, 5)) for k in range(11)], 3)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 100])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_rows_come_back_in_order(tmp_path: Path, n: int, count: int, offset: int) -> None:
    job = Job(tmp_path, [answer(k) for k in range(offset, offset + count)], n, offset=offset)
    assert job.merge() == Merged(count, 0)
    assert (tmp_path / "out").read_bytes() == b"".join(job.rows)
    assert job.files == {"out", "out.job.json"}


def test_the_order_in_which_shards_are_named_does_not_matter(job: Job) -> None:
    assert job.merge(names=job.names[::-1]) == Merged(11, 2)
    assert (job.folder / "out").read_bytes() == b"".join(job.rows)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("out", ["out", "out.gz", "out.zst"])
def test_compressed_shards_and_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, out: str) -> None:
    job = Job(tmp_path, [answer(k, "y" * (k * 1000)) for k in range(60)], 3, suffix=suffix)
    single = open_output(str(tmp_path / f"single-{out}"), inputs=[])
    single.begin({})
    for k, row in enumerate(job.rows):
        single.write([output_module.Row(k, row[:-1])])
    single.finish()
    single.close()
    assert job.merge(out).records == 60
    assert (tmp_path / out).read_bytes() == (tmp_path / f"single-{out}").read_bytes()


def test_rows_of_openai_batches(tmp_path: Path) -> None:
    def row(index: int, error: Any = None) -> bytes:
        return json.dumps({"id": f"infer-0123456789ab-{index}", "custom_id": "9", "response": {}, "error": error}).encode() + b"\n"

    job = Job(tmp_path, [row(0), row(1, {"code": "x"}), answer(2), row(3)], 2)
    job.note(0, errors=0)
    job.note(1, errors=1)
    assert job.merge() == Merged(4, 1)


def test_a_row_of_many_megabytes(tmp_path: Path) -> None:
    job = Job(tmp_path, [answer(0, "a" * (5 << 20)), answer(1, "b")], 2)
    assert job.merge().records == 2
    assert (tmp_path / "out").read_bytes() == b"".join(job.rows)


class TestRefusals:
    def refused(self, job: Job, said: str, names: Sequence[str] | None = None) -> None:
        before = job.files
        with pytest.raises(ConfigError, match=said):
            job.merge(names=names)
        assert job.files == before

    def test_missing(self, job: Job) -> None:
        self.refused(job, "shard 1/3 not given", [job.names[0], job.names[2]])
        self.refused(job, "shards 0/3, 1/3 not given", [job.names[2]])

    def test_doubled(self, job: Job) -> None:
        self.refused(job, "part-1' and .*part-1' are both shard 1/3", [*job.names, job.names[1]])
        job.note(2, shard="1/3")
        self.refused(job, "part-2' and .*part-1' are both shard 1/3")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"shard": "1/4"}, "one is of 4 parts, the other of 3"),
            ({"fingerprint": {"temperature": 1}}, "they are of different jobs: temperature was 0, is 1"),
            ({"input_chain": "d"}, "their inputs differ"),
            ({"total_seen": 12}, "one is of the first 12 records of the input, the other of 11; .*--resume"),
        ],
    )
    def test_foreign(self, job: Job, changes: dict[str, Any], said: str) -> None:
        job.note(1, **changes)
        self.refused(job, f"part-1' does not belong with .*part-0': {said}")

    def test_unfinished(self, job: Job) -> None:
        path = Path(job.names[1])
        path.rename(path.with_name("part-1.partial"))
        self.refused(job, "part-1' is not finished; .*--resume")
        note_path(path, is_shard=True).unlink()
        self.refused(job, "part-1' is not finished; .*--resume")
        path.with_name("part-1.partial").unlink()
        self.refused(job, "part-1' does not exist")
        path.write_bytes(b"")
        self.refused(job, "part-1' has no 'part-1.shard.json' beside it")

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format":3}', b'{"format":2}'])
    def test_a_note_that_makes_no_sense(self, job: Job, content: bytes) -> None:
        note_path(Path(job.names[1]), is_shard=True).write_bytes(content)
        self.refused(job, "part-1.shard.json")

    @pytest.mark.parametrize("changes", [{"total_seen": True}, {"records": -1}, {"sha256": 7}, {"digests": b""}])
    def test_a_note_with_a_wrong_value(self, job: Job, changes: dict[str, Any]) -> None:
        job.note(1, **changes)
        self.refused(job, f"part-1.shard.json' is damaged: {next(iter(changes))}")

    def test_a_note_whose_time_is_none(self, job: Job) -> None:
        job.note(1, time="noon")
        self.refused(job, "part-1.shard.json' is damaged: .*noon")

    def test_counts_that_do_not_add_up(self, job: Job) -> None:
        job.note(1, records=9, digests=bytes(36), tally=Tally(num_answered=9).to_entry())
        self.refused(job, "of 11 records; as part ./3 it should have")

    def test_another_number_of_errors(self, job: Job) -> None:
        job.note(0, errors=0)
        self.refused(job, "part-0' has 1 error rows; .* says 0")

    def test_a_file_that_was_changed(self, job: Job) -> None:
        path = Path(job.names[2])
        whole = path.read_bytes()
        for changed, said in (
            (whole.replace(b'"x"', b'"y"', 1), "sha256"),
            (whole[:-1], "is not the file"),
            (whole[: whole.index(b"\n") + 1], "it has 1 rows, there were 3"),
            (whole + answer(11), "it has 4 rows, there were 3"),
            (answer(8) + whole, "record 8 is where record 2 should be"),
            (b"x" + whole, "the row in the place of record 2 is not an answer"),
            (whole.replace(b'{"index":5', b'{"nodex":5'), "the row in the place of record 5"),
            (b"", "it has 0 rows"),
        ):
            path.write_bytes(changed)
            self.refused(job, said)

    def test_a_compressed_file_that_is_cut_off(self, tmp_path: Path) -> None:
        job = Job(tmp_path, [answer(k) for k in range(9)], 3, suffix=".gz")
        path = Path(job.names[0])
        path.write_bytes(path.read_bytes()[:-5])
        self.refused(job, "part-0.gz' is damaged")

    def test_an_output_that_is_there(self, job: Job) -> None:
        (job.folder / "out").write_text("precious")
        self.refused(job, "--overwrite")
        assert (job.folder / "out").read_text() == "precious"
        assert job.merge(overwrite=True).records == 11

    def test_an_output_that_is_a_shard(self, job: Job) -> None:
        with pytest.raises(ConfigError, match="same file"):
            job.merge("part-1", overwrite=True)

    def test_no_shards(self) -> None:
        with pytest.raises(ConfigError, match="no shard"):
            open_shards([])


def test_nothing_reaches_a_pipe_from_a_damaged_shard(job: Job, tmp_path: Path) -> None:
    pipe = tmp_path / "stream"
    with pipe.open("w+b") as stream:
        shards = open_shards(job.names)
        target = open_output("-", inputs=[], stdout=stream)
        assert merge(job.names, target, shards) == Merged(11, 2)
        assert pipe.read_bytes() == b"".join(job.rows)
        stream.truncate(0)
        Path(job.names[2]).write_bytes(Path(job.names[2]).read_bytes().replace(b'"x"', b'"y"'))
        with pytest.raises(InferError):
            merge(job.names, open_output("-", inputs=[], stdout=stream), open_shards(job.names))
        assert pipe.read_bytes() == b""


def test_matrices_are_refused_by_name(tmp_path: Path) -> None:
    """Whatever else a glob finds beside them."""
    job = Job(tmp_path, [answer(i) for i in range(4)], 2)
    for i in range(2):
        job.note(i, output_format="parquet")
        Path(job.names[i] + ".ids.jsonl").touch()
    names = sorted(str(path) for path in tmp_path.iterdir() if not path.name.endswith(".shard.json"))
    with pytest.raises(ConfigError, match=r"'.*part-0' is a parquet matrix.*part-0\.ids\.jsonl'"):
        job.merge(names=names)


def test_a_merged_output_does_not_hide_that_a_shard_changed(job: Job, tmp_path: Path) -> None:
    job.merge()
    before = (tmp_path / "out").read_bytes()
    assert job.merge() == Merged(11, 2)  # nothing to do
    part = Path(job.names[1])
    part.write_bytes(part.read_bytes().replace(b'"x"', b'"y"', 1))
    with pytest.raises(ConfigError, match="is not the file that its note describes"):
        job.merge()
    assert (tmp_path / "out").read_bytes() == before
