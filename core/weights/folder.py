"""A model in a Hugging Face folder: config.json, tokenizer files, and safetensors, whole or in shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..spec.hf_values import is_text
from .header import DTYPES, Entry, read_header
from .source import ModelSource, TensorInfo, parse_json

if TYPE_CHECKING:
    import torch

    from .cut import Cut

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Bytes read at a time of a tensor of which a part of each row is wanted.
PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class FolderSource(ModelSource):
    """Reads a folder with config.json."""

    def read(self, filename: str) -> bytes | None:
        assert ".." not in Path(filename).parts, "file names come from our own code"
        path = self.path / filename
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise ModelError(f"cannot read {path}: {e.strerror}") from e

    @property
    def has_weights(self) -> bool:
        return (self.path / SINGLE).exists() or (self.path / INDEX).exists()

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: entry.info for shard in self._shards.values() for name, entry in shard.items()}

    def content(self, name: str) -> bytes:
        path, entry = next((path, entries[name]) for path, entries in self._shards.items() if name in entries)
        try:
            with path.open("rb") as f:
                f.seek(entry.start)
                return f.read(entry.end - entry.start)
        except OSError as e:
            raise ModelError(f"cannot read {path}: {e.strerror}") from e

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        for path, entries in self._shards.items():
            try:
                with path.open("rb", buffering=0) as f:
                    for name, entry in entries.items():
                        yield name, _read_tensor(f.fileno(), entry, path, (cuts or {}).get(name))
            except OSError as e:
                raise ModelError(f"cannot read {path}: {e.strerror}") from e

    @cached_property
    def _shards(self) -> dict[Path, dict[str, Entry]]:
        """Each weight file's tensors."""
        if (self.path / SINGLE).exists():  # as in transformers, the single file goes first
            return {self.path / SINGLE: read_header(self.path / SINGLE)}
        content = self.read(INDEX)
        if content is None:
            raise self._no_weights()
        index = self.path / INDEX
        return {path: _pick(path, names, index) for path, names in _shard_names(parse_json(content, index), index).items()}

    def _no_weights(self) -> ModelError:
        names = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        pickles = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")) and n != "training_args.bin"]
        others = [n for n in names if n.endswith(".safetensors")]
        if others:
            what = f"{', '.join(others[:4])} lie there, but not the {INDEX} that says what is in which"
        elif pickles:
            what = (
                f"only {pickles[0]}, and pickle files can run code when read, so they are refused; convert them once to safetensors "
                "(transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder))"
            )
        else:
            what = "fetch the model again"
        return ModelError(f"{self.path} has no {SINGLE} and no {INDEX}: {what}")


def _shard_names(index: dict[str, Any], path: Path) -> dict[Path, list[str]]:
    """Shard file -> names of its tensors. The index is the authority: what it does not name is not part of the model."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{path} has no weight_map of tensor names to file names; fetch the model again")
    shards: dict[Path, list[str]] = {}
    for name, file in weight_map.items():
        shards.setdefault(_inside(file, path), []).append(name)
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ModelError(f"{path} names {len(missing)} file(s) that are not there: {', '.join(missing[:4])}; fetch the model again")
    return dict(sorted(shards.items()))


def _inside(file: str, index: Path) -> Path:
    """The path of a shard. Its name comes from a file we do not trust, so it must be a plain name, and what it leads to must lie
    in the folder or beside the real index file (the hub cache's folders are links to files that all lie in one place)."""
    path = index.parent / file
    if not is_text(file) or file in {"", ".", ".."} or "/" in file or "\\" in file or "\0" in file:
        raise ModelError(f"{index} names a file outside the model's folder: {file!r}; refused")
    target = path.resolve()
    if index.parent.resolve() not in target.parents and index.resolve().parent not in target.parents:
        raise ModelError(f"{index} names {file!r}, which is a link to {target}, outside the model's folder; refused")
    return path


def _pick(path: Path, names: list[str], index: Path) -> dict[str, Entry]:
    entries = read_header(path)
    if missing := [name for name in names if name not in entries]:
        what = f"{len(missing)} tensor(s) that {index.name} puts there: {', '.join(missing[:4])}"
        raise ModelError(f"{path} lacks {what}; fetch the model again")
    wanted = set(names)
    return {name: entry for name, entry in entries.items() if name in wanted}


def _read_tensor(fd: int, entry: Entry, path: Path, cut: Cut | None = None) -> torch.Tensor:
    """Reads rather than maps: the tensor's own memory is then all the memory it costs (see header.py)."""
    import torch

    info = entry.info
    dtype = getattr(torch, DTYPES[info.dtype].torch_name, None)
    if dtype is None:
        raise ModelError(f"{path}: tensor {info.name!r} has dtype {info.dtype}, which this version of torch cannot hold")
    if cut is None:
        tensor = torch.empty(info.shape, dtype=dtype)
        _read_into(fd, tensor, entry.start, path)
        return tensor
    first, last = cut.within(info.shape[cut.dim])
    count = last - first
    if cut.dim == 0:  # whole rows lie together
        row = (entry.end - entry.start) // max(1, info.shape[0])
        part = torch.empty((count, *info.shape[1:]), dtype=dtype)
        _read_into(fd, part, entry.start + first * row, path)
        return cut.padded(part)
    part = torch.empty((info.shape[0], count, *info.shape[2:]), dtype=dtype)
    step = max(1, PIECE_BYTES * info.shape[0] // max(1, entry.end - entry.start))
    for row0 in range(0, info.shape[0], step):  # of every row a piece: rows are read whole, a few at a time
        rows = torch.empty((min(step, info.shape[0] - row0), *info.shape[1:]), dtype=dtype)
        _read_into(fd, rows, entry.start + row0 * rows[0].nbytes, path)
        part[row0 : row0 + len(rows)] = rows[:, first:last]
    return cut.padded(part)


def _read_into(fd: int, tensor: torch.Tensor, start: int, path: Path) -> None:
    """Fills a contiguous tensor with the bytes from `start`."""
    import torch

    if not tensor.nbytes:
        return
    buffer = tensor.view(-1).view(torch.uint8).numpy().data
    done = 0
    while done < tensor.nbytes:  # one call reads 2 GiB at most
        count = os.preadv(fd, [buffer[done:]], start + done)
        if count == 0:
            raise ModelError(f"{path} became shorter while it was read: expected {start + tensor.nbytes} bytes, it has {start + done}")
        done += count
