"""The values of an adapter's matrices: they are numbers, and stay so when they are scaled. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import AdapterError
from ..weights.floats import as_float32
from ..weights.header import Entry
from .adapter import AdapterConfig

_LARGEST = float(np.finfo(np.float32).max)


def check_file(config: AdapterConfig) -> None:
    """`check_values` of an adapter whose file is not read yet; one matrix of it is in memory at a time. Raises AdapterError."""
    try:
        with config.weights.open("rb") as file:

            def read(entry: Entry) -> bytes:
                file.seek(entry.start)
                return file.read(entry.end - entry.start)

            check_values(config, read)
    except OSError as error:
        raise AdapterError(f"cannot read {config.weights}: {error.strerror}") from None


def check_values(config: AdapterConfig, read: Callable[[Entry], bytes | memoryview]) -> None:
    """Raises AdapterError for a matrix that holds NaN or infinity, or does once it is float32 and its scale is multiplied in.

    Args:
        read: the bytes of a tensor.
    """
    for pair in config.pairs.values():
        for entry, scale in ((pair.a, 1.0), (pair.b, abs(pair.scale))):
            data = read(entry)
            if len(data) != entry.end - entry.start:
                raise AdapterError(f"{config.weights} changed while it was read")
            largest = float(np.abs(as_float32(data, entry.info.dtype, entry.info.shape)).max())
            if not math.isfinite(largest):
                raise AdapterError(
                    f"adapter {config.path}: tensor {entry.info.name!r} holds NaN, infinity or a number that float32 cannot hold; fetch "
                    "the adapter again, or train it again if its training diverged"
                )
            if largest * scale > _LARGEST:
                raise AdapterError(
                    f"adapter {config.path}: tensor {entry.info.name!r} times its scale {pair.scale:g} (lora_alpha and r) is more than "
                    "float32 can hold; look at lora_alpha in adapter_config.json"
                )
