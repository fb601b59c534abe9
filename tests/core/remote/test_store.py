"""What fails for a moment is tried again, a bounded number of times, and said; what is wrong is said at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

fsspec = pytest.importorskip("fsspec")

from infer.core.errors import ConfigError, InferError, OutputError  # noqa: E402
from infer.core.remote import store as store_module  # noqa: E402
from infer.core.remote.download import download  # noqa: E402
from infer.core.remote.store import TRIES, Absent, Store, version_of  # noqa: E402


class Flaky:
    """A file system of which the first calls fail as they are told to; None: one that does not."""

    def __init__(self, fs: Any, failures: list[Any]) -> None:
        self.fs, self.failures, self.calls = fs, failures, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fs, name)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        data: bytes = self.fs.cat_file(path, start=start, end=end)
        return data if failure is None else data[:failure]


class Answer(Exception):
    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.status = status


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FIRST_PAUSE_S", 1e-4)


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/remote-test/a", b"0123456789")
    yield fs
    fs.rm("/remote-test", recursive=True)


def flaky(memory: Any, *failures: Any) -> Store:
    store = Store("memory://remote-test/a", "input")
    store.fs = Flaky(memory, list(failures))
    return store


def test_a_moment_is_waited_for_and_said(memory: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = flaky(memory, ConnectionResetError("reset"), TimeoutError(), Answer(503, "slow down"), 4)
    with caplog.at_level(logging.WARNING, logger="infer"):
        assert store.read(2, 8) == b"234567"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert said[0].startswith("input 'memory://remote-test/a' cannot be read: reset; trying again in")
    assert "it took too long" in said[1]
    assert "4 of 6 bytes came" in said[3]


def test_tries_are_counted(memory: Any) -> None:
    store = flaky(memory, *[Answer(500, "oh")] * 50)
    with pytest.raises(OutputError, match=rf"cannot be read: oh \({TRIES} tries\)"):
        store.read(0, 4)
    assert store.fs.calls == TRIES


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (FileNotFoundError("a"), Absent, "no such object"),
        (FileNotFoundError("The specified bucket does not exist"), Absent, "no such bucket"),
        (PermissionError("Access Denied"), ConfigError, "no access"),
        (Answer(403, "https://u:hunter2@h/x?sig=hunter2"), ConfigError, "no access"),
        (Answer(400, "bad"), OutputError, "bad"),
        (ValueError("no"), OutputError, "no"),
    ],
)
def test_what_does_not_pass_is_said_at_once(memory: Any, error: Exception, kind: type[InferError], said: str) -> None:
    store = flaky(memory, error)
    with pytest.raises(kind, match=said) as raised:
        store.read(0, 4)
    assert store.fs.calls == 1
    assert "hunter2" not in str(raised.value)


def test_a_web_server_that_fails_is_no_missing_file(memory: Any) -> None:
    """fsspec calls whatever a web server answers a missing file."""
    missing = FileNotFoundError("https://h/x")
    missing.__cause__ = Answer(500, "broken")
    assert flaky(memory, missing).read(0, 2) == b"01"


def test_stopped(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FIRST_PAUSE_S", 1000.0)
    store = flaky(memory, *[Answer(500, "oh")] * 9)
    store.stop()
    with pytest.raises(OutputError, match="oh"):
        store.read(0, 4)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_module.SCHEMES, "s3", "no_such_package_at_all")
    with pytest.raises(ConfigError, match=r"pip install 'infer-jsonl\[cloud\]'"):
        Store("s3://b/a", "input")


def test_a_download_is_whole_or_not_there(memory: Any, tmp_path: Path) -> None:
    store = flaky(memory, 3, ConnectionError("reset"))
    path = tmp_path / "a"
    version = download(store, path)
    assert path.read_bytes() == b"0123456789"
    assert version == version_of(store.info())
    broken = flaky(memory, *[Answer(500, "oh")] * 50)
    path.write_bytes(b"before")
    with pytest.raises(OutputError):
        download(broken, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_of_what_changes(memory: Any, tmp_path: Path) -> None:
    store = flaky(memory)
    info = store.info()
    memory.pipe_file("/remote-test/a", b"abcdefghij")
    with pytest.raises(InferError, match="changed while it was read"):
        download(store, tmp_path / "a", info)
    assert list(tmp_path.iterdir()) == []
