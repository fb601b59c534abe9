"""A model's files from the driver to the nodes of a Ray cluster, through its object store; each node writes them down once."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import ModelError, OutputError
from ..weights.aliases import cache_folder
from ..weights.hub import CODE, UNWANTED, WANTED
from ..weights.source import ModelSource

#: Bytes of one object in the store.
_PIECE = 64 << 20
#: In a folder that is whole.
_DONE = ".shipped"


def pack(source: ModelSource, *, with_code: bool) -> dict[str, Any]:
    """Puts the model into the object store: {"digest", "file": is one .gguf, "files": [[name, [references]]]}. What is said there lasts as
    long as the references. Raises ModelError."""
    import ray

    hasher = hashlib.blake2b(digest_size=16)
    files: list[Any] = []
    try:
        for name, path in _files(source.path, with_code=with_code):
            hasher.update(f"{name} {path.stat().st_size}\n".encode())
            pieces = []
            with path.open("rb") as opened:
                while piece := opened.read(_PIECE):
                    hasher.update(piece)
                    pieces.append(ray.put(piece))
            files.append([name, pieces])
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or source.path}: {error.strerror}") from error
    return {"digest": hasher.hexdigest(), "file": source.path.is_file(), "files": files}


def unpack(shipped: Mapping[str, Any]) -> str:
    """The model's path on this node; whoever comes first writes it, others wait. Raises OutputError."""
    import ray

    root = cache_folder().parent / "shipped"
    folder = root / shipped["digest"]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{shipped['digest']}.lock"):
            if not (folder / _DONE).exists():
                shutil.rmtree(folder, ignore_errors=True)
                work = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=root))
                try:
                    for name, pieces in shipped["files"]:
                        path = work / name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with path.open("wb") as opened:
                            for piece in pieces:
                                opened.write(ray.get(piece))
                    (work / _DONE).touch()
                    work.rename(folder)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"the model cannot be written to {root}: {error.strerror or error}") from error
    return str(folder / shipped["files"][0][0]) if shipped["file"] else str(folder)


def _files(path: Path, *, with_code: bool) -> Iterator[tuple[str, Path]]:
    """(name in the folder, file) of what a model is read from."""
    if path.is_file():
        yield path.name, path
        return
    wanted = [*WANTED, *(CODE if with_code else [])]
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and any(fnmatch(name, one) for one in wanted) and not any(fnmatch(name, one) for one in UNWANTED):
            yield name, file
