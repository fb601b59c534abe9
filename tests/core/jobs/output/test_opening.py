"""Opening of OUT: what is refused, what is taken over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, LockedError
from infer.core.jobs.output.opening import RESERVED, open_output
from infer.core.jobs.output.output import JobOutput
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
    (tmp_path / "out.partial.journal").write_bytes(b'00000000 {"t":"hea')
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
    ("out", "errors"), [("a", "a"), ("a", "a.partial"), ("a", "a.partial.journal"), ("a", "a.partial.lock"), ("a", "b.shard.json")]
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


def test_a_link_into_a_folder_that_is_not_there_names_that_folder(tmp_path: Path) -> None:
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "nowhere" / "out.jsonl")
    for name, options in ((link, {}), (tmp_path / "other.jsonl", {"errors": str(link)})):
        with pytest.raises(ConfigError, match=r"cannot be created: there is no folder '.*nowhere'"):
            open_output(str(name), inputs=[], **options)


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
        (out, {"embedding_dtype": "float64"}, "'float64'"),
    ]:
        with pytest.raises(ConfigError, match=match):
            open_output(name, inputs=[], output_format=format, vectors=True, **options)  # type: ignore[arg-type]
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


# -- files beside the output -----------------------------------------------------------------------------------------
def failing(path: Path, errors: Path, *, finish: bool, **options: Any) -> None:
    """A run with a good and a failed row."""
    output = opened(path, errors=str(errors), **options)
    output.begin({})
    answer = b'{"index":0,"choices":[],"error":null}'
    error = b'{"code":"invalid_json","message":"no","param":null,"retryable":false}'
    rows = [(answer, None), (b'{"index":1,"error":' + error + b"}", b'{"_line":"bad","_error":' + error + b"}")]
    output.write([Row(i, row, error_line=line) for i, (row, line) in enumerate(rows)])
    output.checkpoint([], force=True)
    if finish:
        output.finish()
    output.close()


def test_the_errors_file_is_under_the_overwrite_rule(tmp_path: Path) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad"
    bad.write_bytes(b"mine")
    for options in ({}, {"resume": True}):
        with pytest.raises(ConfigError, match=r"--errors '.*bad' exists.*--overwrite"):
            opened(out, errors=str(bad), **options)
        assert contents(tmp_path) == {"bad": b"mine"}
    (tmp_path / "link").symlink_to(bad)
    with pytest.raises(ConfigError, match=r"--errors '.*link' exists"):
        opened(out, errors=str(tmp_path / "link"))
    failing(out, bad, finish=True, overwrite=True)
    assert bad.read_bytes().startswith(b'{"_line":"bad"')


def test_a_redo_replaces_the_errors_file_of_its_output_alone(tmp_path: Path) -> None:
    out, bad, other = tmp_path / "out", tmp_path / "bad", tmp_path / "other"
    failing(out, bad, finish=True)
    opened(out, errors=str(bad), redo=True).close()
    opened(out, errors=str(bad), redo=True, resume=True).close()
    opened(out, errors=str(tmp_path / "fresh"), redo=True).close()
    good = bad.read_bytes()
    for data in (b"", b"mine\n", good + good, good.replace(b'"no"', b'"yes"'), b"{}\n", b"[]\n"):
        other.write_bytes(data)
        for resume in (False, True):
            with pytest.raises(ConfigError, match=r"--errors '.*other' exists"):
                opened(out, errors=str(other), redo=True, resume=resume)
        assert other.read_bytes() == data
    assert bad.read_bytes() == good


@pytest.mark.parametrize("link", [False, True])
def test_a_strange_partial_file_is_left_alone(tmp_path: Path, link: bool) -> None:
    """Of the errors, of the ids, of the rows of a matrix."""
    out, mine = tmp_path / "out", tmp_path / "mine"
    names = {"bad.partial": {}, "out.ids.jsonl.partial": MATRIX, "out.partial.made": MATRIX, "out.partial.journal": {}, "out.partial": {}}
    for name, options in names.items():
        path = tmp_path / name
        mine.write_bytes(b"mine")
        if link:
            path.symlink_to(mine)
        else:
            path.write_bytes(b"mine")
        before = contents(tmp_path)
        for resume in (False, True):
            with pytest.raises(ConfigError, match=name):  # noqa: PT012
                output = opened(out, errors=str(tmp_path / "bad"), resume=resume, **options)
                try:
                    output.recover()
                finally:
                    output.close()
            assert contents(tmp_path) == before
        if link:
            output = opened(out, errors=str(tmp_path / "bad"), overwrite=True, **options)
            output.begin({})
            output.close()
            assert mine.read_bytes() == b"mine"
        for left in tmp_path.iterdir():
            left.unlink()


def test_an_unfinished_run_has_its_errors_in_one_file(tmp_path: Path) -> None:
    out, bad = tmp_path / "out", tmp_path / "bad"
    failing(out, bad, finish=False)
    before = contents(tmp_path)
    for strange in (b"mine", b""):
        (tmp_path / "other.partial").write_bytes(strange)
        for resume in (False, True):
            with pytest.raises(ConfigError, match=r"errors in '.*bad', not in '.*other'.*--resume.*--overwrite"):  # noqa: PT012
                output = opened(out, errors=str(tmp_path / "other"), resume=resume)
                try:
                    output.recover()
                finally:
                    output.close()
            assert contents(tmp_path) == {**before, "other.partial": strange}
    (tmp_path / "other.partial").unlink()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in [*tmp_path.glob("*.*")]:
        path.rename(moved / path.name)
    output = opened(moved / "out", errors=str(moved / "bad"), resume=True)
    recovered = output.recover()
    assert recovered is not None
    assert recovered.commit.rows == 2
    output.close()


def test_the_unfinished_output_of_another_run_is_no_errors_file(tmp_path: Path) -> None:
    run(tmp_path / "other", b"a", finish=False)
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="output of a run that did not finish"):
            opened(tmp_path / "out", errors=str(tmp_path / "other"), overwrite=overwrite)
        assert contents(tmp_path) == before


def test_a_file_beside_the_output_is_locked_too(tmp_path: Path) -> None:
    first = opened(tmp_path / "a", errors=str(tmp_path / "bad"))
    matrix = opened(tmp_path / "m", **MATRIX)
    (tmp_path / "link").symlink_to(tmp_path / "bad")
    taken: list[tuple[str, dict[str, Any]]] = [
        ("b", {"errors": str(tmp_path / "bad")}),
        ("b", {"errors": str(tmp_path / "link")}),
        ("b", {"errors": str(tmp_path / "a")}),
        ("bad", {}),
        ("m.ids.jsonl", {}),
        ("b", {"errors": str(tmp_path / "m.ids.jsonl")}),
    ]
    for name, options in taken:
        for overwrite in (False, True):
            with pytest.raises(LockedError, match="written by another run"):
                opened(tmp_path / name, overwrite=overwrite, **options)
    for output in (first, matrix):
        output.close()
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    opened(tmp_path / "b", errors=str(tmp_path / "bad")).close()


@pytest.mark.parametrize("ending", RESERVED)
def test_names_of_files_beside_outputs_are_not_for_outputs(tmp_path: Path, ending: str) -> None:
    for name, options in ((f"x{ending}", {}), ("out", {"errors": str(tmp_path / f"x{ending}")})):
        with pytest.raises(ConfigError, match=f"ends in {ending}"):
            opened(tmp_path / name, overwrite=True, **options)
    assert contents(tmp_path) == {}


def test_names_that_are_too_long(tmp_path: Path) -> None:
    """In bytes, with all that is put beside them, and whole paths too."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    for name in ("x" * (longest + 1), "x" * longest, "é" * (longest // 2), "x" * (longest - len(".partial.lock") + 1)):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(ConfigError, match=r"bytes are too many here.*shorter name"):
                opened(tmp_path / name, **options)
            with pytest.raises(ConfigError, match="too many"):
                opened(tmp_path / "out", errors=str(tmp_path / name), **options)
    with pytest.raises(ConfigError):
        opened(tmp_path / "/".join(["x" * 200] * 30))
    assert contents(tmp_path) == {}
    with pytest.raises(ConfigError):
        opened(tmp_path / ("x" * (longest - len(".partial.journal") + 1)))
    run(tmp_path / ("x" * (longest - len(".partial.journal"))), b"a")


def test_where_a_note_is_to_be_written_is_no_other_file(tmp_path: Path) -> None:
    left = tmp_path / "out.job.json.tmp"
    left.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"out\.job\.json\.tmp.*another file"):
        opened(tmp_path / "out")
    assert left.read_bytes() == b"mine"
    left.unlink()
    left.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"out\.job\.json\.tmp.*a link, which is left alone"):
        opened(tmp_path / "out")
    assert left.is_symlink()
    left.unlink()
    for torn in (b"", b"{\n  ", b"{\n \0\0\0", b'{\n  "format": 2,\n'):
        left.write_bytes(torn)
        opened(tmp_path / "out").close()
