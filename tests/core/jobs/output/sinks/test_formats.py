"""Matrices as other people's readers see them. Torn and lost files: ../../test_recovery.py."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from safetensors import safe_open

from infer.core.errors import ConfigError
from infer.core.jobs.output.matrix_output import MatrixOutput
from infer.core.jobs.output.sinks import parquet as parquet_module
from infer.core.jobs.output.sinks.matrix_sink import FORMATS, MatrixSink
from infer.core.jobs.output.sinks.vectors import DTYPES, decoded_dtype, encode_vector, failed_vector, num_columns
from infer.core.jobs.row import Row

SIZE = 11
FAILED = 3
META = {"model": "some model", "prompt": 'search_query: "é"\n', "pooling": "mean"}


def ids_of(i: int) -> dict[str, Any]:
    error = {"code": "prompt_too_long", "message": "too “long”", "param": None, "retryable": False} if i == FAILED else None
    name = [{}, {"id": f"é{i}"}, {"id": 10**20 + i}, {"custom_id": f"c{i}"}][i % 4]
    return {"index": 2 * i, **name, "error": error, "extra": {"note": "x"}}


def rows_of(dtype: str, count: int) -> list[Row]:
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        data = encode_vector(random.standard_normal(SIZE, dtype=np.float32), dtype)
        made.append(Row(i, failed_vector(SIZE, dtype) if i == FAILED else data, side=json.dumps(ids_of(i)).encode()))
    return made


def written(path: Path, kind: str, dtype: str = "float32", count: int = 20) -> MatrixOutput:
    sink = MatrixSink(kind, dtype)
    if count:  # of a job of no records nobody knows the size
        sink.describe(SIZE, META)
    output = MatrixOutput(str(path), sink=sink)
    if count:
        output.begin({})
    output.write(rows_of(dtype, count))
    output.finish()
    output.close()
    return output


def expected(dtype: str, count: int) -> np.ndarray:
    data = b"".join(row.data for row in rows_of(dtype, count))
    return np.frombuffer(data, decoded_dtype(dtype)).reshape(count, num_columns(SIZE if count else 0, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_npy(tmp_path: Path, dtype: str, count: int) -> None:
    written(tmp_path / "out.npy", "npy", dtype, count)
    array = np.load(tmp_path / "out.npy", mmap_mode="r" if count else None, allow_pickle=False)
    np.testing.assert_array_equal(array, expected(dtype, count))
    assert array.dtype == decoded_dtype(dtype)
    data = (tmp_path / "out.npy").read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    assert (len(data) - array.nbytes) % 64 == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_safetensors(tmp_path: Path, dtype: str, count: int) -> None:
    written(tmp_path / "out", "safetensors", dtype, count)
    with safe_open(tmp_path / "out", "np") as file:
        assert list(file.keys()) == ["embeddings"]
        array = file.get_tensor("embeddings")
        assert file.metadata() == {**(META if count else {}), "dim": str(SIZE if count else 0), "dtype": dtype}
    np.testing.assert_array_equal(array, expected(dtype, count))
    assert array.dtype == decoded_dtype(dtype)
    assert int.from_bytes((tmp_path / "out").read_bytes()[:8], "little") % 8 == 0  # values are aligned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_parquet(tmp_path: Path, dtype: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = num_columns(SIZE if count else 0, dtype)
    bytes_per_row = columns * decoded_dtype(dtype).itemsize
    monkeypatch.setattr(parquet_module, "_GROUP_BYTES", 10 * bytes_per_row)
    written(tmp_path / "out", "parquet", dtype, count)
    file = pq.ParquetFile(tmp_path / "out")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == {0: [], 1: [1], 20: [8, 8, 4]}[count]
    table = file.read()
    ids = {0: ["index"], 1: ["index", "note"], 20: ["index", "id", "custom_id", "note"]}[count]
    failed = ["error_param", "error_retryable"] if count == 20 else []
    usage = ["prompt_tokens", "total_tokens"]
    assert table.schema.names == [*ids, "embedding", *usage, "error_code", "error_message", *failed]
    value = pa.from_numpy_dtype(decoded_dtype(dtype))
    assert table.schema.field("embedding").type == pa.list_(value, columns)
    assert table.schema.metadata[b"dtype"] == dtype.encode()
    if count:
        assert table.schema.metadata[b"prompt"].decode() == META["prompt"]
    assert table["index"].to_pylist() == [2 * i for i in range(count)]
    if count == 20:
        assert table["id"].to_pylist() == [[None, f"é{i}", str(10**20 + i), None][i % 4] for i in range(count)]
        assert table["custom_id"].to_pylist() == [f"c{i}" if i % 4 == 3 else None for i in range(count)]
    assert table["error_message"].to_pylist() == ["too “long”" if i == FAILED else None for i in range(count)]
    assert "note" not in ids or set(table["note"].to_pylist()) == {"x"}
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(count, columns), expected(dtype, count))


@pytest.mark.parametrize(("row_bytes", "rows"), [(1536, 8192), (48, 1 << 17), (0, 1 << 17), (40 << 20, 1), (16 << 20, 1), (8 << 20, 2)])
def test_row_groups_of_a_fixed_size(row_bytes: int, rows: int) -> None:
    assert parquet_module.group_rows(row_bytes) == rows


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_lie_beside_it(tmp_path: Path, kind: str) -> None:
    output = written(tmp_path / "out", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.ids.jsonl"]
    assert [json.loads(line) for line in (tmp_path / "out.ids.jsonl").read_bytes().splitlines()] == [ids_of(i) for i in range(20)]
    assert output.sha256.hexdigest() == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_rows_are_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """In another process, with other hashes, at another time."""
    code = f"import runpy; made = runpy.run_path({__file__!r}); made['written'](made['Path']({str(tmp_path / 'theirs')!r}), {kind!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=120)
    written(tmp_path / "ours", kind)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_parquet_without_pyarrow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"infer-jsonl\[parquet\]"):
        MatrixSink("parquet", "float32")
    MatrixSink("npy", "float32")


@pytest.mark.parametrize(("kind", "dtype", "match"), [("npz", "float32", "did you mean 'npy'"), ("npy", "float64", "float32")])
def test_unknown_names(kind: str, dtype: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MatrixSink(kind, dtype)


MEMORY = """
import sys
import numpy as np
from pathlib import Path
from infer.core.jobs.output.matrix_output import MatrixOutput
from infer.core.jobs.row import Row
from infer.core.jobs.output.sinks.matrix_sink import MatrixSink
from infer.core.jobs.output.sinks.vectors import encode_vector
from infer.core.jobs.stats import peak_memory

path, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sink = MatrixSink(kind, "float32")
sink.describe(96, {})
output = MatrixOutput(path, sink=sink)
output.begin({})
data = encode_vector(np.ones(96, np.float32), "float32")
rows = [Row(i, data, side=b'{"index":%d,"id":"%d","error":null}' % (i, i)) for i in range(1000)]
for _ in range(count // 1000):
    output.write(rows)
    output.checkpoint([])
output.finish()
output.close()
print(peak_memory() >> 20)
"""


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind: str) -> None:
    """250,000 rows are 96 MB. Parquet needs memory for some row groups, but not for all."""

    def peak(count: int) -> int:
        argv = [sys.executable, "-c", MEMORY, str(tmp_path / f"{kind}{count}"), kind, str(count)]
        return int(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)

    small, large = peak(100_000 if kind == "parquet" else 10_000), peak(250_000)
    assert (tmp_path / f"{kind}250000").stat().st_size > 95_000_000
    assert large - small < (35 if kind == "parquet" else 10), (small, large)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_whose_name_is_no_text(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be named by any bytes; what is told of a file is text."""
    monkeypatch.setitem(META, "model", os.fsdecode(b"caf\xe9"))
    written(tmp_path / "out", kind)
    data = (tmp_path / "out").read_bytes()
    assert (b"caf\\\\xe9" in data or b"caf\\xe9" in data) == (kind != "npy")
