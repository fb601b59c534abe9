"""Bytes out of local files: of regular files inside one folder, with links resolved, and of nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import RecordError

#: Folders that hold no files but views of the system; files there are read only where the allowed folder is one of them itself.
_SYSTEM = ("/proc", "/sys", "/dev")
#: What opening a file must not do: wait for the other end of a pipe, follow a link put in its place, live on in another program.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def path_of(source: str, param: str) -> str:
    """The path that a `file:` URL or a plain path names. Raises RecordError (media_error)."""
    if source[:5].lower() != "file:":
        path = source
    else:
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            message = f"{param} names a file of another machine, {parts.netloc!r}: write file:///path (three slashes)"
            raise RecordError("media_error", message, param=param)
        path = unquote(parts.path)
    if "\0" in path or not path:
        raise RecordError("media_error", f"{param} is no path of a file", param=param)
    return path


def read_file(source: str, *, root: str, max_bytes: int, param: str) -> bytes:
    """The file's bytes.

    Args:
        source: a `file:` URL or a path; one that is not absolute begins in `root`.
        root: the folder, links resolved, outside of which nothing is read; "": nothing is.

    Raises RecordError: media_refused for what is outside of it or too large, media_error for what cannot be read.
    """
    path = path_of(source, param)
    shown = path if len(path) <= 200 else path[:200] + "…"
    if not root:
        raise RecordError(
            "media_refused",
            f"{param} names a local file, {shown!r}: --allowed-local-media-path DIR lets records name files in DIR",
            param=param,
        )
    joined = os.path.join(root, path)  # noqa: PTH118 (an absolute path stands for itself)
    if not _inside(os.path.normpath(joined), root) and not _inside(os.path.realpath(joined), root):
        raise _outside(shown, root, param)  # said whether it is there or not: records learn nothing of other folders
    try:
        real = os.path.realpath(joined, strict=True)
        if not _inside(real, root):
            raise _outside(shown, root, param)
        fd = os.open(real, _FLAGS)
    except RecordError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(shown, error, param) from None
    try:
        return _read(fd, shown, root, max_bytes, param)
    except OSError as error:
        raise _unreadable(shown, error, param) from None
    finally:
        os.close(fd)


def _read(fd: int, shown: str, root: str, max_bytes: int, param: str) -> bytes:
    opened = _opened(fd)
    if opened is not None and not _inside(opened, root):  # a folder on the way was replaced by a link meanwhile
        raise _outside(shown, root, param)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise RecordError("media_error", f"{shown!r} is {what}", param=param)
    if status.st_size > max_bytes:
        raise _too_large(shown, f"has {status.st_size:,} bytes", max_bytes, param)
    with os.fdopen(os.dup(fd), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_large(shown, "grows while it is read", max_bytes, param)
    return data


def _inside(path: str, root: str) -> bool:
    """True if a path without links is in the folder and no view of the system."""
    if path != root and not path.startswith(root.rstrip("/") + "/"):
        return False
    return not any(_below(path, system) and not _below(root, system) for system in _SYSTEM)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _opened(fd: int) -> str | None:
    """The path of an open file as the system knows it; None where it does not tell."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return None


def _outside(shown: str, root: str, param: str) -> RecordError:
    return RecordError("media_refused", f"{shown!r} is outside of {root} (--allowed-local-media-path)", param=param)


def _too_large(shown: str, what: str, max_bytes: int, param: str) -> RecordError:
    return RecordError("media_refused", f"{shown!r} {what}, more than the {max_bytes:,} of max_media_bytes", param=param)


def _unreadable(shown: str, error: Exception, param: str) -> RecordError:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    why = "there is no such file" if missing else (getattr(error, "strerror", None) or str(error))
    return RecordError("media_error", f"{shown!r} cannot be read: {why}", param=param)
