"""One run an output, and a file beside it. The lock is the system's (flock), so it dies with its holder, however that dies.

Some file systems know no locks (NFS without its lock service, Lustre without -o flock, FUSE). There a name in the kernel
stands for it, which keeps other runs on this machine away and dies with its holder too; runs on other machines are not noticed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import socket
import sys
import time
from pathlib import Path

from ...errors import ConfigError, LockedError, OutputError
from .files import open_own

try:
    import fcntl
except ImportError:  # no flock on this system: nothing is locked
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK_SUFFIX = ".partial.lock"

#: Another process has it. Some network file systems say EACCES.
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
#: There are no locks here.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.EBADF})
#: How a lock file begins that is ours.
_PROCESS = b"process "


class FileLock:
    """Held from construction to `release`.

    Args:
        path: of the lock file.
        what: what is locked, as messages call it ("output 'a.jsonl'").

    Raises LockedError naming the holder if another run has it, ConfigError if something else has its name, OutputError.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self._what = what
        self._fd = -1
        self._name: socket.socket | None = None  # in place of the lock where there is none
        if fcntl is None:
            return
        while self._fd < 0:
            try:
                fd = open_own(path, 0o600)
            except OSError as error:
                raise self._error(error) from None
            try:
                self._take(fd)
                self._refuse_others(fd)
                # A holder that ended between our open and our lock removed the file: then we hold a lock on nothing.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), path.stat()):
                        self._fd = fd
            except OSError as error:
                raise self._error(error) from None
            finally:
                if self._fd < 0:
                    self._let_go(fd)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: held all the same, by nobody known
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{_PROCESS.decode()}{os.getpid()} on {socket.gethostname()}, since {started}\n".encode(), 0)

    def release(self) -> None:
        """Removes the lock file and lets go. Never raises."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._let_go(self._fd)
            self._fd = -1

    def _take(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise self._held(fd) from None
            if error.errno not in _NO_LOCKS:
                raise
            self._take_name(fd, error)

    def _refuse_others(self, fd: int) -> None:
        found = _read(fd).strip(b"\0")
        if found and not found.startswith(_PROCESS):
            raise ConfigError(f"{str(self.path)!r} is needed for the lock of this run and is another file; move it away")

    def _take_name(self, fd: int, error: OSError) -> None:
        log.warning(
            "%s is on a file system without locks (%s): runs on other machines that write it at the same time are not noticed",
            self._what,
            error.strerror,
        )
        if sys.platform != "linux":
            return
        self._name = socket.socket(socket.AF_UNIX)
        try:
            self._name.bind(b"\0infer-lock-" + hashlib.blake2b(os.fsencode(self.path), digest_size=16).hexdigest().encode())
        except OSError as taken:
            if taken.errno == errno.EADDRINUSE:
                raise self._held(fd) from None

    def _held(self, fd: int) -> LockedError:
        holder = _read(fd).decode(errors="replace").strip()
        return LockedError(f"{self._what} is being written by another run ({holder or 'unknown'}); try again later")

    def _error(self, error: OSError) -> OutputError | ConfigError:
        kind = ConfigError if error.errno == errno.ENAMETOOLONG else OutputError
        return kind(f"{self._what} cannot be locked: {error.strerror} ({str(self.path)!r})")

    def _let_go(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)
        if self._name is not None:
            self._name.close()
            self._name = None


def _read(fd: int) -> bytes:
    with contextlib.suppress(OSError):  # where a lock keeps readers away too
        return os.pread(fd, 200, 0)
    return b""
