"""Several engines, each in a process of its own, that look like one: data parallel.

Requests go to the engine that has least to do, answers come back as they finish; the job's writer puts them in order. What a
request gets does not depend on which engine it meets, nor on what else that one does.
"""

from __future__ import annotations

import select
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..containment import own_error
from ..engine.limits import Limits
from ..engine.stats import EngineStats
from ..errors import RecordError
from ..parallel.ranks import Ranks, Worker
from ..pooling.limits import PoolingLimits
from ..pooling.recipe import Recipe
from ..settings.config import EngineConfig
from ..types.pooling_request import PoolingRequest
from ..types.request import Request
from . import codec
from .replica import COUNTED, devices, failure

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Sequences that wait in an engine for each one that it can run: enough to choose from.
_AHEAD = 2
#: Requests in one frame.
_FRAME = 64


class Fleet:
    """The interface of `Engine` that jobs and `LLM` use. Raises EngineError when one of the engines is lost.

    Args:
        tokenizer: what requests that generate are checked with.
        recipe: how the model pools; None: it generates.

    Attributes:
        max_num_seqs: of all engines together.
    """

    def __init__(self, config: EngineConfig, tokenizer: Tokenizer | None = None, *, recipe: Recipe | None = None) -> None:
        self.config = config
        self.recipe = recipe
        self.max_model_len = config.max_model_len
        self.max_num_seqs = config.max_num_seqs * config.data_parallel_size
        payloads = [{"config": asdict(one), "recipe": codec.dumps(recipe).decode()} for one in devices(config)]
        self._ranks = Ranks("infer.core.fleet.replica", payloads, noun="engine", stall_timeout=config.stall_timeout)
        told = self._ranks.receive_json()
        self.vocab_size = told[0]["vocab_size"]
        blocks = [one["num_blocks"] for one in told]  # none where texts are pooled
        self.stats = EngineStats(num_kv_blocks=sum(blocks), num_states=sum(one["num_states"] for one in told))
        self.stats.weights = told[0]["weights"]
        self._limits: Limits | PoolingLimits
        if recipe is None:
            self._limits = Limits.of(config, self.vocab_size, min(blocks), tokenizer)
        else:
            self._limits = PoolingLimits(self.vocab_size, config.max_model_len, recipe)
        self._queue: deque[tuple[str, bytes]] = deque()
        """Requests that were not sent yet, encoded."""
        self._at: dict[str, Worker] = {}
        """The engines that the sent requests are with."""
        self._loads: dict[str, int] = {worker.name: 0 for worker in self._ranks.workers}
        """Sequences that each engine has."""
        self._weights: dict[str, int] = {}
        self._numbers: dict[str, list[int]] = {}
        self._heard: dict[str, float] = {}
        self._more = self._told = True
        """(more requests may come, as far as is known here; what the engines were told of it)"""

    def add(self, request: Any) -> None:
        """Queues a Request, or a PoolingRequest where the engines pool. Raises RecordError for one that no engine could answer, or that
        cannot be sent to one; nothing is then left of it."""
        self._limits.check(request)
        try:
            encoded = codec.dumps(request)
        except TypeError as error:
            raise RecordError("unsupported", f"{error}; leave data_parallel_size at 1") from None
        self._weights[request.request_id] = _weight(request)
        self._queue.append((request.request_id, encoded))

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""
        weight = self._weights.pop(request_id)
        worker = self._at.pop(request_id, None)
        if worker is None:
            self._queue = deque((name, encoded) for name, encoded in self._queue if name != request_id)
        else:
            self._loads[worker.name] -= weight
            self._ranks.send_to(worker, codec.frame(["abort", request_id]))

    def is_open(self, request_id: str) -> bool:
        """True if the request was added and is not answered."""
        return request_id in self._weights

    def expect_more(self, more: bool) -> None:
        """As in `Engine`."""
        self._more = more

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""
        return len(self._weights)

    @property
    def num_waiting(self) -> int:
        """Sequences that no engine can have begun with."""
        queued = sum(self._weights[request_id] for request_id, _ in self._queue)
        return queued + sum(max(0, load - self.config.max_num_seqs) for load in self._loads.values())

    def step(self) -> list[Any]:
        """Shares out what is queued and waits for the next answers."""
        self._share_out()
        busy = {worker.wire.fileno(): worker for worker in self._ranks.workers if self._loads[worker.name]}
        assert busy, "there is nothing to wait for"
        ready, _, _ = select.select(list(busy), [], [], min(1.0, self.config.stall_timeout))
        outputs: list[Any] = []
        now = time.monotonic()
        for number, worker in busy.items():
            if number in ready:
                outputs += self._hear(worker)
                self._heard[worker.name] = now
            elif now - self._heard.setdefault(worker.name, now) > self.config.stall_timeout:
                self._ranks.stalled(worker)
        return outputs

    def reset_prefix_cache(self) -> bool:
        """As in `Engine`. Engines obey in order, so what is added afterwards finds nothing."""
        if self._weights:
            return False
        self._ranks.send(codec.frame(["reset", None]))
        return True

    def close(self) -> None:
        """Ends the engines."""
        self._ranks.close()

    def _share_out(self) -> None:
        most = self.config.max_num_seqs * (1 + _AHEAD)
        while self._queue:
            worker = min(self._ranks.workers, key=lambda worker: self._loads[worker.name])
            if self._loads[worker.name] >= most:
                break
            # As many at a time as keep the engines level; never so many that the last of a job all meet one of them.
            level = -(-len(self._queue) // len(self._ranks.workers))
            frame: list[tuple[str, bytes]] = []
            while self._queue and len(frame) < min(level, _FRAME) and self._loads[worker.name] < most:
                request_id, encoded = self._queue.popleft()
                self._at[request_id] = worker
                self._loads[worker.name] += self._weights[request_id]
                frame.append((request_id, encoded))
            self._heard[worker.name] = time.monotonic()
            self._ranks.send_to(worker, codec.frame(["add", None], frame))
        more = self._more or bool(self._queue)
        if more != self._told:
            self._ranks.send(codec.frame(["more", more]))
            self._told = more

    def _hear(self, worker: Worker) -> list[Any]:
        (numbers, first), outputs = codec.unframe(self._ranks.receive_from(worker))
        self._numbers[worker.name] = numbers
        for name, values in zip(COUNTED, zip(*self._numbers.values(), strict=True), strict=True):
            setattr(self.stats, name, sum(values))
        if first is not None:
            self.stats.first_token_at = min(first, self.stats.first_token_at or first)
        wanted = []
        for request_id, encoded in outputs:
            if self._at.pop(request_id, None) is not None:  # else it was aborted meanwhile
                self._loads[worker.name] -= self._weights.pop(request_id)
                wanted.append(self._decoded(request_id, encoded))
        return wanted

    def _decoded(self, request_id: str, encoded: Any) -> Any:
        try:
            return codec.decode(encoded)
        except BaseException as error:
            return failure(request_id, own_error(error, f"request {request_id}"), pools=self.recipe is not None)


def _weight(request: Request | PoolingRequest) -> int:
    """The sequences, or texts, that it is."""
    if isinstance(request, PoolingRequest):
        return len(request.texts)
    return request.params.num_choices if request.beam is None else request.beam.beam_width
