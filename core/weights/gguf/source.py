"""A model in one .gguf file, seen as a Hugging Face folder: names, shapes and order of rows are translated."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import ModelSource, TensorInfo
from . import config as gguf_config
from . import tokenizer as gguf_tokenizer
from .file import Block, GgufFile
from .metadata import Metadata
from .names import hf_name, permuted

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..cut import Cut
    from ..formats.values import QuantizedWeight

log = logging.getLogger(__name__)

#: What tensors of each ggml type are streamed as. Plain floats keep their dtype (norms stay float32). Quantized ones of two dimensions
#: stay as they are in most types, see blocks.py; others become bfloat16, the dtype such models were trained and are run in, or float32,
#: which has every bit of them, for who runs in another dtype.
PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F64"}
#: Values of a block of the types that stay as they are: ranks share a weight between blocks.
GROUPS = dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"), 32) | dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), 256)
#: Values dequantized at a time, so that the float32 copy stays small beside the tensor.
CHUNK = 1 << 22
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufSource(ModelSource):
    """Reads a .gguf file of a llama (and so mistral), qwen2 or qwen3 model.

    Args:
        exact_weights: quantized weights become float32.
    """

    exact_weights: bool = False

    def exact(self) -> GgufSource:
        made = replace(self, exact_weights=True)
        made.__dict__["_file"] = self._file  # parsed once
        return made

    @property
    def scheme(self) -> str:
        types = sorted({block.quant for block in self._file.blocks.values()} - PLAIN.keys())
        return f"GGUF, {', '.join(types)}" if types else ""

    def read(self, filename: str) -> bytes | None:
        if filename not in self._files:
            made = self._make(filename)
            self._files[filename] = None if made is None else json.dumps(made, ensure_ascii=False).encode()
        return self._files[filename]

    def tensors(self) -> dict[str, TensorInfo]:
        gguf_config.check(self._meta)
        found = {}
        for block in self._file.blocks.values():
            if block.name == ROPE_FACTORS and self._rope_factors is not None:
                continue  # in config.json as rope_scaling
            self._check_quant(block)
            dtype = PLAIN.get(block.quant, "F32" if self.exact_weights else "BF16")
            found[hf_name(block.name)] = TensorInfo(hf_name(block.name), block.shape, dtype, self.path.name, GROUPS.get(block.quant, 1))
        return found

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        from ..formats.values import cut_of

        self.tensors()
        heads = self._meta.need(".attention.head_count", least=1)
        num_heads = {"q": heads, "k": self._meta.integer(".attention.head_count_kv") or heads}
        try:
            with self.path.open("rb", buffering=0) as f:
                for block in self._file.blocks.values():
                    if block.name == ROPE_FACTORS and self._rope_factors is not None:
                        continue
                    value = self._load(f.fileno(), block)
                    if which := permuted(self._meta.architecture, block.name):
                        value = _unpermuted(value, num_heads[which], block, self._meta)
                    name = hf_name(block.name)
                    yield name, value if cuts is None or name not in cuts else cut_of(value, cuts[name])
                    del value  # or it would stay while the next one is read
        except OSError as e:
            raise ModelError(f"cannot read {self.path}: {e.strerror}") from e

    @cached_property
    def _file(self) -> GgufFile:
        return GgufFile.open(self.path)

    @cached_property
    def _meta(self) -> Metadata:
        return Metadata(self._file.metadata, self.path)

    @cached_property
    def _files(self) -> dict[str, bytes | None]:
        return {}

    def _make(self, filename: str) -> Any:
        if filename == "config.json":
            return gguf_config.config(self._meta, self.tensors(), self._rope_factors)
        if filename == "generation_config.json":
            return gguf_config.generation_config(self._meta)
        if filename == "tokenizer.json":
            return gguf_tokenizer.tokenizer(self._meta)
        if filename == "tokenizer_config.json":
            return gguf_tokenizer.tokenizer_config(self._meta)
        return None

    @cached_property
    def _rope_factors(self) -> list[float] | None:
        """The content of rope_freqs.weight if config.json can say the same, else None: the tensor then stays visible under its
        own name, and the loader refuses it by that name instead of computing wrong positions."""
        block = self._file.blocks.get(ROPE_FACTORS)
        if block is None or block.quant != "F32" or len(block.shape) != 1:
            return None
        with self.path.open("rb", buffering=0) as f:
            factors = [float(x) for x in _read(f.fileno(), block, 0, block.end - block.start).view("<f4")]
        heads = self._meta.need(".attention.head_count", least=1)
        head_dim = self._meta.integer(".attention.key_length") or self._meta.need(".embedding_length") // heads
        try:
            gguf_config.llama3_scaling(factors, head_dim, self._meta.number(".rope.freq_base") or 10000.0)
        except ValueError:
            return None
        return factors

    def _check_quant(self, block: Block) -> None:
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        if block.quant in PLAIN:
            return
        try:
            quant = GGMLQuantizationType[block.quant]
            dequantize(np.zeros((1, GGML_QUANT_SIZES[quant][1]), np.uint8), quant)
        except NotImplementedError as e:
            raise ModelError(f"{self.path}: tensor {block.name!r} has type {block.quant}, which the gguf package cannot dequantize") from e

    def _load(self, fd: int, block: Block) -> torch.Tensor | QuantizedWeight:
        import torch
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        from ..formats.values import Grouped
        from .blocks import HELD, grouped

        num_rows = math.prod(block.shape[:-1])
        row_bytes = (block.end - block.start) // max(num_rows, 1)
        if block.quant in PLAIN:
            dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}[block.quant]
            return torch.from_numpy(_read(fd, block, 0, block.end - block.start)).view(dtype).reshape(block.shape)
        if block.quant in HELD and len(block.shape) == 2:
            return Grouped(grouped(torch.from_numpy(_read(fd, block, 0, block.end - block.start)).view(num_rows, -1), block.quant))
        log.info("%s: %s is stored as %s, which becomes plain", self.path.name, block.name, block.quant)
        tensor = torch.empty(num_rows, block.shape[-1], dtype=torch.float32 if self.exact_weights else torch.bfloat16)
        step = max(CHUNK // block.shape[-1], 1)
        for row in range(0, num_rows, step):
            rows = min(step, num_rows - row)
            raw = _read(fd, block, row * row_bytes, rows * row_bytes).reshape(rows, row_bytes)
            tensor[row : row + rows] = torch.from_numpy(dequantize(raw, GGMLQuantizationType[block.quant]))
        return tensor.reshape(block.shape)


def _read(fd: int, block: Block, offset: int, size: int) -> np.ndarray:
    """uint8 [size], from `offset` into the block."""
    import numpy as np

    data = np.empty(size, np.uint8)
    position = 0
    while position < size:  # one call reads 2 GiB at most
        count = os.preadv(fd, [data.data[position:]], block.start + offset + position)
        if count == 0:
            raise ModelError(f"the .gguf file became shorter while it was read (tensor {block.name!r})")
        position += count
    return data


def _unpermuted(value: torch.Tensor | QuantizedWeight, num_heads: int, block: Block, meta: Metadata) -> torch.Tensor | QuantizedWeight:
    """Undoes llama.cpp's order of a head's rows, (0, d/2, 1, d/2+1, ...), for a weight [rows, columns] or a bias [rows]."""
    import torch

    from ..formats.values import Grouped, as_tensor

    rows = value.shape[0]
    if rows % (2 * num_heads):
        raise ModelError(f"{meta.path}: tensor {block.name!r} has {rows} rows, which {num_heads} heads cannot share")
    order = torch.arange(rows).view(num_heads, rows // num_heads // 2, 2).transpose(1, 2).flatten()
    return value.reordered(order) if isinstance(value, Grouped) else as_tensor(value)[order]
