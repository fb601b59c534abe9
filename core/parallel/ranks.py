"""Ranks as their parent sees them: started together, watched, ended together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from .. import errors
from ..errors import EngineError, InferError
from . import descriptors
from .children import environment, python_module, signals_kept_off
from .wire import LOST, Closed, Wire

log = logging.getLogger(__name__)

#: Seconds that processes get to end by themselves.
_GRACE = 1.0
#: Seconds to wait for word of why a process failed, once it is known that one did.
_ERROR_WAIT = 2.0


@dataclass(frozen=True)
class Worker:
    """One process and the wire to it."""

    name: str
    process: subprocess.Popen[bytes]
    wire: Wire

    def __str__(self) -> str:
        return f"{self.name} (process {self.process.pid})"

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None


class PeerLost(EngineError):
    """A process ended because another one did."""


class Ranks:
    """Processes that serve this one.

    Args:
        entry: the module they serve from (see `worker.Entry`).
        payloads: what each is told at the start, JSON-able.
        noun: what to call one in messages ("rank", "engine"); `first` is the first one's number.
        stall_timeout: seconds that one may keep this process waiting while it works.
        inherited: a descriptor that they get under the same number; it stays this process's to close.

    They end with this object, with `close`, and with this process.
    """

    def __init__(
        self,
        entry: str,
        payloads: Sequence[Mapping[str, Any]],
        *,
        noun: str,
        first: int = 0,
        stall_timeout: float | None = None,
        inherited: int | None = None,
    ) -> None:
        descriptors.open_missing()  # a socket that became descriptor 2 would be the processes' stderr
        self.stall_timeout = stall_timeout
        self.workers: list[Worker] = []
        self._lost_peers: set[str] = set()
        self._last: list[Callable[[], object]] = []
        self._finalizer = weakref.finalize(self, _end, self.workers, self._last)
        for number, payload in enumerate(payloads, first):
            worker = _start(f"{noun} {number}", inherited)
            self.workers.append(worker)
            level = logging.getLogger("infer").getEffectiveLevel()
            hello = {"entry": entry, "name": worker.name, "parent": os.getpid(), "log_level": level, "payload": payload}
            self._send(worker, lambda wire, hello=hello: wire.send_json(hello, timeout=self.stall_timeout))

    def at_end(self, act: Callable[[], object]) -> None:
        """Has something done when all have ended, however that comes about; what was given last is done first. It must not know this
        object, or that would not end."""
        self._last.append(act)

    def missing(self) -> str:
        """That one has ended, or ""."""
        return "a rank is gone" if any(worker.ended for worker in self.workers) else ""

    def send(self, data: bytes) -> None:
        """A frame to each. Raises EngineError if one is gone or does not take it."""
        for worker in self.workers:
            self._send(worker, lambda wire: wire.send(data, timeout=self.stall_timeout))

    def send_to(self, worker: Worker, data: bytes) -> None:
        """A frame to one of them."""
        self._send(worker, lambda wire: wire.send(data, timeout=self.stall_timeout))

    def receive_from(self, worker: Worker) -> bytes:
        """The next frame of one of them, which has begun to come."""
        try:
            data = worker.wire.receive(timeout=self.stall_timeout)
        except Closed:
            self.fail()
        except TimeoutError:
            self.stalled(worker)
        if data.startswith(b'{"error"'):
            self.close(grace=0)
            checked(orjson.loads(data))
        return data

    def send_json(self, value: Any) -> None:
        """Sends a JSON value to all, as `send` does."""
        self.send(orjson.dumps(value))

    def receive_json(self, *, timeout: float | None = None) -> list[Any]:
        """The next frame of each, in order. Raises what a process raised, EngineError if one is gone."""
        return [self._receive(worker, timeout) for worker in self.workers]

    def _send(self, worker: Worker, send: Any) -> None:
        try:
            send(worker.wire)
        except Closed:
            self.fail()
        except TimeoutError:
            self.stalled(worker)

    def _receive(self, worker: Worker, timeout: float | None) -> Any:
        try:
            return checked(worker.wire.receive_json(timeout=timeout))
        except Closed:
            self.fail()
        except TimeoutError:
            self.stalled(worker)

    def stalled(self, worker: Worker) -> NoReturn:
        """One of them does not answer: ends all."""
        self.close(grace=0)
        raise EngineError(f"{worker} does not answer ({self.stall_timeout:g} s are allowed: --stall-timeout){self._others}")

    def fail(self, cause: BaseException | None = None) -> NoReturn:
        """Working together failed: ends all, and raises what the one to blame raised, or an EngineError that names it."""
        deadline = time.monotonic() + _ERROR_WAIT
        error: InferError | None = None
        while error is None and time.monotonic() < deadline and not all(worker.ended for worker in self.workers):
            error = self._own_error()
            time.sleep(0.02)
        error = error or self._own_error() or EngineError(self._silent(cause))
        self.close(grace=0)
        raise error from cause

    def _own_error(self) -> InferError | None:
        """Of one that has ended by itself: first of those that were killed, since others end because of them."""
        suspects = [worker for worker in self.workers if worker.ended and worker.name not in self._lost_peers]
        for worker in sorted(suspects, key=lambda worker: worker.process.returncode):
            if worker.process.returncode < 0:
                return EngineError(f"{worker} {_how(worker.process.returncode)}{self._others}")
            try:
                while True:
                    checked(worker.wire.receive_json(timeout=0.1))
            except PeerLost:
                self._lost_peers.add(worker.name)
            except InferError as error:
                return error
            except (Closed, TimeoutError):
                return EngineError(f"{worker} {_how(worker.process.returncode)}{self._others}")
        return None

    def _silent(self, cause: BaseException | None) -> str:
        """Those who noticed that something is wrong have ended; who is left is what is wrong."""
        left = [str(worker) for worker in self.workers if not worker.ended]
        if not left:
            return f"the processes lost each other ({cause}); all were ended"
        names = " and ".join(left) + (" do" if len(left) > 1 else " does")
        return f"{names} not answer ({self.stall_timeout:g} s are allowed: --stall-timeout){self._others}"

    @property
    def _others(self) -> str:
        """The end of a message about one of several."""
        return "; all were ended" if len(self.workers) > 1 else ""

    def close(self, *, grace: float = _GRACE) -> None:
        """Ends all of them; those that do not within `grace` seconds are killed. May be called again."""
        if self._finalizer.alive:
            self._finalizer.detach()
            _end(self.workers, self._last, grace)


def _start(name: str, inherited: int | None) -> Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [*python_module("infer.core.parallel.worker"), str(theirs.fileno())]
        passed = [theirs.fileno(), *(() if inherited is None else (inherited,))]
        env = environment(GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
        try:
            with signals_kept_off():
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=passed, env=env)
        except OSError as error:
            ours.close()
            raise EngineError(f"{name} cannot be started: {error.strerror}") from None
    return Worker(name, process, Wire(ours))


def _end(workers: Sequence[Worker], last: Sequence[Callable[[], object]], grace: float = _GRACE) -> None:
    for worker in workers:
        worker.wire.close()
    deadline = time.monotonic() + grace
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
    for worker in workers:
        worker.process.wait()
    for act in reversed(last):
        try:
            act()
        except Exception as error:  # the others are to be done all the same
            log.debug("at the end of the processes: %s", error)


def checked(frame: Any) -> Any:
    """A frame from a process; raises the error it tells of."""
    if isinstance(frame, dict) and "error" in frame:
        if frame["kind"] == LOST:
            raise PeerLost(frame["error"])
        kind = getattr(errors, frame["kind"], EngineError)
        if not (isinstance(kind, type) and issubclass(kind, InferError)) or issubclass(kind, errors.RecordError):
            kind = EngineError
        raise kind(frame["error"])
    return frame


def _how(code: int) -> str:
    """The end of a process, in words."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = ": out of memory?" if name == "SIGKILL" else ""
    return f"was killed by {name}{more}"
