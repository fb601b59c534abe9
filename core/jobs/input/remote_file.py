"""A source of input that lies elsewhere: read by ranges, a piece ahead, so that neither memory nor disk grows with it."""

from __future__ import annotations

import tempfile
import threading
from typing import BinaryIO, cast

from ...errors import Absent, ConfigError, InferError
from ...remote.download import empty, write_all
from ...remote.state import state_folder
from ...remote.store import Store, version_of
from ...remote.url import place, shown
from .source import HEAD_BYTES

#: Bytes read at once. One piece is read ahead: at most two are held.
PIECE_BYTES = 4 << 20


class RemoteFile:
    """A file elsewhere as a Source, see `InputFile`.

    It is looked at when made. A connection that breaks is made anew where it broke. Where a server gives no parts of a file, it
    is copied to a file without a name in the state folder first. If another version has its name meanwhile, that is an InferError.

    Attributes:
        name, place: for messages, and the URL that is the same however it is signed.
        head: its first HEAD_BYTES.
        size: its bytes.
        status: None: it is no file of this system.
    """

    status = None

    def __init__(self, url: str, state_dir: str | None = None, what: str = "input") -> None:
        self.name, self.place = shown(url), place(url)
        self._store = Store(url, what)
        try:
            self._info = self._store.info()
            self._version = version_of(self._info)
            self._spool = None if self._info.get("size") is not None and self._store.has_ranges() else self._spooled(state_dir)
            self.size: int = self._info["size"] if self._spool is None else self._spool.seek(0, 2)
            self.head = self._piece(0, min(HEAD_BYTES, self.size))
        except Absent as error:
            raise ConfigError(str(error)) from None
        self._place = 0  # of the next byte that `read` gives
        self._held = memoryview(b"")
        self._ahead: _Piece | None = None
        self._failure: InferError | None = None
        self._ended = False

    def read(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return b""
        try:
            if not self._held:
                self._held = memoryview(self._next())
        except InferError as error:
            self._failure = error
            raise
        data = bytes(self._held[:size])
        self._held = self._held[len(data) :]
        self._place += len(data)
        if not data:
            self.close()
        return data

    def ready(self, seconds: float = 0.0) -> bool:
        """See `Source`. Asking is what has the next piece fetched."""
        if self._failure is not None or self._ended or self._held or self._place >= self.size or self._spool is not None:
            return True
        return self._asked().is_done(seconds)

    def check(self) -> None:
        """Raises InferError if the file is not the one that was opened any more. One that was deleted was whole when it was read."""
        if not self._place or self._spool is not None:
            return
        info = self._store.find()
        if info is not None and version_of(info) != self._version:
            raise self._changed("another version has its name since the run began")

    def close(self) -> None:
        self._ended = True
        self._store.stop()
        self._held, self._ahead = memoryview(b""), None
        if self._spool is not None:
            self._spool.close()

    def seekable(self) -> BinaryIO:
        """A file to read here and there of, for a form that is not read from one end to the other."""
        return cast("BinaryIO", _Seekable(self))

    def _next(self) -> bytes:
        """The next piece; at the end none, and then the file is what it was."""
        if self._place >= self.size:
            self.check()
            return b""
        piece, self._ahead = self._asked(), None
        data = piece.wait()
        following = self._place + len(data)
        if following < self.size and self._spool is None:
            self._ahead = _Piece(self, following)
        return data

    def _asked(self) -> _Piece:
        if self._ahead is None:
            self._ahead = _Piece(self, self._place)
        return self._ahead

    def _piece(self, start: int, end: int) -> bytes:
        if self._spool is not None:
            self._spool.seek(start)
            return self._spool.read(end - start)
        try:
            return self._store.read(start, end)
        except Absent:
            raise self._changed("it is there no more") from None

    def _spooled(self, state_dir: str | None) -> BinaryIO:
        folder = state_folder(state_dir)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`, or with the process)
        try:
            write_all(self._store, self._info, file.write, restart=lambda: empty(file))
        except OSError as error:
            raise InferError(f"{self._store.name} is read from a copy, which cannot be kept in {str(folder)!r}: {error.strerror}") from None
        return file

    def _changed(self, how: str) -> InferError:
        advice = "put back what was there and go on with --resume, or start again with --overwrite"
        return InferError(f"input {self.name!r} changed under the run: {how}; {advice}")


class _Piece:
    """A piece of a file that a thread fetches. A daemon: a process that ends does not wait for it."""

    def __init__(self, file: RemoteFile, start: int) -> None:
        self._file = file
        self._range = start, min(start + PIECE_BYTES, file.size)
        self._data = b""
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._fetch, name="infer-input", daemon=True).start()

    def is_done(self, seconds: float) -> bool:
        """True if it is there by then."""
        return self._done.wait(seconds)

    def wait(self) -> bytes:
        """Raises InferError."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._data

    def _fetch(self) -> None:
        try:
            self._data = self._file._piece(*self._range)
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()


class _Seekable:
    """What pyarrow asks of a file. Memory is bounded by what it asks for at once, which is a column of a row group."""

    closed = False
    mode = "rb"

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        end = self._file.size if size is None or size < 0 else min(self._at + size, self._file.size)
        data = self._file._piece(self._at, end) if end > self._at else b""
        self._at += len(data)
        self._file._place = max(self._file._place, self._at)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._file.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
