"""One of several engines that answer one job together; see fleet.py. It steps while it has work and listens while it steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from queue import Empty, SimpleQueue
from typing import Any

from ..build.engines import build
from ..build.files import find_model, find_tokenizer
from ..build.plan import Plan
from ..containment import own_error
from ..errors import RecordError
from ..parallel.wire import Wire
from ..pooling.recipe import Recipe
from ..settings.config import EngineConfig
from ..settings.threads import share_of
from ..types.outputs import RequestOutput
from ..types.pooling_request import Pooled
from ..types.request import Request
from . import codec
from .media import MARK, Asking

Answer = RequestOutput | Pooled

#: Seconds after which a replica that computes says that it is alive.
_HEARTBEAT = 1.0
#: What the fleet adds up of a replica's statistics.
COUNTED = (
    *("num_prompt_tokens", "num_output_tokens", "num_cached_tokens", "num_steps", "num_preemptions", "num_drafts", "num_accepted"),
    "num_media",
    *("peak_kv_blocks", "peak_states"),
)


def serve(wire: Wire, payload: Mapping[str, Any]) -> None:
    """Ends with Closed, when the fleet wants no more."""
    config = EngineConfig(**{**payload["config"], "notes": tuple(payload["config"]["notes"])})
    recipe = codec.loads(payload["recipe"].encode())
    plan = _plan(config, recipe)
    engine = build(plan)
    sending = threading.Lock()  # lanes may ask for media

    def say(outputs: list[Answer], wanted: bytes | None = None) -> None:
        numbers = [getattr(engine.stats, name) for name in COUNTED]
        answers = [(output.request_id, _encoded(output)) for output in outputs]
        with sending:
            wire.send(codec.frame([numbers, engine.stats.first_token_at, None if wanted is None else wanted.hex()], answers))

    asking = Asking(lambda key: say([], key))
    if (media := plan.media_store) is not None:
        media.load = asking.load
    wire.send_json(
        {
            "num_blocks": engine.stats.num_kv_blocks,
            "num_states": engine.stats.num_states,
            "vocab_size": engine.vocab_size,
            "weights": engine.stats.weights,
        }
    )
    commands: SimpleQueue[Any] = SimpleQueue()
    # Frames are taken as they come: if both sides waited for the other to take theirs, both would wait for ever.
    threading.Thread(target=_listen, args=(wire, commands, asking), daemon=True).start()
    said = time.monotonic()
    while True:
        outputs: list[Answer] = []
        while not commands.empty() or not (engine.num_unfinished or outputs):
            try:
                command = commands.get(timeout=_HEARTBEAT)
            except Empty:
                engine.check()
            else:
                outputs += _obey(engine, command, pools=recipe is not None)
        if engine.num_unfinished:
            outputs += engine.step()
        if outputs or time.monotonic() > said + _HEARTBEAT:
            say(outputs)
            said = time.monotonic()


def _plan(config: EngineConfig, recipe: Recipe | None) -> Plan:
    source = find_model(config)
    tokenizer_source, tokenizer = (source, None) if recipe else find_tokenizer(config, source)  # texts that are pooled come as ids
    return Plan(config, source, tokenizer, tokenizer_source, recipe)


def _listen(wire: Wire, commands: SimpleQueue[Any], asking: Asking) -> None:
    try:
        while True:
            frame = wire.receive()
            if frame.startswith(MARK):
                asking.take(frame)
            else:
                commands.put(codec.unframe(frame))
    except BaseException as error:  # Closed, mostly: who obeys is to know, and who waits
        commands.put(error)
        asking.take(error)


def _obey(engine: Any, command: Any, *, pools: bool) -> list[Answer]:
    """Does what one frame says; gives the answers to requests that it refuses. Raises what was heard in place of one (Closed)."""
    if isinstance(command, BaseException):
        raise command
    (verb, value), requests = command
    if verb == "more":
        engine.expect_more(value)
    elif verb == "abort" and engine.is_open(value):
        engine.abort(value)
    elif verb == "reset":
        engine.reset_prefix_cache()
    return [refused for name, encoded in requests if (refused := _add(engine, name, encoded, pools=pools)) is not None]


def _add(engine: Any, request_id: str, encoded: Any, *, pools: bool) -> Answer | None:
    request = None
    try:
        request = codec.decode(encoded)
        engine.add(request)
    except BaseException as error:
        refused = failure(request_id, own_error(error, f"request {request_id}"), pools=pools)
        if isinstance(request, Request) and isinstance(refused, RequestOutput):
            refused.prompt, refused.prompt_token_ids = request.prompt, request.prompt_token_ids
        return refused
    return None


def _encoded(output: Answer) -> bytes:
    try:
        return codec.dumps(output)
    except BaseException as error:
        error = own_error(error, f"request {output.request_id}")
        return codec.dumps(failure(output.request_id, error, pools=isinstance(output, Pooled)))


def failure(request_id: str, error: RecordError, *, pools: bool) -> Answer:
    """The answer to a request that has none."""
    return Pooled(request_id, error=error) if pools else RequestOutput(request_id, None, [], error=error)


def _lanes(config: EngineConfig) -> int:
    """Of each replica: replicas are lanes of a kind already."""
    return max(1, config.lanes // config.data_parallel_size) if config.lanes_always else 1


def payloads(config: EngineConfig, recipe: Recipe | None) -> list[dict[str, Any]]:
    """What each replica on this machine is told at its start, see `serve`."""
    return [{"config": asdict(one), "recipe": codec.dumps(recipe).decode()} for one in devices(config)]


def devices(config: EngineConfig) -> list[EngineConfig]:
    """The configuration of each replica: GPUs are taken in order, as many as it has ranks; cores are shared out."""
    count, ranks = config.data_parallel_size, config.num_ranks
    kind, _, first = config.device.partition(":")
    if kind == "cpu":
        each, lanes = max(1, config.threads // count), _lanes(config)
        return [replace(config, threads=each, lanes=lanes, cpus=share_of(config.cpus, each, i)) for i in range(count)]
    return [replace(config, device=f"{kind}:{int(first or 0) + i * ranks}") for i in range(count)]
