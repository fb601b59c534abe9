"""Replicas in actors of a Ray cluster. They may come late and go at any time; Ray places them, the fleet replaces them."""

from __future__ import annotations

import atexit
import logging
import time
import weakref
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import ConfigError, EngineError, InferError
from ..parallel.ranks import checked
from ..settings.hardware import instruction_set
from ..weights.aliases import aliases
from . import codec, shipping
from .actor import Actor
from .cluster import connect, lacking, resources_of, shown, versions
from .transport import Event, Lost, Ready, Said

if TYPE_CHECKING:
    from ..build.plan import Plan

log = logging.getLogger(__name__)

#: Seconds after which it is said that replicas have not begun yet.
_PLACING = 60.0


class Remote:
    """A replica: an actor, which may have no place yet."""

    def __init__(self, number: int, handle: Any) -> None:
        self.number = number
        self.handle = handle
        self.place = ""
        """Where it runs; empty before it does."""
        self.is_ready = False
        self.is_over = False
        self.num_sent = 0

    def __str__(self) -> str:
        return f"engine {self.number} ({self.place or 'not placed'})"


class Actors:
    """See `Transport`.

    Raises ConfigError where there is no Ray or no cluster, and later where no node for a replica has come in `stall_timeout` seconds.
    """

    is_local = False

    def __init__(self, plan: Plan) -> None:
        config = plan.config
        self._ray, is_ours = connect(config.ray_address)
        self._remotes: dict[Remote, None] = {}
        self._finalizer = weakref.finalize(self, _end, self._ray, self._remotes, is_ours)
        atexit.register(self._finalizer)  # before Ray's own, which leaves nothing to be ended in good order
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            wanted = resources_of(config, nodes)
            self._lacking = lacking(nodes, wanted)
            self._shipped = shipping.pack(plan.source, with_code=config.trust_remote_code) if config.ship_model else None
        except BaseException:
            self.close()
            raise
        self._wanted = wanted
        level = logging.getLogger("infer").getEffectiveLevel()
        others = {name: count for name, count in wanted.items() if name not in ("CPU", "GPU", "memory")}
        options = {
            "num_cpus": wanted.get("CPU", 0),
            "num_gpus": wanted.get("GPU", 0),
            "resources": others,
            "max_restarts": 0,
            "max_concurrency": 4,
            "scheduling_strategy": "SPREAD",
            **({"memory": wanted["memory"]} if "memory" in wanted else {}),
        }
        self._new = lambda: self._ray.remote(Actor).options(**options).remote(level)
        self._payload = {
            "config": {**asdict(config), "model": _absolute(config.model), "tokenizer": _absolute(config.tokenizer)},
            "recipe": codec.dumps(plan.recipe).decode(),
            "resources": wanted,
            "threads_given": config.threads_given,
            "instruction_set": instruction_set(config.device),
            "versions": versions(media=plan.media_store is not None),
            "folder": str(Path.cwd()),
        }
        self._events: SimpleQueue[tuple[Remote, str, Any]] = SimpleQueue()
        """(replica, what was asked of it, the future with the result)"""
        self._begun = time.monotonic()
        self._has_said = False
        self._patience = config.stall_timeout
        if self._lacking:  # replicas are asked for all the same: that makes a cluster grow which can
            log.warning("%s; waiting %g s for one that has", self._lacking, self._patience)

    def start(self, number: int) -> Remote:
        remote = Remote(number, self._new())
        self._remotes[remote] = None
        self._follow(remote, "begin", remote.handle.begin.remote(self._payload, self._shipped))
        self._follow(remote, "hear", remote.handle.hear.remote())
        return remote

    def send(self, remote: Remote, frame: bytes) -> None:
        remote.handle.tell.remote(remote.num_sent, frame)  # an actor that is gone tells of it where it is listened to
        remote.num_sent += 1

    def wait(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        try:
            came = [self._events.get(timeout=timeout)]
            while not self._events.empty():
                came.append(self._events.get())
        except Empty:
            came = []
        for remote, asked, future in came:
            if not remote.is_over:
                events += self._read(remote, asked, future)
        self._say_who_waits()
        return events

    def end(self, remote: Remote) -> None:
        remote.is_over = True
        self._remotes.pop(remote, None)
        self._ray.kill(remote.handle, no_restart=True)

    def close(self) -> None:
        self._finalizer()
        atexit.unregister(self._finalizer)

    def _follow(self, remote: Remote, asked: str, reference: Any) -> None:
        reference.future().add_done_callback(lambda future, events=self._events: events.put((remote, asked, future)))

    def _read(self, remote: Remote, asked: str, future: Any) -> list[Event]:
        try:
            result = future.result()
        except Exception as error:  # Ray's, all of which mean that the actor is gone or cannot be reached
            self.end(remote)
            return [Lost(remote, _told(remote, error))]
        if asked == "begin":
            remote.place = result
            return []
        events: list[Event] = []
        for frame in result:
            if frame.startswith(b'{"error"'):
                self.end(remote)
                return [*events, Lost(remote, _raised(remote, frame))]
            if remote.is_ready:
                events.append(Said(remote, frame))
            else:
                remote.is_ready = True
                events.append(Ready(remote, orjson.loads(frame)))
        self._follow(remote, "hear", remote.handle.hear.remote())
        return events

    def _say_who_waits(self) -> None:
        """Says once that there may be no room for all. Raises ConfigError where there has never been room for one."""
        if self._lacking and any(one.place for one in self._remotes):
            self._lacking = ""
        if self._lacking and time.monotonic() - self._begun > self._patience:
            raise ConfigError(f"resources: {self._lacking}, and none has come: lower --resources, or start such a node first")
        if self._has_said or time.monotonic() - self._begun < _PLACING:
            return
        self._has_said = True
        if waiting := sum(not remote.place for remote in self._remotes):
            rest = "the run goes on with the others" if any(one.is_ready for one in self._remotes) else "the run waits for one"
            log.warning(
                "%d of %d engines have no place in the cluster yet (%s each); %s", waiting, len(self._remotes), shown(self._wanted), rest
            )


def _absolute(model: str) -> str:
    """A path as it is from any folder; a short name or a hub id as it is."""
    return str(Path(model).expanduser().absolute()) if model not in aliases() and Path(model).expanduser().exists() else model


def _told(remote: Remote, error: Exception) -> InferError:
    """How an actor ended, in one sentence."""
    text = str(error)
    if "No module named 'infer" in text:
        return ConfigError("infer cannot be imported on a node of the cluster: pip install 'infer-jsonl[ray]' on every node")
    if "node has died" in text or "node died" in text:
        return EngineError(f"{remote} was lost with its node")
    if type(error).__name__ == "OutOfMemoryError" or "running low on memory" in text:
        return EngineError(f"{remote} was ended because its node ran out of memory")
    if "Worker exit type" in text or "worker died unexpectedly" in text.lower() or "actor died unexpectedly" in text:
        return EngineError(f"{remote} was lost: its process was killed or crashed")
    if type(error).__name__ == "ActorUnavailableError":
        return EngineError(f"{remote} cannot be reached")
    last = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return EngineError(f"{remote} was lost ({last[:200]})")


def _raised(remote: Remote, frame: bytes) -> InferError:
    try:
        checked(orjson.loads(frame))
    except EngineError as error:
        return EngineError(f"{remote}: {error}")
    except InferError as error:
        return error
    raise AssertionError(frame)


def _end(ray: Any, remotes: dict[Remote, None], is_ours: bool) -> None:
    if not ray.is_initialized():  # then all have ended, and to ask for anything would connect anew
        return
    for remote in remotes:
        remote.is_over = True
        ray.kill(remote.handle, no_restart=True)
    remotes.clear()
    if is_ours:
        ray.shutdown()
