from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError
from infer.core.jobs.opening import open_output
from infer.core.jobs.output import JobOutput
from infer.core.jobs.row import Row
from infer.core.jobs.tally import Tally


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def opened(path: Path, **options: Any) -> JobOutput:
    output = open_output(str(path), **{"inputs": [], **options})
    assert isinstance(output, JobOutput)
    return output


def run(path: Path, *rows: bytes, finish: bool = True, **options: Any) -> None:
    """A run that writes `rows`."""
    output = opened(path, **options)
    output.begin({})
    output.write([Row(i, row, tally=Tally(num_answered=1)) for i, row in enumerate(rows)])
    output.checkpoint([], force=True)
    if finish:
        output.finish()
    output.close()


def test_existing_files_are_refused_unless_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(ConfigError, match="--overwrite"):
        opened(out)
    assert contents(tmp_path) == {"out": b"old"}
    output = opened(out, overwrite=True)
    output.begin({})
    output.write([Row(0, b"new")])
    assert out.read_bytes() == b"old"  # until the new one is whole
    output.finish()
    output.close()
    assert contents(tmp_path) == {"out": b"new\n"}


def test_an_unfinished_run_is_refused_with_both_ways_on(tmp_path: Path) -> None:
    run(tmp_path / "out", b"a", b"b", finish=False)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"2 records.*--resume.*--overwrite"):
        opened(tmp_path / "out")
    assert contents(tmp_path) == before
    opened(tmp_path / "out", resume=True).close()  # not begun yet
    assert contents(tmp_path) == before
    opened(tmp_path / "out", overwrite=True).close()
    assert contents(tmp_path) == {}


def test_an_unfinished_run_without_answers_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "out.partial").touch()
    (tmp_path / "out.partial.journal").write_bytes(b"00000000 torn")
    run(tmp_path / "out", b"a")
    assert contents(tmp_path) == {"out": b"a\n"}


def test_answers_without_a_journal_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_bytes(b"a\n")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"no journal.*--overwrite"):  # noqa: PT012
            output = opened(tmp_path / "out", resume=resume)
            try:
                output.recover()
            finally:
                output.close()
        assert contents(tmp_path) == {"out.partial": b"a\n"}


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"{}")
    (tmp_path / "hard").hardlink_to(data)
    (tmp_path / "soft").symlink_to(data)
    (tmp_path / "x.partial").symlink_to(data)
    (tmp_path / "y.partial.journal").symlink_to(data)
    for name in ("data", "hard", "soft", "x", "y"):
        with pytest.raises(ConfigError, match="same file"):
            open_output(str(tmp_path / name), inputs=[data.stat()], overwrite=True)
    for name in ("data", "hard", "soft", "x"):
        with pytest.raises(ConfigError, match="same file"):
            open_output(str(tmp_path / "z"), errors=str(tmp_path / name), inputs=[data.stat()], overwrite=True)
    with data.open("ab") as stdout, pytest.raises(ConfigError, match="same file"):
        open_output("-", inputs=[data.stat()], stdout=stdout)
    assert data.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("out", "errors"), [("a", "a"), ("a", "a.partial"), ("a", "a.partial.journal"), ("a", "a.partial.lock"), ("a.partial", "a")]
)
def test_the_errors_file_is_none_of_the_outputs_own(tmp_path: Path, out: str, errors: str) -> None:
    with pytest.raises(ConfigError, match="--errors"):
        opened(tmp_path / out, errors=str(tmp_path / errors), overwrite=True)
    assert contents(tmp_path) == {}


def test_a_link_to_the_output_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new\n"


@pytest.mark.parametrize("name", ["no/such/folder/out", "."])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        opened(tmp_path / name)
    with pytest.raises(ConfigError):
        opened(tmp_path / "out", errors=str(tmp_path / name))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/null"])
@pytest.mark.parametrize("options", [{"resume": True}, {"redo": True}, {"compression": "gzip"}, {"errors": "x"}])
def test_what_needs_a_file_is_refused_without_one(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        open_output(name, inputs=[], **options)


def test_a_run_that_died_after_publishing_had_finished(tmp_path: Path) -> None:
    out, journal = tmp_path / "out", tmp_path / "out.partial.journal"
    run(out, b"a", b"b", finish=False)
    left = journal.read_bytes()
    (tmp_path / "out.partial").rename(out)  # the last thing it did
    output = opened(out, resume=True)
    assert output.is_finished
    output.close()
    assert contents(tmp_path) == {"out": b"a\nb\n"}
    journal.write_bytes(left)
    with pytest.raises(ConfigError, match="exists"):
        opened(out)
    assert contents(tmp_path) == {"out": b"a\nb\n"}


MATRIX = {"output_format": "npy"}


@pytest.mark.parametrize("format", ["npy", "safetensors", "parquet"])
def test_what_a_matrix_cannot_be(tmp_path: Path, format: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = contents(tmp_path)
    out = str(tmp_path / "out")
    for name, options, match in [
        ("-", {}, "output file"),
        ("/dev/null", {}, "output file"),
        (str(tmp_path / "fifo"), {}, "output file"),
        (out, {"compression": "gzip"}, "--compression gzip"),
        (out, {"compression": "zstd"}, "--compression zstd"),
        (out + ".gz", {}, "ends as gzip files do"),
        (out, {"redo": True}, "--overwrite"),
        (out, {"embedding_dtype": "float64"}, "'float16'"),
    ]:
        with pytest.raises(ConfigError, match=match):
            open_output(name, inputs=[], output_format=format, **options)  # type: ignore[arg-type]
    assert contents(tmp_path) == before


def test_a_matrix_has_more_files_that_are_never_the_input(tmp_path: Path) -> None:
    names = ["out.ids.jsonl", "out.ids.jsonl.partial", "out.partial.made"]
    for name in names:
        data = tmp_path / name
        data.write_bytes(b"{}")
        with pytest.raises(ConfigError, match=f"{name}', which belongs to .*same file"):
            open_output(str(tmp_path / "out"), inputs=[data.stat()], overwrite=True, **MATRIX)
        opened(tmp_path / "out", inputs=[data.stat()], overwrite=True).close()  # lines have no such files
        with pytest.raises(ConfigError, match="--errors"):
            opened(tmp_path / "out", errors=str(data), overwrite=True, **MATRIX)
        assert contents(tmp_path) == {name: b"{}"}
        data.unlink()


def test_ids_of_others_are_refused_unless_told(tmp_path: Path) -> None:
    ids = tmp_path / "out.ids.jsonl"
    ids.write_bytes(b"mine")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"out\.ids\.jsonl'.*exists.*--overwrite"):
            opened(tmp_path / "out", resume=resume, **MATRIX)
        assert contents(tmp_path) == {"out.ids.jsonl": b"mine"}
    output = opened(tmp_path / "out", overwrite=True, **MATRIX)
    output.begin({})
    output.write([])
    assert ids.read_bytes() == b"mine"  # until the new ones are whole
    output.finish()
    output.close()
    assert set(contents(tmp_path)) == {"out", "out.ids.jsonl"}
    assert ids.read_bytes() == b""
    with pytest.raises(ConfigError, match=r"'.*out' exists"):
        opened(tmp_path / "out", **MATRIX)


def test_a_discarded_matrix_leaves_nothing(tmp_path: Path) -> None:
    output = opened(tmp_path / "out", **MATRIX)
    output.begin({})
    output.write([Row(0, b"\xff", side=b"{}")])
    output.checkpoint([], force=True)
    output.close()
    (tmp_path / "out.partial.made").touch()
    assert set(contents(tmp_path)) == {"out.partial", "out.partial.journal", "out.ids.jsonl.partial", "out.partial.made"}
    opened(tmp_path / "out", overwrite=True, **MATRIX).close()
    assert contents(tmp_path) == {}
