"""Progress: a bar on a terminal, else a line now and then. stderr only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import messages, streams

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

#: Seconds between refreshes of the bar.
_REFRESH = 0.1


class Progress:
    """
    Args:
        quiet: show nothing.
        interval: seconds between lines where there is no bar.
    """

    def __init__(self, *, quiet: bool, interval: float) -> None:
        self._quiet = quiet
        self._every = interval
        self._next = time.monotonic() + interval
        self._bar: _Bar | None = None

    def begin(self, *, bar: bool = True) -> bool:
        """From now on there is progress to show. Without `bar`, as lines even on a terminal. Returns whether there is a bar."""
        if bar and not self._quiet and streams.interactive() and not messages.is_json():
            self._bar = _Bar()
            self._every = _REFRESH
        self._next = time.monotonic() + self._every
        return self._bar is not None

    @property
    def has_bar(self) -> bool:
        """True between `begin` and `close` on a terminal."""
        return self._bar is not None

    def due(self) -> bool:
        """True if it is time to `show` again. Cheap."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return False
        self._next = now + self._every
        return True

    def show(self, text: str, done: float | None, **fields: Any) -> None:
        """The progress: for a person, as a share if that is known, and in numbers for programs."""
        if self._bar:
            self._bar.show(text, done)
        else:
            messages.say(text, event="progress", share=None if done is None else round(done, 4), **fields)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.close()
            self._bar = None


class _Bar:
    """One line at the bottom of a terminal, gone when closed. rich is imported here, so only for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=not streams.colored(), highlight=False, markup=False)
        columns = BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)
        self._progress: RichProgress = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task: TaskID = self._progress.add_task("starting", total=None)
        self._progress.start()

    def show(self, text: str, done: float | None) -> None:
        self._progress.update(self._task, description=text, total=None if done is None else 1.0, completed=done or 0.0, refresh=True)

    def close(self) -> None:
        self._progress.stop()
