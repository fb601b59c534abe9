"""The wall around one request: a fault inside it is that request's error, and does not end what others wait for.

Every door that does something for one request alone (making, encoding, sending, admitting, following its output, writing its row)
does it inside this wall. What cannot be put down to one request goes on as it came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from .errors import InferError, RecordError

log = logging.getLogger("infer.jobs")


class Blamed(Protocol):
    """A request, or something else that can have an error of its own."""

    error: RecordError | None

    @property
    def called(self) -> str:
        """Its name in messages."""


T = TypeVar("T", bound=Blamed)


class contained:
    """`with contained(one):` whatever goes wrong inside becomes the error of that one."""

    def __init__(self, one: Blamed) -> None:
        self._one = one

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not one_records_fault(error):
            return False
        self._one.error = own_error(error, self._one.called)
        return True


def all_contained(do: Callable[[Sequence[T]], None], batch: Sequence[T]) -> None:
    """Does something for several at once; where that fails, for one after the other, to find out which it was."""
    try:
        do(batch)
    except BaseException as error:
        if not one_records_fault(error):
            raise
        for one in batch:
            with contained(one):
                do([one])


def own_error(error: BaseException, called: str) -> RecordError:
    """The error that an exception means for the request named `called`. Raises the exception if it is not that request's fault."""
    if isinstance(error, RecordError):
        return error
    if not one_records_fault(error):
        raise error
    log.warning("%s: internal error, please report it: %r", called, error)
    log.debug("%s", called, exc_info=error)
    return RecordError("internal", f"internal error: {type(error).__name__}")


def one_records_fault(error: BaseException) -> bool:
    """True if one record may be blamed for an exception: it neither ends the run nor is the user's wish to end it.

    A panic in a Rust library is a BaseException that derives from nothing else.
    """
    if isinstance(error, RecordError):
        return True
    return not isinstance(error, (InferError, KeyboardInterrupt, SystemExit, GeneratorExit, BrokenPipeError))
