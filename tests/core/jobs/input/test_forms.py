"""Input of other forms: told by name or first bytes, and read as the records that it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.input.forms import form_of
from infer.core.jobs.input.inputs import Inputs
from infer.core.jobs.input.reader import RecordReader


def records(path: Path, form: str = "auto") -> list[Any]:
    return [record.error.code if record.error else record.fields for record in RecordReader(Inputs([str(path)], form).sources)]


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_rows_of_csv_are_records(tmp_path: Path) -> None:
    content = '\ufeffprompt,id\r\n"two\nlines, and ""quotes""",1\r\n\r\nplain,2,more\r\nshort\r\n'.encode()
    wanted = [{"prompt": 'two\nlines, and "quotes"', "id": "1"}, {"prompt": "plain", "id": "2", "column_3": "more"}, {"prompt": "short"}]
    assert records(write(tmp_path, "a.csv", content)) == wanted
    assert records(write(tmp_path, "b.txt", content), "csv") == wanted
    assert records(write(tmp_path, "c.tsv", content.replace(b",", b"\t").replace(b"lines\t", b"lines,"))) == wanted


def test_a_cell_that_is_no_utf8_fails_its_record_alone(tmp_path: Path) -> None:
    assert records(write(tmp_path, "a.csv", b"prompt,id\na,1\n\xff,2\nc,3\n")) == [
        {"prompt": "a", "id": "1"},
        "invalid_encoding",
        {"prompt": "c", "id": "3"},
    ]


@pytest.mark.parametrize("header", ["a,,b", "a,a", ""])
def test_columns_need_names(tmp_path: Path, header: str) -> None:
    with pytest.raises(ConfigError, match="names of the columns"):
        records(write(tmp_path, "a.csv", f"{header}\n1,2,3\n".encode()))


VALUES = [{"prompt": "a", "n": {"x": [1, 2.5, None]}}, {"prompt": "é", "big": 10**30}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("listed", [True, False])
def test_json_values_are_records(tmp_path: Path, indent: int | None, listed: bool) -> None:
    text = json.dumps(VALUES, indent=indent) if listed else "\n".join(json.dumps(value, indent=indent) for value in VALUES)
    assert records(write(tmp_path, "a.json", text.encode())) == VALUES
    assert records(write(tmp_path, "b", text.encode()), "json") == VALUES


def test_json_that_is_cut_off_is_an_error_behind_what_is_whole(tmp_path: Path) -> None:
    reader = RecordReader(Inputs([str(write(tmp_path, "a.json", b'[{"prompt": "a"}, {"prompt": '))], "json").sources)
    assert [one.fields for one in reader.take(10, 1 << 20, wait=True)] == [{"prompt": "a"}]
    with pytest.raises(InferError, match="is not JSON, or is cut off"):
        reader.take(10, 1 << 20, wait=True)


def test_rows_of_parquet_are_records(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": ["a", None], "n": [1, 2], "tags": [["x"], []]}), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == [{"prompt": "a", "n": 1, "tags": ["x"]}, {"prompt": None, "n": 2, "tags": []}]
    (tmp_path / "a.parquet").rename(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="is Parquet, not JSON lines; give --input-format parquet"):
        Inputs([str(tmp_path / "a.jsonl")])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InferError, match="cannot be read as Parquet"):
        records(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"prompt,id\na,1\nb,2\n", "is CSV.*--input-format csv"),
        (b"prompt\tid\na\t1\nb\t2\n", "is TSV.*--input-format tsv"),
        (b'[{"prompt": "a"}, {"prompt": "b"}]\n', "--input-format json"),
        (b'[\n{"prompt": "a"},\n{"prompt": "b"}\n]\n', "--input-format json"),
        (b"[" + b'{"prompt": "a"}, ' * 100_000 + b'{"prompt": "b"}]', "--input-format json"),
        (b'[{"prompt": "a"},', "--input-format json"),
        (b'[{"prompt": "a"}] and more', "--input-format json"),
        (b'{\n  "prompt": "a"\n}\n', "--input-format json"),
        ('{"prompt": "a"}\n'.encode("utf-16"), "iconv -f UTF-16"),
        (b"PK\x03\x04....", "zip"),
        (b"BZh9....", "bunzip2"),
    ],
)
def test_what_is_no_json_lines_is_told_before_anything_is_loaded(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Inputs([str(write(tmp_path, "in.jsonl", content))])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b'{"prompt": "a"}\n',
        b'\xef\xbb\xbf{"prompt": "a, b"}\n',
        b'oops\n{"prompt": "a"}\n',
        b'a,b\n{"prompt": "a"}\n',
        b'[\n{"prompt": "a"}\n{"prompt": "b"}\n',
        b'[1, 2]\n{"prompt": "a"}\n',
        b"[oops",
        b"[[[[",
        b'{\n{"prompt": "a"}\n',
        b'{"prompt": "a"\n{"prompt": "b"}\n',
        b"one line of words, with a comma",
        b"not json\nneither, this\nnor that\n",
        b'"a"\n"b"\n',
    ],
)
def test_json_lines_with_a_bad_line_are_json_lines(tmp_path: Path, content: bytes) -> None:
    Inputs([str(write(tmp_path, "in.jsonl", content))])


@given(st.lists(st.one_of(st.sampled_from(['{"prompt": "x"}', "{", "[", "a,b", "]", '"x",', "oops"]), st.text(max_size=8)), max_size=6))
def test_a_good_line_is_enough(lines: list[str]) -> None:
    head = "\n".join([json.dumps({"prompt": "good, really", "id": "x"}), *lines]).encode("utf-8", "replace")
    assert form_of("in.jsonl", head) == "jsonl"
