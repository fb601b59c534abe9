"""Typed access to a GGUF file's metadata, with errors that name the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelError


@dataclass(frozen=True)
class Metadata:
    """Keys that start with "." belong to the file's architecture: ".block_count" is "llama.block_count" in a llama file."""

    values: Mapping[str, Any]
    path: Path

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    def integer(self, key: str) -> int | None:
        """None if absent. Some files give one number per layer; if they are all equal, it is that number."""
        value = self._get(key)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str) -> float | None:
        """From 0 on, None if absent. As the shortest decimal that is this float32: 9.999999747378752e-06 was written as 1e-05."""
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise self._wrong(key, "a number from 0 on", value)
        return float(str(np.float32(value)))

    def text(self, key: str) -> str | None:
        value = self._get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value

    def flag(self, key: str) -> bool | None:
        value = self._get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def items(self, key: str, kind: type) -> list[Any] | None:
        """A list whose items are all of `kind`, or None if absent."""
        value = self._get(key)
        if value is not None and not (isinstance(value, list) and all(type(v) is kind for v in value)):
            raise self._wrong(key, f"a list of {kind.__name__}", value)
        return value

    def need(self, key: str, *, least: int = 0) -> int:
        """A whole number that must be there, not below `least`."""
        value = self.integer(key)
        if value is not None and value < least:
            raise self._wrong(key, f"a whole number from {least} on", value)
        if value is None:
            raise ModelError(f"{self.path}: its metadata lacks {self._full(key)}; convert the model again with a current llama.cpp")
        return value

    def _full(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def _get(self, key: str) -> Any:
        return self.values.get(self._full(key))

    def _wrong(self, key: str, wanted: str, value: Any) -> ModelError:
        shown = repr(value) if len(repr(value)) < 60 else f"a {type(value).__name__}"
        return ModelError(f"{self.path}: its metadata has {shown} for {self._full(key)}, where {wanted} belongs")
