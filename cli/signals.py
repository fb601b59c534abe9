"""Signals that stop the program, and SIGUSR1, which asks how far it is.

The first SIGINT, SIGTERM or SIGHUP raises Interrupted in the main thread as soon as nothing is held and no module is being imported;
what is finished is then made safe and the program says how to go on. The second one ends the process at once, which a resumed run
survives like any other death. SIGUSR1 asks for a status line.

Imports are not interrupted since extension modules (torch, numpy) call back into Python while they are set up: an exception that
is raised there ends the process in C++, or comes out as an ImportError. Nor are values of enums, which orjson asks for and then reads
whether there is one or not: the process would end with SIGSEGV.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from infer.core.parallel.children import STOPS

#: Seconds after which a signal that came during an import, or the like, looks whether it is over.
_AGAIN = 0.02
#: Seconds after which it is looked whether anybody heard it: C code that calls Python may drop what is raised there.
_UNHEARD = 0.25
_ALARM: Any = getattr(signal, "SIGALRM", None)
#: The file of the frames that every import runs in, and those of what an enum's `value` is.
_CALLED_BY_C = frozenset(
    {"<frozen importlib._bootstrap>"} | {one.__code__.co_filename for one in (enum.EnumMeta.__iter__, types.DynamicClassAttribute.__get__)}
)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class _State:
    """State of signal handling, shared by Signals within Signals."""

    def __init__(self) -> None:
        self.held = 0
        self.waiting: int | None = None
        self.raised: int | None = None
        self.heard = False
        self.status = False
        self.show: Callable[[], None] | None = None


class Signals:
    """A context: the handlers are ours within it. One may be within another: the program's own, and a job's.

    Args:
        on_second: called before the process ends at once, to leave a clean terminal.
    """

    _innermost: Signals | None = None

    def __init__(self, on_second: Callable[[], None] = lambda: None) -> None:
        self._on_second = on_second
        self._outer = Signals._innermost
        self._state: _State = self._outer._state if self._outer else _State()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.take()
        return self

    def take(self) -> None:
        """As a context does at its beginning: for a program, whose handlers stay to its end."""
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs us handles signals
            for number in STOPS:
                if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                    self._before[number] = signal.signal(number, self._on_stop)
            if hasattr(signal, "SIGUSR1"):
                self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_status)
            Signals._innermost = self

    def __exit__(self, *error: object) -> None:
        if _ALARM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._state.heard |= error[0] is not None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        Signals._innermost = self._outer
        if self._outer is not None:
            self._outer._deliver()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing is interrupted within it; a signal that came meanwhile counts at its end."""
        self._state.held += 1
        try:
            yield
        finally:
            self._state.held -= 1
        if self._state.waiting is not None:
            self._deliver()

    def over(self) -> None:
        """Nothing is left to be made safe: from now on a signal ends the process at once."""
        self._state.raised = self._state.raised or signal.SIGTERM
        self._state.heard = True
        if _ALARM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def status_wanted(self) -> bool:
        """True if SIGUSR1 came since the last call."""
        wanted, self._state.status = self._state.status, False
        return wanted

    @contextlib.contextmanager
    def status_at_once(self, show: Callable[[], None]) -> Iterator[None]:
        """Within it SIGUSR1 calls `show` as it comes: nobody asks `status_wanted` meanwhile."""
        self._state.show = show
        try:
            if self.status_wanted():
                show()
            yield
        finally:
            self._state.show = None

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._state.waiting is not None or self._state.raised is not None:
            self._on_second()
            os._exit(128 + number)
        self._state.waiting = number
        self._deliver()

    def _deliver(self) -> None:
        """Raises Interrupted for the signal that waits, or sees to it that it is raised later."""
        state = self._state
        if state.held or state.waiting is None:
            return
        if _ALARM is not None and _called_by_c():
            self._look_again(_AGAIN)
            return
        number, state.waiting, state.raised = state.waiting, None, state.waiting
        if _ALARM is not None:
            self._look_again(_UNHEARD)
        raise Interrupted(number)

    def _look_again(self, seconds: float) -> None:
        first = self
        while first._outer is not None:
            first = first._outer
        before = signal.signal(_ALARM, first._on_alarm)
        first._before.setdefault(_ALARM, before)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        state = self._state
        if state.waiting is None and state.raised is not None and not state.heard and not _unwinding():
            state.waiting = state.raised
        self._deliver()

    def _on_status(self, number: int, frame: FrameType | None) -> None:
        if self._state.show is None:
            self._state.status = True
            return
        try:
            self._state.show()
        except RuntimeError:  # it came while a message was being written
            self._state.status = True


def _unwinding() -> bool:
    """True while an Interrupted, or an exception that it caused, is being handled."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _called_by_c() -> bool:
    """True while any thread imports a module, or C code asks for the value of an enum: threads other than the main one count, since the
    process might end during their import."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code.co_filename in _CALLED_BY_C:
                return True
            frame = frame.f_back
    return False
