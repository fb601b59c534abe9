"""Prompt embeddings: vectors that stand in the place of the embeddings of a prompt's first tokens, its virtual tokens.

    positions   [ virtual ........ | tokens ............ | output ... ]
    token ids   [ 0 0 0 0 0 0 0 0  | 464 3139 286        | ...        ]
    embeddings  [ given            | looked up                        ]

A prompt adapter puts some before every prompt; a record may bring its own. They count as tokens of the prompt, in limits and in usage;
what looks at tokens (penalties, text, log-probabilities) does not see them. Never imports torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError

#: The token id that is written where a virtual token is, as in vLLM. It is never looked up.
PLACEHOLDER = 0


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """
    Args:
        values: float32 [tokens, features], finite, at least one token.
    """

    values: NDArray[np.float32]

    @classmethod
    def of(cls, value: Any) -> PromptEmbeds:
        """Of a numpy array or a torch tensor, [tokens, features] or [1, tokens, features]; it is copied.

        Raises RecordError (invalid_type, invalid_value; param prompt_embeds).
        """
        if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor: numpy has no bfloat16
            if not value.is_floating_point():
                raise _wrong(f"must hold floating-point numbers, not {str(value.dtype).removeprefix('torch.')}", "invalid_type")
            value = value.detach().cpu().float().numpy()
        if not isinstance(value, np.ndarray):
            raise _wrong(f"must be a tensor or a numpy array, not {type(value).__name__}", "invalid_type")
        if value.dtype.kind != "f":
            raise _wrong(f"must hold floating-point numbers, not {value.dtype}", "invalid_type")
        if value.ndim == 3 and value.shape[0] == 1:
            value = value[0]
        if value.ndim != 2 or not value.size:
            raise _wrong(f"must have the shape [tokens, features], not {list(value.shape)}")
        with np.errstate(over="ignore"):
            values = np.array(value, dtype=np.float32, order="C")
        if not np.isfinite(values).all():
            raise _wrong("must be finite numbers")
        return cls(values)

    def __len__(self) -> int:
        """Virtual tokens."""
        return len(self.values)

    @property
    def size(self) -> int:
        """Features of each."""
        return self.values.shape[1]

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that are the same for the same values."""
        return hashlib.blake2b(self.values.tobytes(), digest_size=16, key=str(self.size).encode()).digest()

    def before(self, other: PromptEmbeds | None) -> PromptEmbeds:
        """These, and `other` behind them. Raises RecordError (invalid_value) if they have not as many features."""
        if other is None:
            return self
        if other.size != self.size:
            raise _wrong(f"has {other.size} features a token, and the prompt adapter before it {self.size}")
        return PromptEmbeds(np.concatenate((self.values, other.values)))


def with_virtual(ids: list[int], embeds: PromptEmbeds | None) -> list[int]:
    """The ids of a prompt with placeholders for the virtual tokens before it."""
    return ids if embeds is None else [PLACEHOLDER] * len(embeds) + ids


def _wrong(what: str, code: str = "invalid_value") -> RecordError:
    return RecordError(code, f"prompt_embeds {what}", param="prompt_embeds")
