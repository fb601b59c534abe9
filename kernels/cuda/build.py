"""Which kernels these are: compilers of other versions, and other sources, may round differently."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import triton


@functools.cache
def digest() -> str:
    """Triton's version, and a hash of this folder's sources."""
    hasher = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"triton-{triton.__version__}-{hasher.hexdigest()}"
