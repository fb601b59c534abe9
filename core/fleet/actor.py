"""A replica in an actor of a Ray cluster, seen from inside: `replica.serve` in a thread, and two queues in place of a wire.

Neither Ray nor torch is imported with this file.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import orjson

from ..errors import ConfigError, ModelError
from ..parallel.wire import Closed, Wire
from ..parallel.worker import frame_of
from ..settings.config import EngineConfig
from ..settings.hardware import choose_kernels, instruction_set
from ..settings.threads import choose_threads
from ..weights.aliases import aliases
from .cluster import capacity_of, versions

#: Seconds that a call for frames waits where there are none: each costs the driver some work.
_PATIENCE = 10.0
#: Seconds between two calls that bring frames, at least: each costs driver and actor about a millisecond, whatever it brings, and an
#: engine has work for longer.
_PACE = 0.02


class Queues(Wire):
    """A wire whose other end is a method call."""

    def __init__(self) -> None:
        self.incoming: SimpleQueue[bytes] = SimpleQueue()
        self.outgoing: SimpleQueue[bytes] = SimpleQueue()

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        self.outgoing.put(data)

    def receive(self, *, timeout: float | None = None) -> bytes:
        return self.incoming.get(timeout=timeout)

    def close(self) -> None:
        """There is nothing to close."""


class Actor:
    """The class that Ray makes an actor of. Its methods run in several threads, in no order."""

    def __init__(self, log_level: int) -> None:
        logging.basicConfig(level=log_level)
        self._wire = Queues()
        self._lock = threading.Lock()
        self._early: dict[int, bytes] = {}
        self._next = 0
        self._heard = 0.0
        """time.monotonic() of the last call that brought frames."""

    def begin(self, payload: Mapping[str, Any], shipped: Mapping[str, Any] | None) -> str:
        """Begins to load the model, and says where: "process 12 on 10.0.0.3"."""
        # The engine may start processes, which end with the thread that did: this one lives as long as the actor.
        threading.Thread(target=self._run, args=(payload, shipped), daemon=True).start()
        return f"process {os.getpid()} on {_address()}"

    def tell(self, number: int, frame: bytes) -> None:
        """Takes a frame, the `number`th."""
        with self._lock:
            self._early[number] = frame
            while self._next in self._early:
                self._wire.incoming.put(self._early.pop(self._next))
                self._next += 1

    def hear(self) -> list[bytes]:
        """Frames of the replica, as soon as there are any; none after a while."""
        try:
            frames = [self._wire.outgoing.get(timeout=_PATIENCE)]
        except Empty:
            return []
        time.sleep(max(0.0, self._heard + _PACE - time.monotonic()))
        self._heard = time.monotonic()
        while not self._wire.outgoing.empty():
            frames.append(self._wire.outgoing.get())
        return frames

    def _run(self, payload: Mapping[str, Any], shipped: Mapping[str, Any] | None) -> None:
        try:
            from . import replica  # which imports torch: `begin` does not wait for that

            replica.serve(self._wire, _here(payload, shipped))
        except Closed:
            pass
        except BaseException as error:
            logging.getLogger("infer").debug("failed", exc_info=error)
            self._wire.send(orjson.dumps(frame_of(error)))


def _here(payload: Mapping[str, Any], shipped: Mapping[str, Any] | None) -> dict[str, Any]:
    """The payload of `replica.serve` on this node. Raises ConfigError where this node would compute other bytes, and ModelError where
    the model is not here."""
    if os.path.isdir(payload["folder"]):  # noqa: PTH112 (names in settings may be relative to it)
        os.chdir(payload["folder"])
    config = EngineConfig(**{**payload["config"], "notes": tuple(payload["config"]["notes"])})
    where = f"node {_address()}"
    for name, driver in payload["versions"].items():
        if (found := versions(media=True).get(name)) != driver:
            raise ConfigError(f"{where} has {name} {found}, and this machine has {driver}: install the same on all of them")
    config = _sized(config, payload)
    config = _with_model(config, shipped, where)
    kernels = choose_kernels(config.kernels, config.device, [], require=False, build=True)
    differing: tuple[tuple[str, Any, Any], ...] = (
        ("kernels", kernels, (config.kernels, config.kernel_build)),
        ("instruction set", instruction_set(config.device), payload["instruction_set"]),
    )
    for what, there, here in differing:
        if there != here:
            raise ConfigError(
                f"{where} differs from this machine ({what}: {there}, here {here}), so the same record could get other bytes there: "
                "take nodes of one kind, by --resources with a resource that only those have, and start the run on one of them"
            )
    return {"config": {**payload["config"], **_changed(payload["config"], config)}, "recipe": payload["recipe"]}


def _changed(before: Mapping[str, Any], config: EngineConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in before if name != "notes" and getattr(config, name) != before[name]}


def _sized(config: EngineConfig, payload: Mapping[str, Any]) -> EngineConfig:
    """Threads, and those that share the node's memory, on this node."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    here: dict[str, float] = next((one["Resources"] for one in ray.nodes() if one["NodeID"] == node), {})
    sharers = min(config.data_parallel_size, max(1, capacity_of(here, payload["resources"])))
    # Ray says in OMP_NUM_THREADS how many CPUs an actor was given.
    threads = config.threads if payload["threads_given"] else choose_threads(None).count
    lanes = min(config.lanes, threads) if config.lanes_always else 1
    device = config.device if config.device == "cpu" else f"{config.device.partition(':')[0]}:0"  # Ray shows an actor its own alone
    return replace(config, data_parallel_size=sharers, threads=threads, lanes=lanes, device=device, cpus=())


def _with_model(config: EngineConfig, shipped: Mapping[str, Any] | None, where: str) -> EngineConfig:
    """The configuration with the model of this node: shipped, or a short name that is fetched once."""
    if shipped is not None:
        from . import shipping

        path = shipping.unpack(shipped)
        tokenizer = path if config.tokenizer == config.model else config.tokenizer
        return replace(config, model=path, tokenizer=tokenizer)
    if (alias := aliases().get(config.model)) is not None:
        from ..weights.fetch import fetch

        try:
            fetch(alias, logging.getLogger("infer").info)
        except ModelError as error:
            raise ModelError(f"{where}: {error}; fetch it there by hand, or use --ship-model") from None
    elif "/" in config.model and os.path.isabs(config.model) and not os.path.exists(config.model):  # noqa: PTH110, PTH117
        raise ModelError(f"{where} has no {config.model!r}: give a path that all nodes see, or use --ship-model")
    return config


def _address() -> str:
    import ray

    try:
        return str(ray.util.get_node_ip_address())
    except Exception:
        return socket.gethostname()
