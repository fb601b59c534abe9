"""A file of the disk put elsewhere: its name there never holds a part of it.

On S3 a large file goes up in parts, and what is needed to go on after a kill is handed out to be kept: the upload's id. The store
itself knows the parts that it has. Google's and Azure's stores show an object when all of it is there too; there a killed upload
is started anew. Elsewhere the file is put beside its name first, and then renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import Absent, ConfigError, OutputError
from .store import Store
from .url import WRITABLE

#: Bytes of a part. S3 takes at most 10,000 parts, of 5 MiB at least.
PART_BYTES = 16 << 20
_MOST_PARTS = 9_000
#: Stores whose objects appear whole or not at all.
_ATOMIC = frozenset({"s3", "gs", "az", "memory"})


def refuse_unwritable(store: Store) -> None:
    """Raises ConfigError where nothing can be put."""
    if store.scheme not in WRITABLE:
        places = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az"))
        raise ConfigError(f"{store.name}: {store.scheme}:// is only read; choose {places} or a local file")


def upload(
    path: Path,
    store: Store,
    *,
    begun: str | None = None,
    keep: Callable[[str | None], None] = lambda upload_id: None,
    point: Callable[[str], None] = lambda name: None,
) -> None:
    """Puts the file at the store's URL, in the place of what is there.

    Args:
        begun: the id of an upload of these very bytes that was not finished.
        keep: is given the id of one that begins, to be on disk before its first part goes.
        point: called at named places, where a test may end the process.

    Raises InferError.
    """
    try:
        size = path.stat().st_size
        if store.family == "s3" and (size > PART_BYTES or begun is not None):
            _in_parts(path, size, store, begun, keep, point)
        else:
            point("part")
            store.trying("written", lambda: _at_once(path, store))
    except OSError as error:
        raise OutputError(f"{store.name}: its copy {str(path)!r} cannot be read: {error.strerror}") from None
    except Absent as error:
        raise ConfigError(f"{error}; make it first, or check the name") from None
    store.fs.invalidate_cache()


def put_bytes(data: bytes, store: Store) -> None:
    """Makes `data` the content of a small file. Raises InferError."""
    try:
        store.trying("written", lambda: store.fs.pipe_file(store.path, data))
    except Absent as error:
        raise ConfigError(f"{error}; make it first, or check the name") from None
    store.fs.invalidate_cache()


def remove(store: Store) -> None:
    """No error if it is not there. Raises InferError."""
    with contextlib.suppress(Absent):
        store.trying("removed", lambda: store.fs.rm_file(store.path))
    store.fs.invalidate_cache()


def abandon(store: Store, upload_id: str) -> None:
    """Lets go of an upload that will not be finished, whose parts would be paid for. Never raises."""
    with contextlib.suppress(Exception):
        bucket, key, _ = store.fs.split_path(store.path)
        store.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)


def _at_once(path: Path, store: Store) -> None:
    fs = store.fs
    if store.family in _ATOMIC:
        fs.put_file(os.fspath(path), store.path)
        return
    head, _, name = store.path.rpartition("/")
    beside = f"{head}/.{name}.upload"
    fs.put_file(os.fspath(path), beside)
    fs.mv(beside, store.path)


def _in_parts(
    path: Path, size: int, store: Store, begun: str | None, keep: Callable[[str | None], None], point: Callable[[str], None]
) -> None:
    fs = store.fs
    bucket, key, _ = fs.split_path(store.path)
    place = {"Bucket": bucket, "Key": key}
    there = _parts_of(store, place, begun) if begun is not None else None
    if there is None:
        made = store.trying("written", lambda: fs.call_s3("create_multipart_upload", **place))
        begun, there = str(made["UploadId"]), {}
        keep(begun)
    point("upload")
    place["UploadId"] = begun
    # The same cuts in every attempt: they depend on the size alone.
    length = max(PART_BYTES, -(-size // _MOST_PARTS))
    parts = []
    for number, data in enumerate(_pieces(path, length), 1):
        tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if there.get(number) != (len(data), tag):
            tag = _send(store, place, number, data)
            point("part")
        parts.append({"PartNumber": number, "ETag": f'"{tag}"'})
    point("complete")
    store.trying("written", lambda: fs.call_s3("complete_multipart_upload", **place, MultipartUpload={"Parts": parts}))
    point("completed")
    found = store.info().get("size")
    if found != size:
        raise OutputError(f"{store.name} has {found} bytes after {size:,} were put there; start again with --overwrite")


def _send(store: Store, place: dict[str, Any], number: int, data: bytes) -> str:
    answer = store.trying("written", lambda: store.fs.call_s3("upload_part", **place, PartNumber=number, Body=data))
    return str(answer["ETag"]).strip('"')


def _parts_of(store: Store, place: dict[str, Any], upload_id: str) -> dict[int, tuple[int, str]] | None:
    """(bytes, tag) of each part that the store has, by its number; None if it knows no such upload any more."""
    found: dict[int, tuple[int, str]] = {}
    after = 0
    try:
        while True:
            page = store.trying(
                "written",
                lambda: store.fs.call_s3("list_parts", **place, UploadId=upload_id, PartNumberMarker=after),  # noqa: B023
            )
            for part in page.get("Parts", ()):
                found[int(part["PartNumber"])] = int(part["Size"]), str(part["ETag"]).strip('"')
            if not page.get("IsTruncated"):
                return found
            after = int(page["NextPartNumberMarker"])
    except Absent:
        return None


def _pieces(path: Path, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(length):
            yield data
