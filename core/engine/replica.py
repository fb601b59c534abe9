"""One of several engines that answer one job together; see fleet.py. It steps while it has work and listens while it steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from ..config import EngineConfig
from ..errors import RecordError
from ..outputs import RequestOutput
from ..parallel.wire import Closed, Wire
from . import codec
from .engine import Engine
from .files import find_model, find_tokenizer
from .request import Request

#: Seconds after which a replica that computes says that it is alive.
_HEARTBEAT = 1.0
#: What the fleet adds up of a replica's statistics.
COUNTED = ("num_prompt_tokens", "num_output_tokens", "num_cached_tokens", "num_steps", "num_preemptions", "num_kv_blocks", "peak_kv_blocks")


def serve(wire: Wire, payload: Mapping[str, Any]) -> None:
    """Ends with Closed, when the fleet wants no more."""
    config = EngineConfig(**{**payload["config"], "notes": tuple(payload["config"]["notes"])})
    source = find_model(config)
    _, tokenizer = find_tokenizer(config, source)
    engine = Engine.create(config, source, tokenizer)
    wire.send_json({"num_blocks": engine.stats.num_kv_blocks, "vocab_size": engine.vocab_size})
    commands: SimpleQueue[Any] = SimpleQueue()
    # Frames are taken as they come: if both sides waited for the other to take theirs, both would wait for ever.
    threading.Thread(target=_listen, args=(wire, commands), daemon=True).start()
    said = time.monotonic()
    while True:
        outputs: list[RequestOutput] = []
        while not commands.empty() or not (engine.num_unfinished or outputs):
            outputs += _obey(engine, commands.get())
        if engine.num_unfinished:
            outputs += engine.step()
        if outputs or time.monotonic() > said + _HEARTBEAT:
            numbers = [getattr(engine.stats, name) for name in COUNTED]
            wire.send(codec.dumps([outputs, numbers, engine.stats.first_token_at]))
            said = time.monotonic()


def _listen(wire: Wire, commands: SimpleQueue[Any]) -> None:
    try:
        while True:
            commands.put(codec.loads(wire.receive()))
    except Closed as error:
        commands.put(error)


def _obey(engine: Engine, command: Any) -> list[RequestOutput]:
    """Does what one frame says; gives the requests that it refuses. Raises Closed where that is what was heard."""
    if isinstance(command, Closed):
        raise command
    verb, value = command
    if verb == "add":
        return [refused for request in value if (refused := _add(engine, request)) is not None]
    if verb == "more":
        engine.expect_more(value)
    elif verb == "abort" and engine.is_open(value):
        engine.abort(value)
    return []


def _add(engine: Engine, request: Request) -> RequestOutput | None:
    try:
        engine.add(request)
    except RecordError as error:
        return RequestOutput(request.request_id, request.prompt, request.prompt_token_ids, error=error)
    return None


def devices(config: EngineConfig) -> list[EngineConfig]:
    """The configuration of each replica: GPUs are taken in order, as many as it has ranks; cores are shared out."""
    count, ranks = config.data_parallel_size, config.tensor_parallel_size
    kind, _, first = config.device.partition(":")
    if kind == "cpu":
        return [replace(config, threads=max(1, config.threads // count))] * count
    return [replace(config, device=f"{kind}:{int(first or 0) + i * ranks}") for i in range(count)]
