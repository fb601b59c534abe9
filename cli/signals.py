"""What a run does when it is told to stop.

The first SIGINT, SIGTERM or SIGHUP raises Interrupted in the main thread as soon as nothing is held; what is finished is then
made safe and the program says how to go on. The second one ends the process at once, which a resumed run survives like any
other death. SIGUSR1 asks for a status line.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_STOP = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class Signals:
    """A context: the handlers are ours within it.

    Args:
        on_second: called before the process ends at once, to leave a clean terminal.
    """

    def __init__(self, on_second: Callable[[], None] = lambda: None) -> None:
        self._on_second = on_second
        self._held = 0
        self._stop: int | None = None
        self._status = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs us handles signals
            for number in _STOP:
                if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                    self._before[number] = signal.signal(number, self._on_stop)
            if hasattr(signal, "SIGUSR1"):
                self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_status)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing is interrupted within it; a signal that came meanwhile counts at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._stop is not None and not self._held:
            self._raise()

    def status_wanted(self) -> bool:
        """Whether SIGUSR1 came since the last call."""
        wanted, self._status = self._status, False
        return wanted

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None or self._raised:
            self._on_second()
            os._exit(128 + number)
        self._stop = number
        if not self._held:
            self._raise()

    _raised = False

    def _raise(self) -> None:
        assert self._stop is not None
        number, self._stop, self._raised = self._stop, None, True
        raise Interrupted(number)

    def _on_status(self, number: int, frame: FrameType | None) -> None:
        self._status = True
