"""A folder elsewhere copied into a folder here, once: what is here already, in the version that is there, stays."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from ..errors import Absent, ModelError, OutputError
from .download import download
from .store import Store, version_of
from .url import base_name, place, shown

log = logging.getLogger(__name__)

#: Says which version of each file is here. Written when a file is whole.
MANIFEST = "infer-remote.json"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def mirror(url: str, root: Path, *, leave: Sequence[str] = ()) -> Path:
    """The folder with the files of `url` as they are now, or the file where it is one.

    Args:
        root: folders of this kind are in it; one for each URL.
        leave: patterns of names that are not fetched.

    Two processes may fetch at once: one does it, the other waits. Where the store cannot be asked and all was fetched before, that
    is taken, and said. Raises ModelError where there is nothing, InferError.
    """
    store = Store(url.rstrip("/"), "model")
    name = base_name(url.rstrip("/"))
    if store.family == "http" and not name.endswith(".gguf"):
        raise ModelError(f"{store.name}: a web server does not list its folders; give the URL of a .gguf file, or download the model")
    folder = root / f"{name[:80]}-{hashlib.blake2b(place(url).rstrip('/').encode(), digest_size=8).hexdigest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, shown(url)):
            return _mirrored(store, folder / name, folder / MANIFEST, leave)
    except OSError as error:
        raise OutputError(f"model {shown(url)!r} cannot be kept in {str(folder)!r}: {error.strerror}; set XDG_CACHE_HOME") from None


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is fetching %s; waiting for it", name)
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        log.warning("%s is on a file system without locks: fetch %s once at a time", folder.parent, name)
    try:
        yield
    finally:
        lock.release()


def _mirrored(store: Store, target: Path, manifest: Path, leave: Sequence[str]) -> Path:
    known = _read(manifest)
    try:
        there = store.trying("listed", lambda: _listing(store, leave))
    except Absent:
        raise ModelError(f"{store.name} is not there, or is an empty folder") from None
    except OutputError as error:
        if known and all((target / name if name else target).is_file() for name in known):
            log.warning("%s; going on with the copy that was fetched before", error)
            return target
        raise
    wanted = {name: version_of(info) for name, (_, info) in there.items()}
    missing = [name for name in there if known.get(name) != wanted[name] or not (target / name if name else target).is_file()]
    if missing:
        size = sum(int(there[name][1].get("size") or 0) for name in missing)
        log.warning("fetching %s: %d file%s, %.0f MB", store.name, len(missing), "s" * (len(missing) != 1), size / 1e6)
    for name in missing:
        path = target / name if name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        known.pop(name, None)
        download(Store(there[name][0], "model"), path, there[name][1])
        known[name] = wanted[name]
        _write(manifest, known)
    for name in [name for name in known if name not in there]:
        (target / name).unlink(missing_ok=True)
        del known[name]
        _write(manifest, known)
    return target


def _listing(store: Store, leave: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """(URL, what the store says) of each file by its name in the folder; of a file alone, by an empty name. Raises FileNotFoundError."""
    if store.family == "http":  # it lists nothing
        return {"": (store.url, store.info())}
    store.fs.invalidate_cache()
    found: dict[str, dict[str, Any]] = store.fs.find(store.path, detail=True)
    files = {}
    for path, info in found.items():
        name = path[len(store.path) :].lstrip("/") if path.startswith(store.path) else path.rpartition("/")[2]
        if ".." in PurePosixPath(name).parts or (name and any(fnmatch.fnmatch(name, pattern) for pattern in leave)):
            continue
        files[name] = (f"{store.url}/{name}" if name else store.url, info)
    if not files:
        raise FileNotFoundError(store.path)
    return files


def _read(manifest: Path) -> dict[str, dict[str, str]]:
    try:
        value = json.loads(manifest.read_text())
        return value if isinstance(value, dict) else {}
    except (FileNotFoundError, ValueError):
        return {}


def _write(manifest: Path, known: dict[str, dict[str, str]]) -> None:
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=1))
    temporary.replace(manifest)
