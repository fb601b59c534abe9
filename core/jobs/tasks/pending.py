"""A record on its way, and the wall around it: what goes wrong with it stays with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from ...beam_params import BeamSearchParams
from ...engine.request import Request
from ...errors import InferError, RecordError
from ...params import SamplingParams
from ..record import Record
from .openai_batch import BatchLine

log = logging.getLogger("infer.jobs")


@dataclass(slots=True)
class Pending:
    """What is kept of a record until its row is written. The fields it shares with `Record` mean what they mean there."""

    index: int
    line: int
    size: int
    ordinal: int = -1
    source: str = ""
    digest: bytes = b""
    chain: bytes = b""
    raw: bytes | None = None
    id: str | int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    batch: BatchLine | None = None  # if it is an OpenAI Batch line
    params: SamplingParams | None = None
    beam: BeamSearchParams | None = None  # if it is to be searched for
    default_max_tokens: bool = False
    priority: int = 0
    add_special_tokens: bool = True  # the tokenizer's, to a prompt that is text
    reply: Any = None  # how the task reads the answer, see Task.look_ahead
    prompt: str | list[int] | None = None  # text until it is tokenized; let go once it is in the engine
    error: RecordError | None = None

    def __post_init__(self) -> None:
        if self.ordinal < 0:
            self.ordinal = self.index

    @classmethod
    def of(cls, record: Record) -> Pending:
        """Of a record nothing is known about yet but where it stood."""
        r = record
        return cls(r.index, r.line, r.size, ordinal=r.ordinal, source=r.source, digest=r.digest, chain=r.chain, raw=r.raw)

    @property
    def position(self) -> int:
        """How many records of the whole input have been seen after this one."""
        return self.index + 1

    def to_request(self) -> Request:
        """For a record without an error. The caller drops `prompt` afterwards, which the engine now holds."""
        assert isinstance(self.prompt, list)
        assert self.params is not None
        return Request(str(self.index), self.prompt, self.params, self.index, priority=self.priority, beam=self.beam)


class contained:
    """`with contained(pending):` whatever goes wrong inside becomes the error of that record alone."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, RecordError):
            self._pending.error = error
        elif error is not None and one_records_fault(error):
            self._pending.error = internal_error(self._pending, error)
        else:
            return False
        return True


def one_records_fault(error: BaseException) -> bool:
    """Whether an exception may be put down to one record: not the end of the run, nor the user's wish to end it.

    A panic in a Rust library is a BaseException that derives from nothing else.
    """
    if isinstance(error, RecordError):
        return True
    return not isinstance(error, (InferError, KeyboardInterrupt, SystemExit, GeneratorExit, BrokenPipeError))


def internal_error(pending: Pending, error: BaseException) -> RecordError:
    """The error of a record on which our own code failed."""
    log.warning("record %d (line %d): internal error, please report it: %r", pending.index, pending.line, error)
    log.debug("record %d", pending.index, exc_info=error)
    return RecordError("internal", f"internal error: {type(error).__name__}")
