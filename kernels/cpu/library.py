"""The compiled kernels: a shared object with a plain C interface, loaded through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .build import BuildError, find_or_build
from .cache import Cache, Unsafe

#: Same numbers as `DType` in src/vectors.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
CACHE_DTYPES = {**DTYPES, torch.int8: 3}

_ARGUMENTS: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


@dataclass(frozen=True)
class Library:
    """A loaded build."""

    entries: ctypes.CDLL
    digest: str
    """Of the file: two that differ may round differently."""
    path: Path
    compile_seconds: float | None
    """None: it was in the cache."""


def load() -> ctypes.CDLL:
    """The library for this machine, compiled first if need be. Raises BuildError."""
    return library().entries


@functools.cache
def library() -> Library:
    """The library with what is known about it. Raises BuildError."""
    if sys.platform != "linux":
        raise BuildError("compiled kernels need Linux")
    try:
        cache = Cache.open()
    except Unsafe as error:
        raise BuildError(f"there is no folder to compile in: {error}") from error
    try:
        return _load_from(cache)
    finally:
        cache.close()


def _load_from(cache: Cache) -> Library:
    seconds: float | None = None
    for last in (False, True):
        path, seconds = find_or_build(cache)
        try:
            entries = ctypes.CDLL(str(path))
            digest = hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()
        except OSError as error:
            # A damaged file, or one just deleted by a process that tidied up: made anew, once.
            cache.delete(path.name)
            if last or seconds is not None:
                raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error
        else:
            return Library(entries, digest, cache.path / path.name, seconds)
    raise AssertionError


def is_loaded() -> bool:
    """True if there is a library, and `load` will not raise."""
    return library.cache_info().currsize > 0


def function(name: str, arguments: str) -> Callable[..., None]:
    """C function `name`, its arguments as letters: p tensor or None, i int64, f float. Looked up when first called."""
    entry: Callable[..., None] | None = None
    places = [place for place, letter in enumerate(arguments) if letter == "p"]

    def call(*values: Any) -> None:
        nonlocal entry
        if entry is None:
            found = load()[name]
            found.argtypes = [_ARGUMENTS[letter] for letter in arguments]
            found.restype = None
            entry = found
        given = list(values)
        for place in places:
            if given[place] is not None:
                given[place] = given[place].data_ptr()
        entry(*given)

    return call
