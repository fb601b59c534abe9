"""Media in a prompt: each with the tokens in whose places its embeddings go.

    token ids   [ 1 882 | 49190 49190 49190 49190 | 3403 ... ]
    embeddings  [ looked up | of the image        | looked up ]

Never imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .media import MediaPart, Medium


@dataclass(frozen=True, eq=False)
class Placed:
    """
    Args:
        key: 16 bytes that are the same for the same content, processed in the same way.
        rows: int64 [n], ascending: the tokens of the prompt that stand for it.
        part: what it is read from again, should it be wanted again.
        medium: itself, where reading it again may give something else; else nothing holds it while it waits.
        options: what the model's processor is told of it (`mm_processor_kwargs`).
    """

    key: bytes
    rows: NDArray[np.int64]
    part: MediaPart
    medium: Medium | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return int(self.rows[0])

    @property
    def end(self) -> int:
        """The number of tokens up to its last."""
        return int(self.rows[-1]) + 1

    def salt(self, start: int, stop: int) -> bytes:
        """What tells the tokens from `start` to `stop` from others with the same ids; empty where none of them stands for it."""
        if stop <= self.first or start >= self.end:
            return b""
        return self.key + (start - self.first).to_bytes(8, "big", signed=True)


def media_key(medium: Medium, options: Mapping[str, Any]) -> bytes:
    """See `Placed.key`."""
    how = json.dumps(options, sort_keys=True, default=repr) if options else ""
    return hashlib.blake2b(f"{medium.kind} {medium.hash} {how}".encode(), digest_size=16).digest()
