"""The journal alone. What it is good for: ../test_recovery.py."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.jobs.output import journal as journal_module
from infer.core.jobs.output.files import Files
from infer.core.jobs.output.journal import Commit, Journal, Recovered, recover
from infer.core.jobs.output.spill_index import SpillIndex
from infer.core.jobs.row import Row
from infer.core.jobs.tally import Tally


class Place:
    """A journal and an output on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal"
        self.files = Files()
        self.fd = self.files.open(self.path, 0o600)
        self.out = self.files.open(folder / "out", 0o600)
        self.journal = Journal(self.files, self.fd)

    def recover(self) -> Recovered | None:
        return recover(self.files, self.fd, self.out, {})

    def found(self) -> Recovered:
        found = self.recover()
        assert found is not None
        return found

    def commit(self, data: bytes, rows: int) -> None:
        """Rows in the output and a commit that says so."""
        self.files.write(self.out, data)
        whole = (self.path.parent / "out").read_bytes()
        self.journal.commit(Commit(rows, len(whole), zlib.crc32(whole), b"chain", tally=Tally(num_answered=rows).to_entry()))
        self.journal.write()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    os.close(place.fd)
    os.close(place.out)


def test_what_is_written_is_read(place: Place) -> None:
    place.journal.begin({"job": {"seed": 1}})
    place.commit(b"zero\none\n", 2)
    rows = [
        Row(5, 'é\u2028\x7f"\\'.encode(), b"c" * 16, Tally(num_answered=1), None),
        Row(3, b"bad", b"d" * 16, Tally(num_failed=1), b"line"),
    ]
    places = [place.journal.spill(row) for row in rows]
    place.journal.write()
    assert [place.journal.read_row(*at) for at in places] == rows
    found = place.found()
    assert found.header["job"] == {"seed": 1}
    assert (found.commit.rows, found.commit.out_bytes, found.commit.chain) == (2, 9, b"chain")
    assert sorted(found.spilled.ordinals()) == [3, 5]
    assert {ordinal: found.chain_of(ordinal) for ordinal in (5, 3)} == {5: b"c" * 16, 3: b"d" * 16}
    assert (found.tally.num_answered, found.tally.num_failed) == (3, 1)
    assert found.size == place.path.stat().st_size
    assert found.holds_answers
    assert [place.journal.read_row(*found.spilled.get(row.ordinal)) for row in rows] == rows


def test_every_entry_has_a_checksum(place: Place) -> None:
    place.journal.begin({"a": 1})
    place.commit(b"x\n", 1)
    for line in place.path.read_bytes().splitlines(keepends=True):
        assert int(line[:8], 16) == zlib.crc32(line[9:-1])
        orjson.loads(line[9:])


def test_only_the_last_good_commit_counts(place: Place) -> None:
    place.journal.begin({})
    for i in range(5):
        place.commit(b"%d\n" % i, i + 1)
    assert place.found().commit.rows == 5
    place.files.truncate(place.out, 7)
    assert place.found().commit.rows == 3
    place.files.truncate(place.out, 0)
    assert place.found().commit.rows == 0
    assert not place.found().holds_answers


def test_rows_count_that_a_lost_commit_had_made_superfluous(place: Place) -> None:
    """They are in the journal still when the output that held them is not."""
    place.journal.begin({})
    for ordinal in (1, 2, 0):
        place.journal.spill(Row(ordinal, b"%d" % ordinal, tally=Tally(num_answered=1)))
    place.commit(b"0\n1\n2\n", 3)
    assert len(place.found().spilled) == 0
    place.files.truncate(place.out, 5)
    found = place.found()
    assert (found.commit.rows, sorted(found.spilled.ordinals()), found.tally.num_answered) == (0, [0, 1, 2], 3)


def test_a_torn_tail_is_cut_off_and_gone_on_from(place: Place) -> None:
    place.journal.begin({})
    place.commit(b"a\n", 1)
    good = place.path.read_bytes()
    for tail in (b"1", b"00000000 {}\n", good[-20:], good[:-1], b"\0" * 50, b"\0" * 50 + b"\n", b"\n", b'zzzzzzzz {"t":"row"}\n'):
        place.files.write(place.fd, tail)
        found = place.found()
        assert (found.size, found.commit.rows) == (len(good), 1)
        place.journal.continue_from(found)
        assert place.path.read_bytes() == good
    at = place.journal.spill(Row(4, b"four"))
    place.journal.write()
    assert place.journal.read_row(*at).data == b"four"
    assert sorted(place.found().spilled.ordinals()) == [4]


def test_what_comes_after_a_wrong_entry_does_not_count(place: Place) -> None:
    place.journal.begin({})
    place.commit(b"a\n", 1)
    place.files.write(place.fd, b"00000000 nonsense\n")
    place.journal.spill(Row(7, b"seven"))
    place.journal.write()
    assert len(place.found().spilled) == 0


def test_a_header_comes_first_and_once(place: Place) -> None:
    assert place.recover() is None  # empty
    place.journal.spill(Row(0, b""))
    place.journal.write()
    assert place.recover() is None
    place.journal.begin({"a": 1})
    size = place.path.stat().st_size
    place.files.write(place.fd, place.path.read_bytes())
    assert place.found().size == size


def test_a_journal_of_another_format_is_none_of_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.journal.begin({})
    place.commit(b"a\n", 1)
    monkeypatch.setattr(journal_module, "FORMAT", journal_module.FORMAT + 1)
    assert place.recover() is None


def test_a_journal_that_knows_of_one_file_beside_the_output(place: Place, tmp_path: Path) -> None:
    """As they were written before outputs had several."""
    place.journal.begin({})
    place.files.write(place.out, b"a\n")
    bad = place.files.open(tmp_path / "bad", 0o600)
    for rows, errors in ((1, b"x\n"), (2, b"x\ny\n")):
        old = {"t": "commit", "rows": rows, "out_bytes": 2, "out_crc": zlib.crc32(b"a\n"), "chain": "aa", "tally": {}, "attempts": 1}
        place.journal._append({**old, "run_s": 0.5, "error_bytes": len(errors), "error_crc": zlib.crc32(errors)})
    place.journal.write()
    assert place.found().commit.rows == 2
    for there, rows in ((b"x\ny\n", 2), (b"x\nz\n", 1), (b"", 0)):
        place.files.truncate(bad, 0)
        place.files.write(bad, there)
        found = recover(place.files, place.fd, place.out, {"errors": bad})
        assert found is not None
        assert (found.commit.rows, found.commit.sides.get("errors", (0, 0))[0]) == (rows, 2 * rows)
    os.close(bad)


def test_rows_of_any_bytes_with_lines_beside_them(place: Place) -> None:
    place.journal.begin({})
    rows = [
        Row(i, data, b"c", Tally(num_answered=1), side=b'{"id":"\xc3\xa9"}') for i, data in enumerate([b"\xff\x00\xc0\x7f", b"\0" * 8, b""])
    ]
    places = [place.journal.spill(row) for row in rows]
    place.journal.write()
    assert [place.journal.read_row(*at) for at in places] == rows


def test_a_file_that_was_made_is_that_of_the_last_commit(place: Place) -> None:
    place.journal.begin({})
    place.commit(b"a\n", 1)
    assert place.found().made is None
    place.journal.made(5, "abc")
    place.journal.write()
    assert place.found().made == (5, "abc")
    place.commit(b"b\n", 2)  # the input had grown
    assert place.found().made is None


def test_entries_longer_than_a_piece(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_CHUNK", 100)
    place.journal.begin({})
    rows = [Row(i, b"x" * (i * 37 % 500)) for i in range(1, 50)]
    places = [place.journal.spill(row) for row in rows]
    place.journal.write()
    found = place.found()
    assert len(found.spilled) == len(rows)
    assert [found.spilled.get(row.ordinal) for row in rows] == places


# -- SpillIndex ------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.sampled_from(["put", "drop"]), st.integers(0, 60)), max_size=60))
def test_spill_index_is_a_dict(steps: list[tuple[str, int]]) -> None:
    index, model, dropped = SpillIndex(), dict[int, tuple[int, int]](), 0
    for i, (what, ordinal) in enumerate(steps):
        if what == "put":
            if ordinal >= dropped:
                index.put(ordinal, i, i + 1)
                model[ordinal] = i, i + 1
        else:
            dropped = max(dropped, ordinal)
            index.drop_before(dropped)
            # What is dropped may stay for a while; nobody asks for it.
        current = {ordinal: at for ordinal, at in model.items() if ordinal >= dropped}
        assert {ordinal: index.get(ordinal) for ordinal in current} == current
        assert {ordinal for ordinal in index.ordinals() if ordinal >= dropped} == set(current)
        assert all((ordinal in index) == (ordinal in current) for ordinal in range(dropped, 70))
        assert len(index) == len(list(index.ordinals()))


def test_spill_index_takes_16_bytes_a_row() -> None:
    index = SpillIndex()
    ordinals = list(range(1, 100_001))
    random.Random(0).shuffle(ordinals)
    for ordinal in ordinals:
        index.put(ordinal, ordinal * 100, 100)
    assert len(index) == 100_000
    assert len(index._offsets) * index._offsets.itemsize + len(index._sizes) * index._sizes.itemsize <= 16 * 100_001
    index.drop_before(100_001)
    assert (len(index), len(index._offsets)) == (0, 0)
