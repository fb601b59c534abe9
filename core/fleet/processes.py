"""Replicas in processes of this machine, one or, where ranks share the model, several each."""

from __future__ import annotations

import selectors
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..errors import InferError
from ..parallel.ranks import Ranks
from .transport import Event, Lost, Ready, Said


class Process:
    """A replica: `Ranks` of one."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.worker = ranks.workers[0]
        self.descriptor = self.worker.wire.fileno()
        self.is_ready = False

    def __str__(self) -> str:
        return str(self.worker)


class Processes:
    """See `Transport`.

    Args:
        payloads: what each replica is told at its start, by number.
        stall_timeout: seconds that one may take to accept a frame, or to finish one it has begun.
    """

    is_local = True

    def __init__(self, payloads: Sequence[Mapping[str, Any]], *, stall_timeout: float) -> None:
        self._payloads = payloads
        self._stall_timeout = stall_timeout
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, Process] = {}
        """By the descriptor of the wire."""
        self._lost: list[Lost] = []
        """Those that were found to be gone when something was sent to them."""

    def start(self, number: int) -> Process:
        """Raises EngineError if there can be no such process."""
        ranks = Ranks("infer.core.fleet.replica", [self._payloads[number]], noun="engine", first=number, stall_timeout=self._stall_timeout)
        process = Process(ranks)
        self._processes[process.descriptor] = process
        self._selector.register(process.descriptor, selectors.EVENT_READ)
        return process

    def send(self, process: Process, frame: bytes) -> None:
        try:
            process.ranks.send(frame)
        except InferError as error:
            self._lose(process, error)

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = [*self._lost]
        self._lost.clear()
        for key, _ in self._selector.select(0 if events else timeout):
            process = self._processes[key.fd]
            try:
                frame = process.ranks.receive_from(process.worker)
            except InferError as error:
                self._forget(process)
                events.append(Lost(process, error))
                continue
            if process.is_ready:
                events.append(Said(process, frame))
            else:
                process.is_ready = True
                events.append(Ready(process, orjson.loads(frame)))
        return events

    def end(self, process: Process) -> None:
        self._forget(process)
        process.ranks.close(grace=0)

    def close(self) -> None:
        for process in self._processes.values():
            process.worker.wire.close()  # all end at the same time
        for process in self._processes.values():
            process.ranks.close()
        self._processes.clear()
        self._selector.close()

    def _lose(self, process: Process, error: InferError) -> None:
        self._forget(process)
        self._lost.append(Lost(process, error))

    def _forget(self, process: Process) -> None:
        if self._processes.pop(process.descriptor, None) is not None:
            self._selector.unregister(process.descriptor)
