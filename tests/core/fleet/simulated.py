"""A transport whose replicas compute nothing: they answer in an order drawn at random, and are lost when a test says so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from infer.core.errors import EngineError
from infer.core.fleet import codec
from infer.core.fleet.replica import COUNTED
from infer.core.fleet.transport import Event, Lost, Ready, Said
from infer.core.types.outputs import CompletionOutput, RequestOutput


class FakeReplica:
    def __init__(self, number: int, life: int) -> None:
        self.number, self.life = number, life
        self.is_ready = False
        self.more = True
        self.has: dict[str, str] = {}
        self.answered = 0

    def __str__(self) -> str:
        return f"engine {self.number} (life {self.life})"


class Simulated:
    """See `Transport`.

    Args:
        deadly: the prompts, as text, that end a replica which begins with one.
        dies: called before each answer: true where the replica is lost with all it has.
        loads: called when a replica is to become ready: false where it is lost instead.
        silent: the numbers of replicas that never answer.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        deadly: Iterable[str] = (),
        dies: Callable[[FakeReplica], bool] = lambda _: False,
        loads: Callable[[FakeReplica], bool] = lambda _: True,
        silent: Iterable[int] = (),
        is_local: bool = True,
        blocks: Callable[[FakeReplica], int] = lambda _: 1000,
    ) -> None:
        self.is_local = is_local
        self.random = random.Random(seed)
        self.deadly, self.dies, self.loads, self.silent = set(deadly), dies, loads, set(silent)
        self.blocks = blocks
        self.replicas: list[FakeReplica] = []
        self.started = 0
        self.largest = 0
        """The most requests that a replica had at a time."""
        self.closed = False
        self.killed: list[FakeReplica] = []
        """Those that are to be lost next, whatever they do."""

    def start(self, number: int) -> FakeReplica:
        replica = FakeReplica(number, self.started)
        self.started += 1
        self.replicas.append(replica)
        return replica

    def send(self, replica: FakeReplica, frame: bytes) -> None:
        assert replica.is_ready
        (verb, value), requests = codec.unframe(frame)
        if verb == "more":
            replica.more = value
        elif verb == "abort":
            replica.has.pop(value, None)
        for name, encoded in requests:
            assert name not in replica.has
            replica.has[name] = codec.decode(encoded).prompt
        self.largest = max(self.largest, len(replica.has))

    def wait(self, timeout: float) -> list[Event]:
        assert not self.closed
        if self.killed:
            return [self._lost(self.killed.pop())]
        busy = [one for one in self.replicas if not one.is_ready or (one.has and one.number not in self.silent)]
        if not busy:
            return []
        replica = self.random.choice(busy)
        if not replica.is_ready:
            if not self.loads(replica):
                return [self._lost(replica)]
            replica.is_ready = True
            blocks = self.blocks(replica)
            return [Ready(replica, {"num_blocks": blocks, "num_states": 0, "vocab_size": 512, "weights": {}})]
        name = self.random.choice(list(replica.has))
        if replica.has[name] in self.deadly or self.dies(replica):
            return [self._lost(replica)]
        replica.answered += 1
        output = RequestOutput(name, None, [1], [CompletionOutput(0, replica.has.pop(name), [2])])
        numbers = [replica.answered] * len(COUNTED)
        return [Said(replica, codec.frame([numbers, 1.0, None], [(name, codec.dumps(output))]))]

    def end(self, replica: FakeReplica) -> None:
        self.replicas.remove(replica)

    def close(self) -> None:
        self.closed = True
        self.replicas.clear()

    def _lost(self, replica: FakeReplica) -> Lost:
        self.replicas.remove(replica)
        return Lost(replica, EngineError(f"{replica} was killed by SIGKILL"))
