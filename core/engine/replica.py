"""One of several engines that answer one job together; see fleet.py. It steps while it has work and listens while it steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..config import EngineConfig
from ..errors import RecordError
from ..outputs import RequestOutput
from ..parallel.wire import Closed, Wire
from ..pooling.recipe import Recipe
from ..pooling.request import Pooled, PoolingRequest
from . import codec
from .engine import Engine
from .files import find_model, find_tokenizer
from .request import Request

if TYPE_CHECKING:
    from ..pooling.engine import PoolingEngine

#: Seconds after which a replica that computes says that it is alive.
_HEARTBEAT = 1.0
#: What the fleet adds up of a replica's statistics.
COUNTED = ("num_prompt_tokens", "num_output_tokens", "num_cached_tokens", "num_steps", "num_preemptions", "peak_kv_blocks")
#: The same of an engine that pools.
COUNTED_OF_TEXTS = ("num_prompt_tokens", "num_cached_tokens", "num_steps", "num_texts", "num_duplicates")


def serve(wire: Wire, payload: Mapping[str, Any]) -> None:
    """Ends with Closed, when the fleet wants no more."""
    config = EngineConfig(**{**payload["config"], "notes": tuple(payload["config"]["notes"])})
    recipe = codec.loads(payload["recipe"].encode())
    engine = _engine(config, recipe)
    counted = COUNTED if recipe is None else COUNTED_OF_TEXTS
    wire.send_json({"num_blocks": engine.stats.num_kv_blocks, "vocab_size": engine.vocab_size})
    commands: SimpleQueue[Any] = SimpleQueue()
    # Frames are taken as they come: if both sides waited for the other to take theirs, both would wait for ever.
    threading.Thread(target=_listen, args=(wire, commands), daemon=True).start()
    said = time.monotonic()
    while True:
        outputs: list[Any] = []
        while not commands.empty() or not (engine.num_unfinished or outputs):
            outputs += _obey(engine, commands.get())
        if engine.num_unfinished:
            outputs += engine.step()
        if outputs or time.monotonic() > said + _HEARTBEAT:
            numbers = [getattr(engine.stats, name) for name in counted]
            wire.send(codec.dumps([outputs, numbers, engine.stats.first_token_at]))
            said = time.monotonic()


def _engine(config: EngineConfig, recipe: Recipe | None) -> Engine | PoolingEngine:
    source = find_model(config)
    if recipe is None:
        return Engine.create(config, source, find_tokenizer(config, source)[1])
    from ..pooling.engine import PoolingEngine

    return PoolingEngine.create(config, source, recipe)


def _listen(wire: Wire, commands: SimpleQueue[Any]) -> None:
    try:
        while True:
            commands.put(codec.loads(wire.receive()))
    except Closed as error:
        commands.put(error)


def _obey(engine: Any, command: Any) -> list[Any]:
    """Does what one frame says; gives the answers to requests that it refuses. Raises Closed where that is what was heard."""
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


def _add(engine: Any, request: Request | PoolingRequest) -> RequestOutput | Pooled | None:
    try:
        engine.add(request)
    except RecordError as error:
        if isinstance(request, PoolingRequest):
            return Pooled(request.request_id, error=error)
        return RequestOutput(request.request_id, request.prompt, request.prompt_token_ids, error=error)
    return None


def devices(config: EngineConfig) -> list[EngineConfig]:
    """The configuration of each replica: GPUs are taken in order, as many as it has ranks; cores are shared out."""
    count, ranks = config.data_parallel_size, config.tensor_parallel_size
    kind, _, first = config.device.partition(":")
    if kind == "cpu":
        return [replace(config, threads=max(1, config.threads // count))] * count
    return [replace(config, device=f"{kind}:{int(first or 0) + i * ranks}") for i in range(count)]
