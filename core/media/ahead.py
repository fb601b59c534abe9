"""Ahead: media loaded by a few threads before they are asked for, in order, and never more than memory is set aside for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from ..types.media import MediaPart, Medium

#: Threads that read and decode; most of their time they wait for disks and hosts, and decoders let other threads run.
THREADS = 8
#: Media that are loaded or being loaded and were not asked for, and bytes of the loaded ones after which no more are begun.
_MOST, _MOST_BYTES = 2 * THREADS, 256 << 20


class _Job:
    """One part on its way."""

    __slots__ = ("done", "error", "is_wanted", "medium", "part")

    def __init__(self, part: MediaPart) -> None:
        self.part = part
        self.is_wanted = True
        self.medium: Medium | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()

    def run(self, load: Callable[[MediaPart], Medium]) -> None:
        try:
            self.medium = load(self.part)
        except BaseException as error:
            self.error = error
        self.done.set()


class Ahead:
    """Loads parts in their order while whoever asks for them does something else. `take` is for one thread at a time.

    Args:
        load: loads one; from several threads at once.
        parts: those that will be asked for, in this order, each once; some may be passed over.
    """

    def __init__(self, load: Callable[[MediaPart], Medium], parts: Iterable[MediaPart]) -> None:
        self._load = load
        self._waiting = deque(parts)
        self._begun: dict[int, _Job] = {}
        """By the part's id, in order."""
        self._todo: SimpleQueue[_Job | None] = SimpleQueue()
        self._num_threads = 0
        self._lock = threading.Lock()
        self._begin()

    def take(self, part: MediaPart) -> Medium:
        """The medium of one of the parts, or of another. Raises what loading it raised."""
        with self._lock:
            job = self._begun.get(id(part))
            while job is not None and (first := self._begun.pop(next(iter(self._begun)))) is not job:
                first.is_wanted = False  # it was passed over
        if job is None:
            return self._load(part)
        job.done.wait()
        self._begin()
        if job.error is not None:
            raise job.error
        assert job.medium is not None
        return job.medium

    def close(self) -> None:
        """Begins no more. What is being loaded goes on in threads that nobody waits for."""
        with self._lock:
            self._waiting.clear()
            for job in self._begun.values():
                job.is_wanted = False
            self._begun.clear()
        for _ in range(self._num_threads):
            self._todo.put(None)

    def _begin(self) -> None:
        """Begins to load as many as there is room for."""
        with self._lock:
            held = sum(job.medium.num_bytes for job in self._begun.values() if job.medium is not None)
            while self._waiting and len(self._begun) < _MOST and held < _MOST_BYTES:
                job = _Job(self._waiting.popleft())
                self._begun[id(job.part)] = job
                self._todo.put(job)
                if self._num_threads < THREADS:
                    self._num_threads += 1
                    threading.Thread(target=self._work, name=f"media-{self._num_threads}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            if job.is_wanted:
                job.run(self._load)
                self._begin()
