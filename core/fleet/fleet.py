"""Several engines that look like one: data parallel, on one machine or on many.

Requests go to the engine that has least to do, answers come back as they finish; the job's writer puts them in order. What a
request gets does not depend on which engine it meets, nor on what else that one does; so where one is lost, another takes its place
and is asked the same again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..containment import own_error
from ..engine.limits import Limits
from ..engine.stats import EngineStats
from ..errors import EngineError, InferError, RecordError
from ..pooling.limits import PoolingLimits
from ..pooling.recipe import Recipe
from ..settings.config import EngineConfig
from ..types.media import Medium
from ..types.pooling_request import PoolingRequest
from ..types.request import Request
from . import codec
from .loads import Loads
from .media import frame_of, of_key
from .member import Asked, Member
from .replica import COUNTED, failure
from .transport import Event, Lost, Ready, Replica, Said, Transport
from .trials import Trials

if TYPE_CHECKING:
    from ..media.store import MediaStore
    from ..text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

#: Sequences that wait in an engine for each one that it can run: enough to choose from.
_AHEAD = 2
#: Sequences that an engine is given in any case: a step of so many takes about as long as one of fewer.
_FEW = 16
#: Requests in one frame.
_FRAME = 64
#: Replicas of one number that are lost in a row, with no answer in between, until none is started in their place.
_IN_A_ROW = 3
#: What of COUNTED is of a replica as it is, and is no work that was done.
_PEAKS = tuple(i for i, name in enumerate(COUNTED) if name.startswith("peak_"))


class Fleet:
    """The interface of `Engine` that jobs and `LLM` use.

    A replica that is lost (killed, out of memory, its machine gone, silent for `stall_timeout`) is replaced and what it was asked is asked
    again. A request that was there when two were lost is tried apart from others, among fewer and fewer; what ends replicas alone is
    answered with an error. Raises EngineError once more than `max_restarts` were lost, or each three times in a row without an answer.

    Args:
        transport: starts the replicas.
        tokenizer: what requests that generate are checked with.
        recipe: how the model pools; None: it generates.
        media: reads the media that replicas ask for; None: prompts have none.

    Attributes:
        max_num_seqs: of all engines together.
    """

    def __init__(
        self,
        config: EngineConfig,
        transport: Transport,
        tokenizer: Tokenizer | None = None,
        *,
        recipe: Recipe | None = None,
        media: MediaStore | None = None,
    ) -> None:
        self.config = config
        self.recipe = recipe
        self._media = media
        self.max_model_len = config.max_model_len
        self.max_num_seqs = config.max_num_seqs * config.data_parallel_size
        self.stats = EngineStats()
        self.num_lost = 0
        """Replicas that were lost."""
        self._transport = transport
        self._requests: dict[str, Asked] = {}
        """Those that are not answered."""
        self._queue: deque[str] = deque()
        """Those that no replica has, and names of others that were in it."""
        self._num_queued = self._num_behind = 0
        """Sequences in the queue, and those that wait in replicas that have more than they can run."""
        self._trials = Trials()
        self._more = self._told = True
        """(more requests may come, as far as is known here; what the replicas were told of it)"""
        self._members: dict[Replica, Member] = {}
        self._loads = Loads()
        self._watched = 0.0
        """time.monotonic() of the last look for replicas that say nothing."""
        self._promised: int | None = None
        """KV blocks that requests are checked against; None where texts are pooled."""
        self._over: InferError | None = None
        """The reason why there is no fleet any more."""
        try:
            for number in range(config.data_parallel_size):
                self._start(number)
            self._await_first()
        except BaseException:
            self.close()
            raise
        ready = [member for member in self._members.values() if member.is_ready]
        self._limits: Limits | PoolingLimits
        if recipe is None:
            self._promised = min(member.num_blocks for member in ready)
            self._limits = Limits.of(config, self.vocab_size, self._promised, tokenizer)
        else:
            self._limits = PoolingLimits(self.vocab_size, config.max_model_len, recipe)

    # -- what an engine does ------------------------------------------------------------------------------------
    def add(self, request: Any) -> None:
        """Queues a Request, or a PoolingRequest where the engines pool. Raises RecordError for one that no engine could answer, or that
        cannot be sent to one; nothing is then left of it."""
        self._limits.check(request)
        try:
            encoded = codec.dumps(request)
        except TypeError as error:
            raise RecordError("unsupported", f"{error}; leave data_parallel_size at 1") from None
        if isinstance(request, Request):
            media = request.media
        else:
            media = tuple(text.image for text in request.texts if text.image is not None)
        asked = Asked(encoded, _weight(request), media=media)
        self._requests[request.request_id] = asked
        if isinstance(request, Request) and request.goes_on:
            self._queue.appendleft(request.request_id)
        else:
            self._queue.append(request.request_id)
        self._num_queued += asked.weight

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""
        asked = self._requests.pop(request_id)
        if asked.member is None:
            self._num_queued -= asked.weight
        else:
            member = asked.member
            self._take_back(member, request_id, asked)
            self._transport.send(member.replica, codec.frame(["abort", request_id]))

    def is_open(self, request_id: str) -> bool:
        """True if the request was added and is not answered."""
        return request_id in self._requests

    def expect_more(self, more: bool) -> None:
        """As in `Engine`."""
        self._more = more

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Sequences that no engine can have begun with."""
        return self._num_queued + self._num_behind

    def step(self) -> list[Any]:
        """Shares out what is queued and waits for the next answers."""
        assert self._requests, "there is nothing to wait for"
        return self._advance(min(1.0, self.config.stall_timeout))

    def check(self) -> None:
        """As in `Engine`: a replica that was lost while it had nothing to do is replaced before it has."""
        self._advance(0.0)

    def _advance(self, seconds: float) -> list[Any]:
        outputs: list[Any] = []
        try:
            if self._over is None:
                self._share_out()
                for event in self._transport.wait(seconds):
                    outputs += self._take(event)
                outputs += self._end_stalled()
        except InferError as error:
            self.close()
            self._over = error
        if self._over is not None and not outputs:
            raise self._over  # what had been answered by then was given before
        return outputs

    def reset_prefix_cache(self) -> bool:
        """As in `Engine`. Engines obey in order, so what is added afterwards finds nothing."""
        if self._requests:
            return False
        self._tell_all(["reset", None])
        return True

    def close(self) -> None:
        """Ends the engines."""
        self._transport.close()

    # -- requests to replicas -----------------------------------------------------------------------------------
    def _share_out(self) -> None:
        if trial := self._trials.next(self._loads, self._requests.__contains__):
            self._give(*trial)
        most = self._most_of_each()
        while self._queue:
            member = self._loads.least()
            if member is None or member.load >= most:
                break
            # As many at a time as keep the engines level; never so many that the last of a job all meet one of them.
            level = -(-len(self._queue) // len(self._loads))
            names: list[str] = []
            room = most - member.load
            while self._queue and len(names) < min(level, _FRAME) and room > 0:
                name = self._queue.popleft()
                asked = self._requests.get(name)
                if asked is not None and asked.member is None:
                    names.append(name)
                    room -= asked.weight
            self._give(member, names)
        more = self._more or bool(self._num_queued)
        if more != self._told:
            self._told = more
            self._tell_all(["more", more])

    def _most_of_each(self) -> int:
        """Sequences that an engine may be given: while others start, they are left their part of a small job."""
        most, count = self.config.max_num_seqs * (1 + _AHEAD), len(self._members)
        if len(self._loads) == count:
            return most
        known = self._num_queued + sum(member.load for member in self._members.values())
        return min(most, max(_FEW, -(-known // count)))

    def _give(self, member: Member, names: Sequence[str]) -> None:
        if not names:
            return
        if not member.load:
            member.heard = time.monotonic()
        frame: list[tuple[str, bytes]] = []
        weight = 0
        for name in names:
            asked = self._requests[name]
            asked.member = member
            member.requests[name] = None
            weight += asked.weight
            frame.append((name, asked.encoded))
        self._num_queued -= weight
        self._shift(member, weight)
        self._transport.send(member.replica, codec.frame(["add", None], frame))

    def _shift(self, member: Member, weight: int) -> None:
        """Counts sequences that a replica has more, or fewer."""
        most = self.config.max_num_seqs
        self._num_behind += max(0, member.load + weight - most) - max(0, member.load - most)
        member.load += weight
        if member.is_ready and member is not self._trials.apart:
            self._loads.note(member)

    def _take_back(self, member: Member, request_id: str, asked: Asked) -> None:
        """Counts a request that a replica has no longer."""
        asked.member = None
        del member.requests[request_id]
        self._shift(member, -asked.weight)

    def _tell_all(self, head: Any) -> None:
        for member in self._members.values():
            if member.is_ready:
                self._transport.send(member.replica, codec.frame(head))

    # -- what comes of replicas ---------------------------------------------------------------------------------
    def _take(self, event: Event) -> list[Any]:
        """Answers that an event brings."""
        member = self._members.get(event.replica)
        if member is None:  # it was ended meanwhile
            return []
        member.heard = time.monotonic()
        if isinstance(event, Said):
            return self._hear(member, event.frame)
        if isinstance(event, Ready):
            self._welcome(member, event)
            return []
        return self._lose(member, event.error)

    def _hear(self, member: Member, frame: bytes) -> list[Any]:
        (numbers, first, key), outputs = codec.unframe(frame)
        self._count(member, numbers)
        if key is not None:
            self._show(member, bytes.fromhex(key))
        if first is not None:
            if not self._transport.is_local:  # it has another clock
                first = self.stats.first_token_at or member.heard
            self.stats.first_token_at = min(first, self.stats.first_token_at or first)
        wanted = []
        for request_id, encoded in outputs:
            if request_id in member.requests:  # else it was aborted meanwhile
                self._take_back(member, request_id, self._requests.pop(request_id))
                wanted.append(self._decoded(request_id, encoded))
        if outputs:
            member.num_lost = 0
        return wanted

    def _show(self, member: Member, key: bytes) -> None:
        """Sends a medium that a replica asks for, as one of its requests names it."""
        told: Medium | RecordError
        try:
            placed = of_key((one for name in member.requests for one in self._requests[name].media), key)
            if placed is None or self._media is None:
                raise RecordError("media_error", "no request has it any more")
            told = self._media.again(placed)
        except BaseException as error:
            told = own_error(error, "a medium")
        self._transport.send(member.replica, frame_of(key, told))

    def _count(self, member: Member, numbers: list[int]) -> None:
        for name, before, now in zip(COUNTED, member.numbers, numbers, strict=True):
            if now != before:
                setattr(self.stats, name, getattr(self.stats, name) + now - before)
        member.numbers = numbers

    def _decoded(self, request_id: str, encoded: Any) -> Any:
        try:
            return codec.decode(encoded)
        except BaseException as error:
            return failure(request_id, own_error(error, f"request {request_id}"), pools=self.recipe is not None)

    # -- replicas that come and go ------------------------------------------------------------------------------
    def _start(self, number: int, num_lost: int = 0) -> None:
        replica = self._transport.start(number)
        self._members[replica] = Member(replica, number, num_lost=num_lost)

    def _await_first(self) -> None:
        """Waits until there are replicas to begin with. Raises what any raised instead; where they are of this machine all are waited for,
        and one that is lost is not replaced: the next would meet the same."""
        wanted = self.config.data_parallel_size if self._transport.is_local else 1
        while sum(member.is_ready for member in self._members.values()) < wanted:
            for event in self._transport.wait(1.0):
                if isinstance(event, Lost) and self._transport.is_local:
                    raise event.error
                self._take(event)

    def _welcome(self, member: Member, event: Ready) -> None:
        told = event.told
        if self._is_too_small(told["num_blocks"]):
            room = told["num_blocks"] * self.config.block_size
            log.warning("%s has memory for %d tokens, less than requests were promised, and is left out", member.replica, room)
            self._transport.end(member.replica)
            del self._members[member.replica]
            if not self._members:
                raise EngineError(
                    f"{member.replica} has memory for {room} tokens, less than the engine before it; give --kv-cache-memory-bytes"
                )
            return
        is_first = not any(other.is_ready for other in self._members.values())
        if is_first:
            self.vocab_size: int = told["vocab_size"]
            self.stats.weights = told["weights"]
        member.is_ready, member.num_blocks, member.num_states = True, told["num_blocks"], told["num_states"]
        self.stats.num_kv_blocks += member.num_blocks
        self.stats.num_states += member.num_states
        self._loads.note(member)
        if not self._told:
            self._transport.send(member.replica, codec.frame(["more", False]))

    def _is_too_small(self, num_blocks: int) -> bool:
        """True of a KV cache in which a request that was accepted may not fit."""
        promised = self._promised
        return promised is not None and num_blocks < promised and num_blocks * self.config.block_size < self.max_model_len

    def _end_stalled(self) -> list[Any]:
        """Ends replicas that have work and say nothing; looks once a second."""
        now = time.monotonic()
        if now - self._watched < min(1.0, self.config.stall_timeout):
            return []
        self._watched = now
        limit = self.config.stall_timeout
        outputs: list[Any] = []
        for member in [one for one in self._members.values() if one.load and now - one.heard > limit]:
            self._transport.end(member.replica)
            outputs += self._lose(member, EngineError(f"{member.replica} does not answer ({limit:g} s are allowed: --stall-timeout)"))
        return outputs

    def _lose(self, member: Member, error: InferError) -> list[Any]:
        """Starts another replica in the place of one that is gone and queues what it had; the answers to what is not asked again. Raises
        EngineError where it is not replaced and none is left, and what another one would raise too."""
        del self._members[member.replica]
        self._loads.drop(member)
        member.is_ready = False
        self._count(member, [0 if i in _PEAKS else count for i, count in enumerate(member.numbers)])
        self.stats.num_kv_blocks -= member.num_blocks
        self.stats.num_states -= member.num_states
        self.num_lost += 1
        self._check_restarts(error)
        had = len(member.requests)
        refused = self._ask_again(member, error)
        num_lost = member.num_lost + (not member.is_on_trial)
        again = f"; {_counted(had - len(refused), 'request')} of it will be asked again" if had > len(refused) else ""
        if num_lost < _IN_A_ROW:
            log.warning("%s; another engine is started in its place%s", error, again)
            self._start(member.number, num_lost)
        elif self._members:
            left = _counted(len(self._members), "engine")
            log.warning("%s; %d in its place were lost in a row with no answer, so the run goes on with %s%s", error, num_lost, left, again)
        else:
            raise EngineError(f"{error}; no engine is left: each was lost {num_lost} times in a row with no answer")
        return refused

    def _check_restarts(self, error: InferError) -> None:
        """Raises what ends the run."""
        if not isinstance(error, EngineError):
            raise error
        allowed = self.config.max_restarts
        if self.num_lost > allowed:
            times = "" if not allowed else f"; {self.num_lost} engines were lost in this run, and --max-restarts allows {allowed}"
            raise EngineError(f"{error}{times}")

    def _ask_again(self, member: Member, error: InferError) -> list[Any]:
        """Queues the requests of a replica that is gone; the answers to those that are not asked again."""
        names = list(member.requests)
        for name in names:
            asked = self._requests[name]
            asked.member = None
            self._num_queued += asked.weight
        again, guilty = self._trials.judge(names, self._requests, member)
        self._shift(member, -member.load)
        member.requests.clear()
        self._queue.extendleft(reversed(again))
        return [self._refused(name, self._requests.pop(name), error) for name in guilty]

    def _refused(self, name: str, asked: Asked, error: InferError) -> Any:
        self._num_queued -= asked.weight
        reason = RecordError(
            "internal",
            f"{asked.num_lost} engines were lost while they had this record, {asked.num_lost_alone} of them with no other: {error}",
            retryable=True,
        )
        log.warning("request %s: %s", name, reason)
        return failure(name, reason, pools=self.recipe is not None)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _weight(request: Request | PoolingRequest) -> int:
    """The sequences, or texts, that it is."""
    if isinstance(request, PoolingRequest):
        return len(request.texts)
    return request.params.num_choices if request.beam is None else request.beam.beam_width
