"""An adapter's weights in memory: the file as it is, and its matrices, which go to other ranks as they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import AdapterError
from ..types.adapters import AdapterKey
from ..weights.header import DTYPES, Entry
from ..weights.source import TensorInfo
from .adapter import AdapterConfig, Pair, read_config
from .books import stamped
from .values import check_values

#: Arrays that an adapter is sent as, which no batch is.
NUM_ADAPTER_ARRAYS = 2


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """One adapter."""

    config: AdapterConfig
    content: NDArray[np.uint8]
    """Its file of weights, every byte."""

    @classmethod
    def of(cls, key: AdapterKey, max_rank: int) -> AdapterWeights:
        """As `read`, of an adapter that is still what it was. Raises AdapterError."""
        if stamped(key.path) != key:
            raise AdapterError(f"adapter {key.path} is gone, or changed after the record was read")
        return cls.read(key, max_rank)

    @classmethod
    def read(cls, key: AdapterKey, max_rank: int | None) -> AdapterWeights:
        """Reads an adapter. Raises AdapterError as `read_config` does."""
        config = read_config(key.path, max_rank=max_rank)
        try:
            content = np.fromfile(config.weights, dtype=np.uint8)
        except OSError as error:
            raise AdapterError(f"cannot read {config.weights}: {error.strerror}") from None
        every = [*config.bases.values(), *(entry for pair in config.pairs.values() for entry in (pair.a, pair.b))]
        if len(content) != max(entry.end for entry in every):
            raise AdapterError(f"{config.weights} changed while it was read")
        check_values(config, lambda entry: content[entry.start : entry.end].data)
        return cls(config, content)

    def matrices(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] with the scale multiplied in, float32 on the CPU."""
        return self.tensor(pair.a), self.tensor(pair.b) * pair.scale

    def tensor(self, entry: Entry) -> Tensor:
        """One tensor of the file, float32."""
        dtype = getattr(torch, DTYPES[entry.info.dtype].torch_name)
        raw = torch.from_numpy(self.content[entry.start : entry.end].copy())
        return raw.view(dtype).view(entry.info.shape).to(torch.float32)

    def arrays(self, slot: int) -> list[NDArray[Any]]:
        """It and the slot that it is for, as `from_arrays` takes them."""
        path = str(self.config.path).encode(errors="backslashreplace").decode()  # for messages
        head = {"slot": slot, "path": path, "pairs": [asdict(pair) for pair in self.config.pairs.values()]}
        return [np.frombuffer(orjson.dumps(head), dtype=np.int8), self.content.view(np.int8)]

    @classmethod
    def from_arrays(cls, arrays: Sequence[NDArray[Any]]) -> tuple[int, AdapterWeights]:
        """What `arrays` was called of. Embeddings beside pairs are not looked at once more."""
        head = orjson.loads(arrays[0].tobytes())
        pairs = [Pair(**{**one, "a": _entry(one["a"]), "b": _entry(one["b"])}) for one in head["pairs"]]
        config = AdapterConfig(Path(head["path"]), {pair.layer: pair for pair in pairs}, {}, None)
        return head["slot"], cls(config, arrays[1].view(np.uint8))


def _entry(values: dict[str, Any]) -> Entry:
    info = values["info"]
    return Entry(TensorInfo(**{**info, "shape": tuple(info["shape"])}), values["start"], values["end"])
