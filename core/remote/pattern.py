"""Glob patterns of files elsewhere."""

from __future__ import annotations

import glob

from ..errors import Absent, ConfigError
from .store import Store
from .url import scheme_of, shown


def matches(pattern: str) -> list[str]:
    """The URLs of the files that a pattern stands for, sorted; a URL that is none means itself. Web servers list nothing.

    Raises ConfigError if there are none, InferError.
    """
    if scheme_of(pattern) in ("http", "https") or not glob.has_magic(pattern):
        return [pattern]
    store = Store(pattern, "--input")

    def find() -> dict[str, dict[str, str]]:
        store.fs.invalidate_cache()
        found: dict[str, dict[str, str]] = store.fs.glob(store.path, detail=True)
        return found

    try:
        found = store.trying("listed", find)
    except Absent as error:
        raise ConfigError(str(error)) from None
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    if not names:
        raise ConfigError(f"--input {shown(pattern)!r}: no file matches")
    head = pattern.partition("://")[0]
    return [f"{head}://{name.split('://')[-1].lstrip('/')}" if head != "file" else f"file://{name}" for name in names]
