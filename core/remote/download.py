"""A file elsewhere copied to the disk: all of it or nothing, and of one version."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InferError, OutputError
from .store import ShortBody, Store, version_of

#: Bytes asked for at a time.
PIECE_BYTES = 8 << 20


def download(
    store: Store, path: Path, info: dict[str, Any] | None = None, *, took: Callable[[int], None] = lambda size: None
) -> dict[str, str]:
    """Puts the file in place as `path` and returns which version it is.

    Args:
        info: what the store said of it, if it was asked.
        took: called with the number of bytes of each piece.

    Raises Absent, InferError; then what was there is as it was.
    """
    info = info or store.info()
    temporary = path.with_name(f".{os.getpid()}-{path.name[:100]}.fetch")
    try:
        with temporary.open("wb") as file:
            write_all(store, info, file.write, took=took, restart=lambda: empty(file))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{store.name} cannot be kept as {str(path)!r}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return version_of(info)


def write_all(
    store: Store,
    info: dict[str, Any],
    write: Callable[[bytes], Any],
    *,
    took: Callable[[int], None] = lambda size: None,
    restart: Callable[[], None] | None = None,
) -> None:
    """Hands all bytes of the file to `write`, in order.

    Args:
        restart: forgets what was written, for a file that cannot be read in part.

    Raises InferError, also where it changed meanwhile.
    """
    size = info.get("size")
    if size is not None and store.has_ranges():
        place = 0
        while place < size:
            data = store.read(place, min(place + PIECE_BYTES, size))
            write(data)
            place += len(data)
            took(len(data))
    else:
        assert restart is not None, "a file without ranges is read from its start again"
        store.trying("read", lambda: _stream(store, size, write, took, restart))
    if version_of(store.info()) != version_of(info):
        raise InferError(f"{store.name} changed while it was read; try again when nobody writes it")


def _stream(
    store: Store, size: int | None, write: Callable[[bytes], Any], took: Callable[[int], None], restart: Callable[[], None]
) -> None:
    """From one end to the other in one answer."""
    from fsspec.asyn import sync

    restart()

    async def read() -> int:
        session, count = await store.fs.set_session(), 0
        async with session.get(store.fs.encode_url(store.path)) as response:
            response.raise_for_status()
            async for data in response.content.iter_chunked(1 << 20):
                write(data)
                took(len(data))
                count += len(data)
        return count

    count = sync(store.fs.loop, read)
    if size is not None and count != size:
        raise ShortBody(f"{count:,} of {size:,} bytes came")


def empty(file: Any) -> None:
    """Forgets what was written."""
    file.seek(0)
    file.truncate()
