"""The way between a fleet and its replicas: processes of this machine (processes.py), or actors of a Ray cluster (actors.py).

A fleet sends frames and is told what became of replicas; it does not know what a replica runs in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..errors import InferError

#: One engine, as the transport that started it knows it: hashable, and `str()` is its name in messages.
Replica: TypeAlias = Any


@dataclass(frozen=True)
class Ready:
    """A replica has loaded its model. `told` is its first frame, see `replica.serve`."""

    replica: Replica
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """A frame of a replica: counts and answers."""

    replica: Replica
    frame: bytes


@dataclass(frozen=True)
class Lost:
    """A replica is gone, and what it was asked with it. `error` says how: an EngineError where another one in its place may do better."""

    replica: Replica
    error: InferError


Event: TypeAlias = Ready | Said | Lost


class Transport(Protocol):
    """Starts replicas and carries frames. It ends what it has started when it is closed, and when this process ends, however that ends.

    Attributes:
        is_local: all replicas are on this machine: they are there at once or never, and their clock is this process's.
    """

    is_local: bool

    def start(self, number: int) -> Replica:
        """Begins to start the replica of a number, the first one or the next in its place; `wait` tells when it is ready."""

    def send(self, replica: Replica, frame: bytes) -> None:
        """A frame to a replica that is ready, in order. What goes wrong is told by `wait`."""

    def wait(self, timeout: float) -> Sequence[Event]:
        """The next events, as soon as there are any; none after `timeout` seconds. After `Lost` nothing comes of that replica."""

    def end(self, replica: Replica) -> None:
        """Ends a replica at once; `wait` tells nothing of it any more."""

    def close(self) -> None:
        """Ends all of them. May be called again."""
