"""Any engine, as its callers see it: it generates or pools, in this process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import RecordError
from .stats import EngineStats


class Answer(Protocol):
    """The part of an answer that is the same of every engine: a RequestOutput or a Pooled."""

    @property
    def request_id(self) -> str: ...

    @property
    def error(self) -> RecordError | None:
        """The reason why there is no answer; None if there is one."""


class AnyEngine(Protocol):
    """Takes Requests where it generates, PoolingRequests where it pools."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, or of a text."""

    @property
    def max_num_seqs(self) -> int:
        """Most sequences, or texts, in a step."""

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""

    @property
    def num_waiting(self) -> int:
        """Sequences, or texts, that are queued and not running."""

    @property
    def stats(self) -> EngineStats:
        """Counts so far."""

    def add(self, request: Any) -> None:
        """Queues a request. Raises RecordError if it can never be answered; the engine is then as it was."""

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""

    def is_open(self, request_id: str) -> bool:
        """True if the request was added and is not answered."""

    def expect_more(self, more: bool) -> None:
        """Says if requests may be added to those that are there, which is supposed until it is said. No answer depends on it."""

    def check(self) -> None:
        """Looks after the processes it has while there is nothing to compute. Raises what a step would raise if one is lost."""

    def step(self) -> Sequence[Any]:
        """Computes one step; the Answers to the requests it finished."""

    def reset_prefix_cache(self) -> bool:
        """Forgets what the prefix cache holds; False, and nothing is forgotten, while there are requests."""

    def close(self) -> None:
        """Ends the processes it has. Nothing else may be asked of it afterwards; it may be closed again."""
