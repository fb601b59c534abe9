"""Files put in a bucket: whole or not at all, whatever fails, and gone on with where an upload ended."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, ModelError, OutputError
from infer.core.remote import download as download_module
from infer.core.remote import store as store_module
from infer.core.remote import upload as upload_module
from infer.core.remote.folder import MANIFEST, mirror
from infer.core.remote.pattern import matches
from infer.core.remote.store import Store
from infer.core.remote.upload import abandon, upload

from .bucket import Bucket, bucket, s3_proxy

__all__ = ["bucket", "s3_proxy"]  # fixtures

PART = 5 << 20  # the least that S3 takes


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts and a bit."""
    monkeypatch.setattr(upload_module, "PART_BYTES", PART)
    path = tmp_path / "large"
    path.write_bytes(random.Random(0).randbytes(3 * PART + 100))
    return path


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("at", "sent_again"), [("upload", 4), ("part:1", 3), ("part:3", 1), ("complete", 0)])
def test_it_goes_on_where_it_ended(bucket: Bucket, large: Path, at: str, sent_again: int) -> None:
    kept: list[str | None] = []
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if f"{name}:{passed.count(name)}" == at or name == at:
            raise Stopped

    store = Store(bucket("a"), "output")
    with pytest.raises(Stopped):
        upload(large, store, keep=kept.append, point=point)
    assert bucket.keys == []
    assert bucket.uploads == ["a"]
    passed.clear()
    upload(large, store, begun=kept[-1], keep=kept.append, point=passed.append)
    assert passed.count("part") == sent_again
    assert len(kept) == 1
    assert bucket.get("a") == large.read_bytes()
    assert bucket.uploads == []


def test_parts_of_other_bytes_are_not_believed(bucket: Bucket, large: Path) -> None:
    kept: list[Any] = []
    store = Store(bucket("a"), "output")

    def stop(name: str) -> None:
        if name == "complete":
            raise Stopped

    with pytest.raises(Stopped):
        upload(large, store, keep=kept.append, point=stop)
    large.write_bytes(large.read_bytes()[::-1])
    upload(large, store, begun=kept[-1], keep=kept.append)
    assert bucket.get("a") == large.read_bytes()


def test_an_upload_that_the_store_forgot(bucket: Bucket, large: Path) -> None:
    kept: list[Any] = []
    store = Store(bucket("a"), "output")
    made = store.fs.call_s3("create_multipart_upload", Bucket=bucket.name, Key="a")["UploadId"]
    abandon(store, made)
    upload(large, store, begun=made, keep=kept.append)
    assert len(kept) == 1
    assert bucket.get("a") == large.read_bytes()
    assert bucket.uploads == []


def test_failures_on_the_way_up(bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "TIMEOUT_S", 1.0)
    bucket.proxy.faults[:] = [
        ("POST", "uploads", "500"),
        ("PUT", "partNumber=1", "500"),
        ("PUT", "partNumber=2", "stall"),
        ("PUT", "partNumber=2", "500"),
        ("POST", "uploadId", "500"),
    ]
    upload(large, Store(bucket("a"), "output"))
    assert bucket.proxy.faults == []
    assert bucket.get("a") == large.read_bytes()


def test_a_store_that_stays_broken(bucket: Bucket, large: Path) -> None:
    bucket.put("a", b"before")
    bucket.proxy.faults[:] = [("PUT", "partNumber=2", "500")] * store_module.TRIES
    with pytest.raises(OutputError, match="--resume"):
        upload(large, Store(bucket("a"), "output"))
    assert bucket.get("a") == b"before"
    with pytest.raises(ConfigError, match="no such bucket"):
        upload(large, Store("s3://no-such-bucket/a", "output"))


def test_failures_on_the_way_down(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(download_module, "PIECE_BYTES", 1 << 16)
    data = random.Random(1).randbytes(1 << 18)
    bucket.put("a", data)
    bucket.proxy.faults[:] = [
        ("HEAD", "/a", "500"),
        ("GET", "/a", "cut"),
        ("GET", "/a", "500"),
        ("GET", "/a", "stall"),
        ("GET", "/a", "cut"),
    ]
    download_module.download(Store(bucket("a"), "input"), tmp_path / "a")
    assert bucket.proxy.faults == []
    assert (tmp_path / "a").read_bytes() == data


def test_a_pattern(bucket: Bucket) -> None:
    for key in ("b.jsonl", "a.jsonl", "a.txt", "sub/c.jsonl"):
        bucket.put(key, b"x")
    assert matches(bucket("*.jsonl")) == [bucket("a.jsonl"), bucket("b.jsonl")]
    assert matches(bucket("**/*.jsonl"))[-1] == bucket("sub/c.jsonl")
    assert matches("https://host/a*?sig=[1]") == ["https://host/a*?sig=[1]"]
    with pytest.raises(ConfigError, match="no file matches"):
        matches(bucket("*.csv"))


def test_a_folder_is_fetched_once(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("m/config.json", b"{}")
    bucket.put("m/sub/weights.safetensors", b"w" * 1000)
    bucket.put("m/onnx/x", b"x")
    fetched: list[str] = []
    download = download_module.download
    monkeypatch.setattr("infer.core.remote.folder.download", lambda store, *rest: fetched.append(store.url) or download(store, *rest))
    folder = mirror(bucket("m/"), tmp_path, leave=["onnx/*"])
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "config.json",
        "sub/weights.safetensors",
    ]
    assert mirror(bucket("m"), tmp_path, leave=["onnx/*"]) == folder
    assert len(fetched) == 2
    # One that changed is fetched again, one that is gone goes, one that was deleted here comes back.
    bucket.put("m/config.json", b'{"a": 1}')
    (folder / "sub/weights.safetensors").unlink()
    mirror(bucket("m"), tmp_path, leave=["onnx/*"])
    assert (folder / "config.json").read_bytes() == b'{"a": 1}'
    assert len(fetched) == 4
    bucket.client.delete_object(Bucket=bucket.name, Key="m/config.json")
    mirror(bucket("m"), tmp_path, leave=["onnx/*"])
    assert not (folder / "config.json").exists()
    # Without the store, the copy is used; with nothing fetched, there is none.
    monkeypatch.setattr(store_module, "TRIES", 1)
    bucket.proxy.faults[:] = [("GET", "list-type", "500")] * 2 + [("HEAD", "", "500")] * 2
    assert mirror(bucket("m"), tmp_path) == folder
    bucket.proxy.faults.clear()
    assert (folder.parent / MANIFEST).exists()
    with pytest.raises(ModelError, match="is not there"):
        mirror(bucket("none"), tmp_path)
