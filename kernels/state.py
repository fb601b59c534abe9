"""States: where this step's sequences keep what layers without a KV cache remember. Plain data of the operations over them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: Slot 0 belongs to nobody: rows that only fill a step up to its size name it. What lies there means nothing.
NULL_STATE = 0


class States(NamedTuple):
    """The rows of this step's sequences and their slots in the pools of states.

    Every layer has pools of its own, [slots, ...]; a sequence has the same slot in all of them. Operations read and overwrite the
    slots of their sequences and touch no others. A sequence goes token by token, or in pieces that lie at fixed positions of it, so
    that its bytes do not depend on how steps cut it.
    """

    query_start: Tensor
    """int32 [S + 1]: sequence s owns token rows query_start[s] to query_start[s + 1]."""
    kv_lens: Tensor
    """int32 [S]: tokens of the sequence once this step's are counted. Where they all are this step's, it begins from zeros, whatever
    lies in its slot."""
    slots: Tensor
    """int32 [S]: no two the same, but for NULL_STATE."""
