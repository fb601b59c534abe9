"""A model: small files by name and tensors by name, whatever form they are stored in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..spec.hf_config import FILE
from ..spec.model_spec import ModelSpec
from ..spec.read import read_spec

if TYPE_CHECKING:
    import torch

    from .cut import Cut
    from .formats.values import QuantizedWeight


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a file's header describes it.

    `shape` is the shape PyTorch gives it (rows first), `dtype` the one `ModelSource.stream` yields, spelled as
    safetensors does ("BF16", "F32"...); `file` is the name of the file that holds it, for messages.
    Where columns of a quantized weight are cut anywhere but between two times `group`, it does not stay quantized.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    group: int = 1


@dataclass(frozen=True)
class ModelSource(ABC):
    """A model's place and the way to read it. `folder.FolderSource` and `gguf.GgufSource` are the two forms.

    Names of files and tensors are always those of a Hugging Face folder.
    """

    name: str
    """As the user typed it."""
    path: Path
    """The folder, or the .gguf file."""

    @abstractmethod
    def read(self, filename: str) -> bytes | None:
        """The content of a small file ("config.json", "tokenizer.json", "1_Pooling/config.json"...), or None if there is none."""

    def read_json(self, filename: str) -> dict[str, Any] | None:
        """A small file's JSON object, or None if there is no such file. Raises ModelError naming the file if it is not one."""
        content = self.read(filename)
        return None if content is None else parse_json(content, self.path / filename)

    def spec(self, overrides: Mapping[str, Any] | None = None) -> ModelSpec:
        """The model as config.json describes it, see `read_spec`. Raises ModelError also where there is none."""
        raw = self.read_json(FILE)
        if raw is None:
            raise ModelError(f"model {self.name!r} has no {FILE} in {str(self.path)!r}; is it a model folder?")
        return read_spec(raw, overrides, self.path / FILE if self.path.is_dir() else self.path)

    @property
    def scheme(self) -> str:
        """The quantization of stored weights, for people ("gptq, 4 bits, groups of 128"); empty: there is none."""
        return ""

    @property
    def stored(self) -> ModelSource:
        """The same with its tensors as the files have them; itself where they are seen so."""
        return self

    @property
    def has_weights(self) -> bool:
        """True if there are weights in a form that is read."""
        return True

    @abstractmethod
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, from headers alone: no weights are read.

        Raises ModelError for files that are missing, cut short, damaged or of a kind that is not read.
        """

    def content(self, name: str) -> bytes:
        """The bytes of a small tensor, for those that hold no numbers. Without torch. Raises ModelError as `stream` does."""
        raise NotImplementedError

    def exact(self) -> ModelSource:
        """The same with no bit of a quantized weight lost as it is read; itself where none is."""
        return self

    @abstractmethod
    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        """Every tensor on the CPU, one at a time, quantized weights as such; each owns its memory and nothing else stays allocated.

        Of those in `cuts` only that part, and no more is read for it than the form of the file needs. The dtype is the one in
        `tensors()`. Raises ModelError as `tensors()` does.
        """


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in a model's file. Raises ModelError naming the file."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not valid JSON ({len(content)} bytes: {e}); it may be cut short, fetch the model again") from e
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, not an object; fetch the model again")
    return value
