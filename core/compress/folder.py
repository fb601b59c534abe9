"""The folder of a model that is being written: nothing that loads until all of it is there.

It grows as OUT.partial, config.json last, and then takes OUT's name. One that a killed run left is thrown away by the next; it is known by
a file in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, LockedError, OutputError

#: Bytes of tensors in a file, about; so much is held until it is written.
SHARD_BYTES = 2 << 30
#: The first file of a folder that is being written.
MARK = ".infer-quantize"


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Folder]:
    """The folder that becomes `out` when the body ends without an error, else is removed.

    Raises ConfigError if `out` is there and may not be replaced, LockedError if another run writes it, OutputError if it cannot be written.
    """
    check_out(out, overwrite=overwrite)
    partial = out.with_name(out.name + ".partial")
    with _told(out):
        fd = _locked(partial)
        try:
            _empty(partial)
            (partial / MARK).touch()
            folder = Folder(partial)
            yield folder
            folder.finish()
            _sync(partial)
            _take_name(partial, out)
            (out / MARK).unlink()
        except BaseException:
            if (partial / MARK).exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(fd)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises ConfigError if a model may not be written to `out`."""
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already; choose another folder, or replace it with --overwrite")
    if not (out / "config.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not a model folder, so --overwrite does not replace it; choose another one")


class Folder:
    """A model folder that takes tensors in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = {}
        """To be written at the end."""
        self.num_bytes = 0
        """Of all tensors."""
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._files: list[tuple[str, list[str]]] = []

    def write(self, name: str, content: bytes) -> None:
        """A small file."""
        (self.path / name).write_bytes(content)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors by name. They may be held for a while."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._held and self._held_bytes + size > SHARD_BYTES:
            self._flush()
        self._held.update((name, tensor.contiguous()) for name, tensor in tensors.items())
        self._held_bytes += size
        self.num_bytes += size

    def finish(self) -> None:
        """All tensors are there."""
        self._flush()
        if len(self._files) == 1:
            (self.path / self._files[0][0]).rename(self.path / "model.safetensors")
        else:
            names = {}
            for number, (file, tensors) in enumerate(self._files, 1):
                shard = f"model-{number:05}-of-{len(self._files):05}.safetensors"
                (self.path / file).rename(self.path / shard)
                names.update(dict.fromkeys(tensors, shard))
            index = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(names.items()))}
            self.write("model.safetensors.index.json", json.dumps(index, indent=2).encode() + b"\n")
        self.write("config.json", json.dumps(self.config, indent=2).encode() + b"\n")

    def _flush(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        name = f"{len(self._files)}.partial"
        try:
            save_file(self._held, self.path / name, metadata={"format": "pt"})
        except SafetensorError as error:  # it hides the system's error in its text
            code = re.search(r"os error (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(self.path / name)) from error
        self._files.append((name, [*self._held]))
        self._held, self._held_bytes = {}, 0


@contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; free some space, or choose another folder") from error


def _locked(partial: Path) -> int:
    """A descriptor of the folder, which nobody else writes to while it is open."""
    partial.mkdir(parents=True, exist_ok=True)
    fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(fd)
            raise LockedError(f"another run is writing {partial}; wait for it, or choose another folder") from None
        # a file system without locks: nobody can be seen
    return fd


def _take_name(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # a folder cannot be renamed over another
    out.rename(aside / out.name)
    partial.rename(out)
    shutil.rmtree(aside, ignore_errors=True)


def _empty(partial: Path) -> None:
    """Removes what a killed run left. Raises ConfigError for a folder that is not of such a run."""
    left = [*partial.iterdir()]
    if left and not (partial / MARK).exists():
        raise ConfigError(f"{partial}, which the folder would be written to, is in use for something else; move it, or choose another OUT")
    for path in sorted(left, key=lambda path: path.name == MARK):  # the mark last
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    """Puts the files on the disk before the folder takes its name."""
    for path in [*folder.iterdir(), folder]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
