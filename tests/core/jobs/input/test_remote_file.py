"""Input that lies elsewhere: read by ranges, whatever happens on the way."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec")

from infer.core.errors import ConfigError, InferError  # noqa: E402
from infer.core.jobs.input import remote_file  # noqa: E402
from infer.core.jobs.input.inputs import Inputs  # noqa: E402
from infer.core.jobs.input.reader import RecordReader  # noqa: E402
from infer.core.jobs.input.remote_file import RemoteFile  # noqa: E402
from infer.core.remote import store as store_module  # noqa: E402

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store_module, "FIRST_PAUSE_S", 1e-3)
    monkeypatch.setattr(remote_file, "PIECE_BYTES", 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/remote-input/a", DATA)
    yield fs
    fs.store.clear()


def everything(file: RemoteFile, size: int = 300) -> bytes:
    found = []
    while data := file.read(size):
        assert len(data) <= size
        found.append(data)
    return b"".join(found)


def test_all_of_it_in_pieces(memory: Any) -> None:
    file = RemoteFile("memory://remote-input/a")
    assert (file.size, file.head) == (len(DATA), DATA[:4096])
    assert everything(file) == DATA
    assert file.read(5) == b""
    file.check()


def test_one_piece_is_fetched_ahead_and_no_more(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    read = store_module.Store.read
    monkeypatch.setattr(store_module.Store, "read", lambda self, start, end: asked.append((start, end)) or read(self, start, end))
    file = RemoteFile("memory://remote-input/a")
    asked.clear()
    assert file.read(10) == DATA[:10]
    while not file._ahead.is_done(0.0):
        pass
    assert asked == [(0, 1000), (1000, 2000)]
    assert file.ready()
    file.close()


def test_another_version_is_noticed(memory: Any) -> None:
    file = RemoteFile("memory://remote-input/a")
    file.read(10)
    memory.pipe_file("/remote-input/a", DATA[::-1])
    with pytest.raises(InferError, match="changed under the run"):
        file.check()
    with pytest.raises(InferError, match="changed under the run"):
        everything(file)
    with pytest.raises(InferError, match="changed under the run"):
        file.read(10)


def test_one_that_is_gone(memory: Any) -> None:
    file = RemoteFile("memory://remote-input/a")
    memory.rm("/remote-input/a")
    with pytest.raises(InferError, match="it is there no more"):
        everything(file)
    memory.pipe_file("/remote-input/a", DATA)
    with pytest.raises(ConfigError, match="no such object"):
        RemoteFile("memory://remote-input/b")


def test_records_of_compressed_files_and_tables(memory: Any) -> None:
    import gzip

    memory.pipe_file("/remote-input/a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 500))
    memory.pipe_file("/remote-input/b.csv", b"prompt,id\n" + b"x,1\n" * 500)
    for name, size in (("a.jsonl.gz", None), ("b.csv", None)):
        inputs = Inputs([f"memory://remote-input/{name}"])
        assert inputs.size is size
        assert len(list(RecordReader(inputs.sources))) == 500
        assert list(inputs.sizes) == [f"memory://remote-input/{name}"]


def test_parquet_is_read_where_it_lies(memory: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    import io

    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"prompt": [f"p{i}" for i in range(3000)]}), file, row_group_size=500)
    memory.pipe_file("/remote-input/a.parquet", file.getvalue())
    inputs = Inputs(["memory://remote-input/a.parquet"])
    records = list(RecordReader(inputs.sources))
    assert [record.fields["prompt"] for record in records] == [f"p{i}" for i in range(3000)]
    inputs.check()


# -- a web server -----------------------------------------------------------------------------------------------------
class _Server(http.server.ThreadingHTTPServer):
    ranges = True
    says_size = True
    faults: list[str]
    asked: list[str | None]
    tag = '"1"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range")
        fault = ""
        if body:
            server.asked.append(asked)
            fault = server.faults.pop(0) if server.faults else ""
        if fault == "500" or "missing" in self.path or "secret" in self.path:
            status = 404 if "missing" in self.path else 403 if "secret" in self.path else 500
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, status = DATA, 200
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "") if server.ranges else None
        if found:
            status = 206
            data = DATA[int(found[1]) : int(found[2]) + 1]
        self.send_response(status)
        if found:
            self.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{len(DATA)}")
        if server.says_size or found:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
        self.send_header("ETag", server.tag)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut" or not (server.says_size or found):
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[_Server]:
    pytest.importorskip("aiohttp")
    server = _Server(("127.0.0.1", 0), _Handler)
    server.faults, server.asked = [], []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(server: _Server, path: str = "a", user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.server_address[1]}/{path}"


def test_web_ranges_broken_and_failing(server: _Server) -> None:
    file = RemoteFile(url(server))
    server.faults = ["500", "cut", "", "cut", "500", "500"]
    assert everything(file) == DATA
    assert server.asked[-1] == "bytes=10000-10239"


@pytest.mark.parametrize("says_size", [True, False])
def test_a_web_server_without_ranges(server: _Server, says_size: bool, tmp_path: Path) -> None:
    server.ranges, server.says_size = False, says_size
    server.faults = ["", "500", "cut"] if says_size else ["500"]
    file = RemoteFile(url(server))
    assert file.size == len(DATA)
    assert everything(file) == DATA
    assert list((tmp_path / "state/infer").iterdir()) == []  # the copy has no name, so that no kill leaves it behind


def test_a_web_file_that_changes(server: _Server) -> None:
    file = RemoteFile(url(server))
    file.read(10)
    server.tag = '"2"'
    with pytest.raises(InferError, match="changed under the run"):
        file.check()


def test_a_web_server_that_refuses(server: _Server) -> None:
    with pytest.raises(ConfigError, match="no such object"):
        RemoteFile(url(server, "missing?sig=hunter2"))
    with pytest.raises(ConfigError, match="no access") as raised:
        RemoteFile(url(server, "secret?sig=hunter2", "me:hunter2@"))
    assert "hunter2" not in str(raised.value)
