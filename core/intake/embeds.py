"""Prompt embeddings in a record: base64 of a .safetensors or .npy file with one tensor [tokens, features]."""

from __future__ import annotations

import base64
import binascii
import io
import math

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RecordError
from ..types.prompt_embeds import PromptEmbeds
from ..weights.floats import FLOATS, as_float32, read_bytes

_NPY, _ZIP, _PICKLE = b"\x93NUMPY", b"PK\x03\x04", b"\x80"
_FIELD = "prompt_embeds"


def decoded(text: object) -> PromptEmbeds:
    """The embeddings in the field of a record. Nothing is ever unpickled. Raises RecordError (invalid_type, invalid_value)."""
    if not isinstance(text, str):
        raise RecordError("invalid_type", f"{_FIELD} must be a string, base64 of a .safetensors or .npy file", param=_FIELD)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"is not base64 ({error})") from None
    if data.startswith(_NPY):
        return PromptEmbeds.of(_npy(data))
    if data.startswith((_ZIP, _PICKLE)):
        raise _wrong("is a file of torch.save, which is a pickle and can run code when read: use safetensors.torch.save or numpy.save")
    return PromptEmbeds.of(_safetensors(data))


def _npy(data: bytes) -> NDArray[np.floating]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _wrong(f"is not an .npy file that can be read ({error})") from None
    if dtype.kind != "f" or dtype.hasobject:
        raise RecordError("invalid_type", f"{_FIELD} must hold floating-point numbers, not {dtype}", param=_FIELD)
    rest, needed = memoryview(data)[file.tell() :], math.prod(shape) * dtype.itemsize
    if len(rest) != needed:
        raise _wrong(f"is an .npy file of shape {list(shape)}, which needs {needed} bytes and has {len(rest)}")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if by_columns else "C")


def _safetensors(data: bytes) -> NDArray[np.float32]:
    try:
        tensors = read_bytes(data, _FIELD)
    except ModelError as error:
        raise _wrong(
            f"is not a .safetensors or .npy file that can be read ({str(error).removesuffix('; fetch the model again')})"
        ) from None
    if len(tensors) != 1:
        raise _wrong(f"is a .safetensors file of {len(tensors)} tensors; it must have one")
    ((entry, part),) = tensors.values()
    if entry.info.dtype not in FLOATS:
        raise RecordError("invalid_type", f"{_FIELD} must hold floating-point numbers, not {entry.info.dtype}", param=_FIELD)
    return as_float32(part, entry.info.dtype, entry.info.shape)


def _wrong(what: str) -> RecordError:
    return RecordError("invalid_value", f"{_FIELD} {what}", param=_FIELD)
