"""Attempts at jobs in files, with the fake engine: what is gone on with, what is refused, what is answered anew."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from infer.core.errors import ConfigError, EngineError, OutputError, RecordError, TooManyErrors
from infer.core.jobs import attempt as attempt_module
from infer.core.jobs.input.selection import Shard
from infer.core.jobs.merge import merge
from infer.core.jobs.output import faults
from infer.core.jobs.output import output as output_module
from infer.core.jobs.output.files import Files
from infer.core.jobs.output.job_note import find_note
from infer.core.jobs.output.opening import open_output
from infer.core.jobs.output.sinks import npy
from infer.core.jobs.shards import open_shards

NUM = 40


def lines(count: int = NUM, start: int = 0) -> bytes:
    return b"".join(b'{"prompt":"p%d","id":"%d"}\n' % (i, i) for i in range(start, start + count))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)


@pytest.fixture
def stopped(attempt: Any, tmp_path: Path) -> Callable[..., Path]:
    """stopped(**options) -> the output of a run over `in` that did not finish; `in` has NUM records."""

    def run(name: str = "out", **options: Any) -> Path:
        (tmp_path / "in").write_bytes(lines())
        engine = {"fail": {30: EngineError("dead")}, "fail_in": "step"}
        with pytest.raises(EngineError):
            attempt(tmp_path / "in", tmp_path / name, engine=engine, **options)
        return tmp_path / name

    return run


@pytest.fixture
def whole(attempt: Any, tmp_path: Path) -> Callable[..., bytes]:
    """whole(data, ...) -> the output of an unbroken run."""

    def run(data: bytes, **options: Any) -> bytes:
        folder = tmp_path / "whole"
        folder.mkdir(exist_ok=True)
        (folder / "in").write_bytes(data)
        attempt(folder / "in", folder / "out", overwrite=True, **options)
        return (folder / "out").read_bytes()

    return run


# -- going on --------------------------------------------------------------------------------------------------------
def test_a_stopped_job_goes_on(attempt: Any, stopped: Any, whole: Any, tmp_path: Path) -> None:
    out = stopped()
    assert 0 < (tmp_path / "out.partial").stat().st_size < len(whole(lines()))
    made = attempt(tmp_path / "in", out, resume=True)
    assert out.read_bytes() == whole(lines())
    assert made.stats.num_resumed > 10
    assert made.engine.stats.num_prompt_tokens < made.stats.prompt_tokens
    assert made.stats.to_json(command="", settings={}, defaults={"sampling": {}})["attempts"] == 2
    assert {"out.partial", "out.partial.journal", "out.partial.lock"}.isdisjoint(contents(tmp_path))


def test_resume_is_a_plain_flag(attempt: Any, whole: Any, tmp_path: Path) -> None:
    """Nothing there: a fresh run. Finished: says so, with the counts of the first time, and touches nothing."""
    (tmp_path / "in").write_bytes(lines() + b"bad\n")
    first = attempt(tmp_path / "in", tmp_path / "out", resume=True)
    assert (first.done, first.stats.num_resumed, first.stats.exit_code) == (False, 0, 3)
    before = contents(tmp_path)
    again = attempt(tmp_path / "in", tmp_path / "out", resume=True)
    assert (again.done, again.engine) == (True, None)
    assert again.stats.to_entry() == first.stats.to_entry()
    assert (again.stats.exit_code, again.stats.output_sha256) == (3, first.stats.output_sha256)
    told, whole = (one.to_json(command="", settings={}, defaults={"sampling": {}}) for one in (again.stats, first.stats))
    assert (told["attempts"], told["records"]["from_earlier_attempts"]) == (1, NUM + 1)
    for name in ("exit_code", "errors", "finish_reasons", "output_sha256"):
        assert told[name] == whole[name], name
    assert contents(tmp_path) == before


def test_appended_lines_are_answered_too(attempt: Any, stopped: Any, whole: Any, tmp_path: Path) -> None:
    out = stopped()
    data = lines() + lines(5, start=NUM)
    (tmp_path / "in").write_bytes(data)
    attempt(tmp_path / "in", out, resume=True)
    assert out.read_bytes() == whole(data)


@pytest.mark.parametrize("selection", [{"offset": 3}, {"limit": 35}, {"offset": 5, "limit": 33}, {"shard": Shard(0, 3)}])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_part_of_the_input(attempt: Any, stopped: Any, whole: Any, tmp_path: Path, selection: dict[str, Any], compression: str) -> None:
    out = stopped(compression=compression, **selection)
    made = attempt(tmp_path / "in", out, resume=True, compression=compression, **selection)
    assert made.stats.num_resumed > 0
    assert out.read_bytes() == whole(lines(), compression=compression, **selection)


def test_several_inputs(attempt: Any, tmp_path: Path, whole: Any) -> None:
    """The index counts on, and a missing last newline glues nothing."""
    names = [tmp_path / f"in{i}" for i in range(3)]
    for i, name in enumerate(names):
        name.write_bytes(lines(10, start=10 * i).rstrip(b"\n"))
    engine = {"fail": {25: EngineError("dead")}, "fail_in": "step"}
    with pytest.raises(EngineError):
        attempt(names, tmp_path / "out", engine=engine)
    made = attempt(names, tmp_path / "out", resume=True)
    assert made.stats.num_resumed > 5
    assert (tmp_path / "out").read_bytes() == whole(lines(30))


def test_attempts_and_seconds_add_up(attempt: Any, stopped: Any, tmp_path: Path) -> None:
    out = stopped(compression="gzip")  # nothing framed: all there is, is spilled
    with pytest.raises(EngineError):
        attempt(tmp_path / "in", out, resume=True, compression="gzip", engine={"fail": {33: EngineError("dead")}, "fail_in": "step"})
    made = attempt(tmp_path / "in", out, resume=True, compression="gzip")
    assert made.stats.earlier_attempts == 2
    assert made.stats.earlier_run_s > 0
    assert made.stats.num_records == NUM


# -- refusing --------------------------------------------------------------------------------------------------------
def refuses(attempt: Any, folder: Path, match: str, **options: Any) -> None:
    """Refused, before the engine is made, and nothing is changed."""
    before = contents(folder)
    with pytest.raises(ConfigError, match=match):
        attempt(folder / "in", folder / "out", engine={"never": "made"}, **options)
    assert contents(folder) == before


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_refused_run_touches_nothing(attempt: Any, stopped: Any, whole: Any, tmp_path: Path, compression: str, errors: bool) -> None:
    options = {"compression": compression, "errors": str(tmp_path / "bad") if errors else None}
    out = stopped(**options)
    done = attempt(tmp_path / "in", tmp_path / "elsewhere", **{**options, "errors": None}).stats
    refuses(attempt, tmp_path, r"--resume.*--overwrite", **options)
    refuses(attempt, tmp_path, r"temperature was 0\.0, is 0\.5", resume=True, job={"temperature": 0.5}, **options)
    refuses(attempt, tmp_path, "offset was 0, is 1", resume=True, offset=1, **options)
    refuses(attempt, tmp_path, r'shard was "0/1", is "1/2"', resume=True, shard=Shard(1, 2), **options)
    (tmp_path / "in").write_bytes(lines().replace(b'"p3"', b'"P3"'))
    refuses(attempt, tmp_path, "input changed", resume=True, **options)
    (tmp_path / "in").write_bytes(lines(3))
    refuses(attempt, tmp_path, "input changed", resume=True, **options)
    (tmp_path / "in").write_bytes(b"")
    refuses(attempt, tmp_path, "input changed", resume=True, **options)
    (tmp_path / "in").write_bytes(b'{"prompt":"first"}\n' + lines())
    refuses(attempt, tmp_path, "input changed", resume=True, **options)
    (tmp_path / "in").write_bytes(lines())
    made = attempt(tmp_path / "in", out, resume=True, **options)
    assert out.read_bytes() == (tmp_path / "elsewhere").read_bytes() == whole(lines(), compression=compression)
    assert made.stats.to_entry() == done.to_entry()


def test_every_byte_of_the_consumed_input_counts(attempt: Any, stopped: Any, tmp_path: Path) -> None:
    stopped()
    data = lines()
    journal = [json.loads(line[9:]) for line in (tmp_path / "out.partial.journal").read_bytes().splitlines()]
    last = max(
        [entry["rows"] - 1 for entry in journal if entry["t"] == "commit"] + [entry["n"] for entry in journal if entry["t"] == "row"]
    )
    consumed = len(b"".join(data.splitlines(keepends=True)[: last + 1]).rstrip(b"\n"))
    for place in range(0, consumed, 3):
        changed = bytes([data[place] ^ 1]) if data[place : place + 1] != b"\n" else b" "
        (tmp_path / "in").write_bytes(data[:place] + changed + data[place + 1 :])
        refuses(attempt, tmp_path, "input changed", resume=True)


def test_lines_that_were_not_answered_may_change(attempt: Any, stopped: Any, whole: Any, tmp_path: Path) -> None:
    out = stopped()
    changed = lines().replace(b'"p39"', b'"other"')
    (tmp_path / "in").write_bytes(changed)
    attempt(tmp_path / "in", out, resume=True)
    assert out.read_bytes() == whole(changed)


def test_resume_force_goes_on_all_the_same(attempt: Any, stopped: Any, whole: Any, tmp_path: Path) -> None:
    out = stopped()
    changed = lines().replace(b'"p3"', b'"P3"').replace(b'"p39"', b'"P39"')
    (tmp_path / "in").write_bytes(changed)
    attempt(tmp_path / "in", out, resume=True, resume_force=True, job={"temperature": 0.7})
    before, now = whole(lines()).splitlines(), out.read_bytes().splitlines()
    assert [i for i in range(NUM) if before[i] != now[i]] == [39]  # what was answered stays


def test_overwrite_starts_again(attempt: Any, stopped: Any, whole: Any, tmp_path: Path) -> None:
    out = stopped(errors=str(tmp_path / "bad"))
    made = attempt(tmp_path / "in", out, overwrite=True, errors=str(tmp_path / "bad"), job={"temperature": 0.5})
    assert made.stats.num_resumed == 0
    assert out.read_bytes() == whole(lines())
    assert contents(tmp_path)["bad"] == b""


# -- answering anew --------------------------------------------------------------------------------------------------
def mixed() -> bytes:
    """Native and OpenAI Batch lines; every fifth is cut, every seventh fails in `FAILS`."""
    made = []
    for i in range(30):
        more = b',"max_tokens":2' if i % 5 == 0 else b""
        native = b'{"prompt":"p%d",  "note":"\xc3\xa9"%s}' % (i, more)
        batch = b'{"custom_id":"%d","url":"/v1/completions","body":{"prompt":"b%d"%s}}' % (i, i, more)
        made.append(batch if i % 3 == 0 else native)
    return b"\n".join(made) + b"\n"


FAILS = {i: RecordError("non_finite_logits", "NaN", retryable=True) for i in range(0, 30, 7)}
FAILING = {"fail": FAILS, "fail_in": "step"}


@pytest.fixture(params=["none", "gzip", "zstd"])
def finished(request: Any, attempt: Any, tmp_path: Path) -> dict[str, Any]:
    """A finished output with failed and cut rows; the options it was made with."""
    (tmp_path / "in").write_bytes(mixed())
    options = {"compression": request.param, "errors": str(tmp_path / "bad")}
    made = attempt(tmp_path / "in", tmp_path / "out", engine=FAILING, **options)
    assert made.stats.num_failed == len(FAILS)
    assert made.stats.finish_reasons["length"] > 2
    return options


def plain(data: bytes) -> list[bytes]:
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        data = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data)
    return data.splitlines()


def test_retry_errors(attempt: Any, whole: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    before = plain((tmp_path / "out").read_bytes())
    made = attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, **finished)
    assert (tmp_path / "out").read_bytes() == whole(mixed(), compression=finished["compression"])
    after = plain((tmp_path / "out").read_bytes())
    assert [i for i in range(30) if after[i] != before[i]] == list(FAILS)
    assert (tmp_path / "bad").read_bytes() == b""
    assert (made.stats.num_failed, made.stats.num_records) == (0, 30)
    assert made.engine.stats.num_prompt_tokens < made.stats.prompt_tokens


def test_redo_keeps_the_bytes_of_all_other_rows(attempt: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    """curator #697: only the cut ones again, with longer answers. What failed stays failed."""
    before, bad = plain((tmp_path / "out").read_bytes()), (tmp_path / "bad").read_bytes()
    longer = mixed().splitlines(keepends=True)
    longer[1:] = [line.replace(b'"max_tokens":2', b'"max_tokens":100') for line in longer[1:]]
    (tmp_path / "in").write_bytes(b"".join(longer))
    made = attempt(tmp_path / "in", tmp_path / "out", redo="length", **finished)
    after = plain((tmp_path / "out").read_bytes())
    assert [i for i in range(30) if after[i] != before[i]] == [i for i in range(0, 30, 5) if i not in FAILS]
    assert b'"length"' not in b"".join(after)
    assert (made.stats.num_failed, made.stats.num_records) == (len(FAILS), 30)
    assert made.stats.first_errors == {"non_finite_logits": (1, "NaN")}
    assert (tmp_path / "bad").read_bytes().count(b"\n") == bad.count(b"\n") == len(FAILS)
    assert [json.loads(line)["_error"]["message"] for line in (tmp_path / "bad").read_bytes().splitlines()] == ["NaN"] * len(FAILS)


def test_both_at_once(attempt: Any, whole: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    more = mixed().replace(b'"max_tokens":2', b'"max_tokens":100')
    (tmp_path / "in").write_bytes(more)
    attempt(tmp_path / "in", tmp_path / "out", redo="length", retry_errors=True, **finished)
    assert (tmp_path / "out").read_bytes() == whole(more, compression=finished["compression"])


def test_redo_answers_appended_lines_too(attempt: Any, whole: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    more = mixed() + lines(5)
    (tmp_path / "in").write_bytes(more)
    attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, **finished)
    assert (tmp_path / "out").read_bytes() == whole(more, compression=finished["compression"])


def test_a_stopped_redo_goes_on(attempt: Any, whole: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    before = (tmp_path / "out").read_bytes()
    with pytest.raises(EngineError):
        attempt(
            tmp_path / "in", tmp_path / "out", engine={"fail": {21: EngineError("x")}, "fail_in": "step"}, retry_errors=True, **finished
        )
    assert (tmp_path / "out").read_bytes() == before  # until the new one is whole
    made = attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, resume=True, **finished)
    assert made.stats.num_resumed > 0
    assert (tmp_path / "out").read_bytes() == whole(mixed(), compression=finished["compression"])


def test_redo_of_another_input_is_refused(attempt: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    before = (tmp_path / "out").read_bytes()
    (tmp_path / "in").write_bytes(b"\n".join(mixed().splitlines()[:20]))
    with pytest.raises(ConfigError, match="more rows than the 20 records"):
        attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, **finished)
    assert (tmp_path / "out").read_bytes() == before


@pytest.mark.parametrize(
    "row",
    [
        b"nonsense",
        b'{"index":0}',
        b"[]",
        b'{"index":4,"error":null}',
        b'{"index":0,"error":"oops"}',
        b'{"index":0,"error":{"code":"who knows","message":"x"}}',
        b'{"index":0,"error":{}}',
        b'{"index":0,"error":null,"choices":3}',
        b'{"index":0,"error":null,"choices":[3],"usage":"x"}',
        b'{"index":0,"error":null,"choices":[],"usage":{"prompt_tokens":"x"}}',
        b"",
    ],
)
def test_what_is_no_output_of_ours_cannot_be_redone(attempt: Any, tmp_path: Path, row: bytes) -> None:
    (tmp_path / "in").write_bytes(lines(3))
    (tmp_path / "out").write_bytes(row + b"\n")
    with pytest.raises(ConfigError, match="out"):
        attempt(tmp_path / "in", tmp_path / "out", redo="length")
    assert (tmp_path / "out").read_bytes() == row + b"\n"


def test_only_what_is_there_can_be_redone(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines())
    refuses(attempt, tmp_path, "not there", retry_errors=True)


# -- matrices --------------------------------------------------------------------------------------------------------
def test_a_finished_matrix_is_told_from_its_ids(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(5) + b"bad\n")
    options = {"output_format": "npy"}
    stats = attempt(tmp_path / "in", tmp_path / "out", **options).stats
    assert stats.output_sha256 == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    before = contents(tmp_path)
    again = attempt(tmp_path / "in", tmp_path / "out", resume=True, **options)
    assert again.done
    assert (again.stats.num_records, again.stats.num_failed) == (6, 1)
    assert contents(tmp_path) == before
    (tmp_path / "in").write_bytes(lines(6) + b"bad\n")
    refuses(attempt, tmp_path, "line 6", resume=True, **options)
    (tmp_path / "in").write_bytes(lines(5) + b"bad\n" + lines(1, start=6))
    refuses(attempt, tmp_path, "rows cannot be added to .*, a finished npy file; .*--offset", resume=True, **options)
    (tmp_path / "out.ids.jsonl").unlink()
    refuses(attempt, tmp_path, r"out\.ids\.jsonl' is not", resume=True, **options)


@pytest.mark.parametrize("option", [{"retry_errors": True}, {"redo": "length"}])
def test_a_matrix_is_not_answered_anew_in_part(attempt: Any, tmp_path: Path, option: dict[str, Any]) -> None:
    (tmp_path / "in").write_bytes(lines(5))
    attempt(tmp_path / "in", tmp_path / "out", output_format="npy")
    refuses(attempt, tmp_path, "answered anew", output_format="npy", **option)


def test_an_unfinished_matrix_goes_on_as_what_it_is(attempt: Any, stopped: Any, tmp_path: Path) -> None:
    """Its rows fit into another format, with --resume-force, but not into another length or type."""
    out = stopped(output_format="npy")
    refuses(attempt, tmp_path, r'output format was "npy", is "parquet"', output_format="parquet", vectors=True, resume=True)
    refuses(attempt, tmp_path, "holds vectors of 5 float32 values, this run writes lines", resume=True)
    for force in (False, True):
        how = {"resume": True, "resume_force": force, "output_format": "npy"}
        refuses(attempt, tmp_path, "this run writes vectors of 6 float32 values", size=6, **how)
        refuses(attempt, tmp_path, "this run writes vectors of 5 int8 values", embedding_dtype="int8", **how)
    made = attempt(tmp_path / "in", out, output_format="safetensors", resume=True, resume_force=True)
    assert made.stats.num_resumed > 10
    attempt(tmp_path / "in", tmp_path / "npy", output_format="npy")
    with safe_open(out, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("embeddings"), np.load(tmp_path / "npy"))


def test_unfinished_lines_do_not_become_a_matrix(attempt: Any, stopped: Any, tmp_path: Path) -> None:
    stopped()
    for force in (False, True):
        refuses(attempt, tmp_path, "holds lines, this run writes vectors", output_format="npy", resume=True, resume_force=force)


def test_a_shard_of_a_matrix(attempt: Any, tmp_path: Path) -> None:
    """Its note names the format and the finished file."""
    (tmp_path / "in").write_bytes(lines(7) + b"bad\n")
    attempt(tmp_path / "in", tmp_path / "whole", output_format="npy")
    whole = np.load(tmp_path / "whole")
    for i in range(2):
        out = tmp_path / f"out{i}"
        attempt(tmp_path / "in", out, output_format="npy", shard=Shard(i, 2))
        np.testing.assert_array_equal(np.load(out), whole[i::2])
        assert [row["index"] for row in rows(tmp_path / f"out{i}.ids.jsonl")] == list(range(i, 8, 2))
        note = find_note(out)
        assert (note.output_format, note.records, note.sha256) == ("npy", 4, hashlib.sha256(out.read_bytes()).hexdigest())


def test_an_interrupt_while_the_matrix_is_made(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for all of it; what is half made is taken away, and made again."""
    (tmp_path / "in").write_bytes(lines())
    with monkeypatch.context() as patch:

        def interrupted(matrix: Any, write: Any) -> None:
            write(b"half of it")
            assert (tmp_path / "out.partial.made").read_bytes() == b"half of it"
            raise KeyboardInterrupt

        patch.setattr(npy, "write_npy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "in", tmp_path / "out", output_format="npy")
    assert set(contents(tmp_path)) == {"in", "out.partial", "out.partial.journal", "out.ids.jsonl.partial"}
    made = attempt(tmp_path / "in", tmp_path / "out", output_format="npy", resume=True)
    assert (made.engine, made.stats.num_resumed) == (None, NUM)
    attempt(tmp_path / "in", tmp_path / "whole", output_format="npy")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_older_matrix_is_not_taken_for_the_one_that_was_made(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over it that ends when the new one is whole and not in place yet."""
    (tmp_path / "in").write_bytes(lines(7))
    attempt(tmp_path / "in", tmp_path / "out", output_format="npy")
    (tmp_path / "in").write_bytes(lines())
    with monkeypatch.context() as patch:

        def interrupted(point: str) -> None:
            if point == "told":
                raise KeyboardInterrupt

        patch.setattr(faults, "fault", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "in", tmp_path / "out", output_format="npy", overwrite=True)
    assert np.load(tmp_path / "out").shape == (7, 5)
    assert not attempt(tmp_path / "in", tmp_path / "out", output_format="npy", resume=True).done
    assert np.load(tmp_path / "out").shape == (NUM, 5)
    assert len(rows(tmp_path / "out.ids.jsonl")) == NUM


def test_a_disk_too_full_to_make_the_matrix(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(lines())
    with monkeypatch.context() as patch:

        def full(matrix: Any, write: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(npy, "write_npy", full)
        with pytest.raises(OutputError, match=r"No space left.*room for 800 more bytes"):
            attempt(tmp_path / "in", tmp_path / "out", output_format="npy")
    attempt(tmp_path / "in", tmp_path / "out", output_format="npy", resume=True)
    assert np.load(tmp_path / "out").shape == (NUM, 5)


def test_no_records_are_an_empty_matrix(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\n")
    for kind in ("npy", "safetensors", "parquet"):
        attempt(tmp_path / "in", tmp_path / kind, output_format=kind, vectors=True)
        assert (tmp_path / f"{kind}.ids.jsonl").read_bytes() == b""
    assert np.load(tmp_path / "npy").shape == (0, 5)


# -- --max-errors ----------------------------------------------------------------------------------------------------
def bad_lines(bad: int, good: int) -> bytes:
    return b"nonsense\n" * bad + lines(good)


@pytest.mark.parametrize(
    ("limit", "bad", "good", "stops"),
    [
        (0, 0, 5, False),
        (0, 1, 5, True),
        (3, 3, 5, False),
        (3, 4, 5, True),
        (0.5, 5, 5, False),
        (0.5, 6, 5, True),
        (0.1, 10, 99, False),
        (0.1, 12, 99, True),
        (0.0, 1, 300, True),
        (1.0, 300, 0, False),
    ],
)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_max_errors(
    attempt: Any,
    whole: Any,
    tmp_path: Path,
    limit: float,
    bad: int,
    good: int,
    stops: bool,
    compression: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 100.0)  # what is kept is kept because the run ends
    data = bad_lines(bad, good)
    (tmp_path / "in").write_bytes(data)
    options = {"compression": compression, "max_errors": limit}
    if not stops:
        attempt(tmp_path / "in", tmp_path / "out", **options)
    else:
        with pytest.raises(TooManyErrors, match=f"{bad:,} of .* failed") as caught:
            attempt(tmp_path / "in", tmp_path / "out", **options)
        assert caught.value.exit_code == 1
        assert not (tmp_path / "out").exists()
        made = attempt(tmp_path / "in", tmp_path / "out", resume=True, compression=compression)
        assert made.stats.num_resumed >= bad
    assert (tmp_path / "out").read_bytes() == whole(data, compression=compression, keep_going=True)


def test_max_errors_stops_early(attempt: Any, tmp_path: Path) -> None:
    """It does not read a hopeless input to its end; a share is looked at when it means something."""
    (tmp_path / "in").write_bytes(b"nonsense\n" * 100_000)
    for i, limit in enumerate((10, 0.05)):
        with pytest.raises(TooManyErrors):
            attempt(tmp_path / "in", tmp_path / f"out{i}", max_errors=limit)
        assert len((tmp_path / f"out{i}.partial").read_bytes().splitlines()) < 1000


@pytest.mark.parametrize("format", ["jsonl", "npy", "safetensors"])
def test_names_that_are_no_text(attempt: Any, tmp_path: Path, format: str) -> None:
    """Files may be named by any bytes."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "in").write_bytes(lines() + b"bad\n")
    options = {"output_format": format, "errors": str(folder / "errors")}
    with pytest.raises(EngineError):
        attempt(folder / "in", folder / "out", engine={"fail": {30: EngineError("dead")}, "fail_in": "step"}, **options)
    attempt(folder / "in", folder / "out", resume=True, **options)
    attempt(folder / "in", tmp_path / "whole", **{**options, "errors": str(tmp_path / "errors")})
    for name in ("out", "errors"):
        assert (folder / name).read_bytes() == (tmp_path / name.replace("out", "whole")).read_bytes()


# -- a finished output, and the same job once more -------------------------------------------------------------------
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("errors", [False, True])
def test_a_finished_output_goes_on_with_what_was_added(attempt: Any, whole: Any, tmp_path: Path, compression: str, errors: bool) -> None:
    """With the rows, the failed lines and the counts of an unbroken run; also where a trial had a limit."""
    (tmp_path / "in").write_bytes(mixed())
    options = {"compression": compression, "errors": str(tmp_path / "bad") if errors else None}
    attempt(tmp_path / "in", tmp_path / "out", limit=12, engine=FAILING, **options)
    made = attempt(tmp_path / "in", tmp_path / "out", resume=True, engine=FAILING, **options)
    assert made.engine.stats.num_prompt_tokens < made.stats.prompt_tokens
    (tmp_path / "in").write_bytes(mixed() + lines(4))
    made = attempt(tmp_path / "in", tmp_path / "out", resume=True, engine={}, **options)
    unbroken = attempt(tmp_path / "in", tmp_path / "single", engine=FAILING, **{**options, "errors": str(tmp_path / "others")})
    assert (tmp_path / "out").read_bytes() == (tmp_path / "single").read_bytes()
    assert not errors or contents(tmp_path)["bad"] == contents(tmp_path)["others"]
    assert made.stats.to_entry() == unbroken.stats.to_entry()
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, **options).done


def test_a_finished_output_is_looked_at(attempt: Any, tmp_path: Path) -> None:
    """Another job, another input, fewer records, a file that was changed, no note: refused by name, and nothing is touched."""
    data = lines(6)
    (tmp_path / "in").write_bytes(data)
    attempt(tmp_path / "in", tmp_path / "out")
    refuses(
        attempt, tmp_path, r"temperature was 0\.0, is 0\.5; .*--overwrite, choose another output", resume=True, job={"temperature": 0.5}
    )
    refuses(attempt, tmp_path, "offset was 0, is 1", resume=True, offset=1)
    refuses(attempt, tmp_path, 'shard was "0/1", is "0/2"', resume=True, shard=Shard(0, 2))
    refuses(attempt, tmp_path, 'compression was "none", is "gzip"', resume=True, compression="gzip")
    refuses(attempt, tmp_path, "more rows than the 5 records that are selected", resume=True, limit=5)
    for changed, said in (
        (data.replace(b"p3", b"P3"), r"line 4 \(id '3'\) is not what it was .*; answer it anew with --redo changed, or "),
        (data.replace(b'"3"', b'"4"'), r"line 4 \(id '4'\) is not what it was"),
        (b'{"prompt":"new"}\n' + data, "line 1 is not"),
        (b"".join(reversed(data.splitlines(keepends=True))), "line 1 "),
        (lines(5), "more rows than the 5 records"),
        (b"", "more rows than the 0 records"),
    ):
        (tmp_path / "in").write_bytes(changed)
        for options in ({"resume": True}, {"retry_errors": True}, {"redo": "length"}, {"resume": True, "retry_errors": True}):
            refuses(attempt, tmp_path, f"the input changed: .*{said}.*--overwrite", **options)
    (tmp_path / "in").write_bytes(b"\n" + data.rstrip(b"\n").replace(b"\n", b"\n \n"))  # blank lines are no records
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, limit=6).done
    (tmp_path / "in").write_bytes(data)
    row = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_bytes(row.replace(b"p", b"q", 1))
    refuses(attempt, tmp_path, "is not the file that the note beside it describes", resume=True)
    (tmp_path / "out").write_bytes(row)
    (tmp_path / "out.job.json").unlink()
    for options in ({"resume": True}, {"retry_errors": True}):
        refuses(attempt, tmp_path, r"'out\.job\.json' beside it.*--overwrite.*--resume-force", **options)


def test_without_its_note_ids_tell_whose_rows_are(attempt: Any, whole: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out.job.json").unlink()
    swapped = lines(6).splitlines(keepends=True)
    (tmp_path / "in").write_bytes(b"".join([swapped[1], swapped[0], *swapped[2:]]))
    force = {"resume": True, "resume_force": True}
    assert "id '1'" in refused_with_force(attempt, tmp_path, {**force, "retry_errors": True})
    (tmp_path / "in").write_bytes(lines(8))
    attempt(tmp_path / "in", tmp_path / "out", **force)
    assert (tmp_path / "out").read_bytes() == whole(lines(8))
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True).done


@pytest.mark.parametrize("note", [True, False])
def test_force_never_gives_a_record_the_row_of_another_id(attempt: Any, whole: Any, tmp_path: Path, note: bool) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    if not note:
        (tmp_path / "out.job.json").unlink()
    force = {"resume": True, "resume_force": True}
    (tmp_path / "in").write_bytes(b"".join(reversed(lines(6).splitlines(keepends=True))))
    assert "id '5'" in refused_with_force(attempt, tmp_path, force)
    (tmp_path / "in").write_bytes(lines(6).replace(b'"p', b'"q'))
    attempt(tmp_path / "in", tmp_path / "out", **force)
    assert (tmp_path / "out").read_bytes() == before


def refused_with_force(attempt: Any, folder: Path, options: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        attempt(folder / "in", folder / "out", **options)
    return str(caught.value)


def test_redo_changed_answers_what_was_edited(attempt: Any, whole: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    edited = lines(6).replace(b"p3", b"edited") + lines(1, start=6)
    (tmp_path / "in").write_bytes(edited)
    made = attempt(tmp_path / "in", tmp_path / "out", redo="changed")
    assert (tmp_path / "out").read_bytes() == whole(edited)
    assert made.engine.stats.num_prompt_tokens == len("<edited") + len("<p6")


def test_failed_lines_may_be_mended(attempt: Any, whole: Any, tmp_path: Path) -> None:
    """That is what --retry-errors is for: the others are what they were."""
    (tmp_path / "in").write_bytes(lines(3) + b"bad\n" + lines(2, start=4))
    assert attempt(tmp_path / "in", tmp_path / "out").stats.num_failed == 1
    (tmp_path / "in").write_bytes(lines(6))
    refuses(attempt, tmp_path, r"line 4 \(id '3'\) is not what it was .*; answer it anew with --retry-errors, or ", resume=True)
    made = attempt(tmp_path / "in", tmp_path / "out", retry_errors=True)
    assert made.engine.stats.num_prompt_tokens == len("<p3")
    assert (tmp_path / "out").read_bytes() == whole(lines(6))


@pytest.mark.parametrize("option", [{"retry_errors": True}, {"redo": "length"}, {"redo": "changed"}])
def test_nothing_to_do_again_needs_no_engine(attempt: Any, tmp_path: Path, option: dict[str, Any]) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path)
    made = attempt(tmp_path / "in", tmp_path / "out", **option)
    assert (made.done, made.engine) == (True, None)
    assert contents(tmp_path) == before


def test_a_pipe_is_read_once(attempt: Any, whole: Any, tmp_path: Path) -> None:
    """Nobody can look ahead in it; what is in OUT still needs no engine."""
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")

    def through(data: bytes, **options: Any) -> Any:
        writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(data))
        writer.start()
        try:
            return attempt(tmp_path / "pipe", tmp_path / "out", resume=True, **options)
        finally:
            writer.join(10)

    made = through(lines(6))
    assert (made.engine, made.stats.num_records) == (None, 6)
    made = through(lines(8))
    assert (tmp_path / "out").read_bytes() == whole(lines(8))
    with pytest.raises(ConfigError, match="line 3"):
        through(lines(8).replace(b"p2", b"P2"))
    assert (tmp_path / "out").read_bytes() == whole(lines(8))


def test_shards_of_an_input_that_grew(attempt: Any, whole: Any, tmp_path: Path) -> None:
    """Record k stays in shard k modulo N. A shard that got none of the new ones has seen them all the same."""
    (tmp_path / "in").write_bytes(lines(6))
    names = [tmp_path / f"part{i}" for i in range(3)]
    for i, name in enumerate(names):
        attempt(tmp_path / "in", name, shard=Shard(i, 3))
    (tmp_path / "in").write_bytes(lines(7))
    assert not attempt(tmp_path / "in", names[0], shard=Shard(0, 3), resume=True).done
    with pytest.raises(ConfigError, match=r"first 6 records of the input, the other of 7; .*--resume"):
        open_shards([str(name) for name in names])
    for i in (1, 2):
        assert attempt(tmp_path / "in", names[i], shard=Shard(i, 3), resume=True).done
    shards = open_shards([str(name) for name in names])
    target = open_output(str(tmp_path / "out"), inputs=[], merge=True)
    assert merge([], target, shards).records == 7
    target.close()
    assert (tmp_path / "out").read_bytes() == whole(lines(7))
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True).done  # it is what a single run would have left
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, limit=7).done
    note = find_note(tmp_path / "out")
    assert note is not None
    assert (note.limit, len(note.merged)) == (7, 3)
    (tmp_path / "in").write_bytes(lines(9))
    attempt(tmp_path / "in", tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == whole(lines(9))


def test_a_repaired_shard_fits_the_others(attempt: Any, whole: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(mixed())
    names = [tmp_path / f"part{i}" for i in range(2)]
    attempt(tmp_path / "in", names[0], shard=Shard(0, 2), engine=FAILING)
    attempt(tmp_path / "in", names[1], shard=Shard(1, 2))
    attempt(tmp_path / "in", names[0], shard=Shard(0, 2), retry_errors=True)
    target = open_output(str(tmp_path / "out"), inputs=[], merge=True)
    merge([], target, open_shards([str(name) for name in names]))
    target.close()
    assert (tmp_path / "out").read_bytes() == whole(mixed())


def test_notes_are_beside_the_file_that_a_link_leads_to(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    (tmp_path / "real").mkdir()
    for i in range(2):
        (tmp_path / f"part{i}").symlink_to(tmp_path / "real" / f"file{i}")
        attempt(tmp_path / "in", tmp_path / f"part{i}", shard=Shard(i, 2))
    assert {"file0", "file0.shard.json"} < contents(tmp_path / "real").keys()
    assert [shard.note.records for shard in open_shards([str(tmp_path / "part0"), str(tmp_path / "part1")])] == [3, 3]
    assert attempt(tmp_path / "in", tmp_path / "part0", shard=Shard(0, 2), resume=True).done


def test_an_unfinished_redo_is_not_taken_for_another(attempt: Any, tmp_path: Path, finished: dict[str, Any]) -> None:
    engine = {"fail": {21: EngineError("x")}, "fail_in": "step"}
    with pytest.raises(EngineError):
        attempt(tmp_path / "in", tmp_path / "out", engine=engine, retry_errors=True, **finished)
    refuses(attempt, tmp_path, "answers failed records anew, this one records that ended by length", redo="length", resume=True, **finished)
    kept = attempt(tmp_path / "in", tmp_path / "out", resume=True, **finished)
    assert kept.stats.num_failed == 0
    assert kept.engine.stats.num_prompt_tokens < kept.stats.prompt_tokens


def test_the_time_of_a_job_is_that_of_its_first_attempt(
    attempt: Any, stopped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(datetime(2026, 1, day, 12) for day in range(1, 9))
    monkeypatch.setattr(attempt_module, "job_time", lambda: next(times))
    out = stopped()
    attempt(tmp_path / "in", out, resume=True)
    note = find_note(out)
    assert note is not None
    assert note.time == "2026-01-01T12:00:00"
    (tmp_path / "in").write_bytes(lines(NUM + 1))
    attempt(tmp_path / "in", out, resume=True)
    assert (found := find_note(out)) is not None
    assert found.time == note.time
    attempt(tmp_path / "in", out, overwrite=True)
    assert (found := find_note(out)) is not None
    assert found.time == "2026-01-02T12:00:00"


def test_a_file_where_a_note_will_be_is_not_written_over(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(2))
    (tmp_path / "out.job.json").write_text('{"mine": 1}')
    refuses(attempt, tmp_path, r"out\.job\.json' belongs to output .*--overwrite")
    attempt(tmp_path / "in", tmp_path / "out", overwrite=True)
    (tmp_path / "out").unlink()  # a note without its output tells nothing
    attempt(tmp_path / "in", tmp_path / "out")


def test_an_attempt_to_go_on_that_ended_at_once_is_in_nobodys_way(
    attempt: Any, whole: Any, tmp_path: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left its files, without an answer in them, beside the finished OUT."""

    class Killed(BaseException):
        pass

    def kill(point: str) -> None:
        if point == "begin":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(faults, "fault", kill)
        patch.setattr(output_module.JobOutput, "close", lambda output: output.unlock())
        with pytest.raises(Killed):
            attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, resume=True, **finished)
    assert (tmp_path / "bad.partial").exists()
    attempt(tmp_path / "in", tmp_path / "out", retry_errors=True, resume=True, **finished)
    assert (tmp_path / "out").read_bytes() == whole(mixed(), compression=finished["compression"])


def test_a_forced_redo_that_was_stopped_keeps_what_it_kept_before(attempt: Any, tmp_path: Path) -> None:
    """OUT is the one that it kept rows of, whether a note says so or not. (The first attempt has not looked at all of them.)"""
    (tmp_path / "in").write_bytes(lines(2000))
    attempt(tmp_path / "in", tmp_path / "out", engine=FAILING)
    (tmp_path / "out.job.json").unlink()
    force = {"retry_errors": True, "resume": True, "resume_force": True}
    with pytest.raises(EngineError):
        attempt(tmp_path / "in", tmp_path / "out", engine={"fail": {7: EngineError("x")}, "fail_in": "step"}, **force)
    made = attempt(tmp_path / "in", tmp_path / "out", **force)
    assert 0 < made.engine.stats.num_output_tokens <= sum(len(f"<p{i}") for i in FAILS)
    assert made.stats.num_records == 2000


def test_a_forced_output_is_this_jobs_from_then_on(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out.job.json").unlink()
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, resume_force=True).done
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True).done
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, resume_force=True, job={"temperature": 0.5}).done
    assert attempt(tmp_path / "in", tmp_path / "out", resume=True, job={"temperature": 0.5}).done


def test_a_failed_lines_file_cannot_be_added_to_a_matrix(attempt: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out", output_format="npy")
    options = {"resume": True, "output_format": "npy"}
    refuses(attempt, tmp_path, "without --errors", errors=str(tmp_path / "bad"), **options)
    (tmp_path / "in").write_bytes(lines(7))
    refuses(attempt, tmp_path, "the input has grown", **options)


def test_changed_records_are_not_known_without_a_note(attempt: Any, tmp_path: Path) -> None:
    """And no message names what was given already."""
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out.job.json").unlink()
    refuses(attempt, tmp_path, "or leave --redo changed out$", redo="changed", resume=True, resume_force=True)


def test_a_finished_output_that_cannot_be_read(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(lines(6))
    attempt(tmp_path / "in", tmp_path / "out")

    def read(files: Files, fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Files, "read", read)
    with pytest.raises(OutputError, match="out' cannot be read: Input/output error"):
        attempt(tmp_path / "in", tmp_path / "out", resume=True)
