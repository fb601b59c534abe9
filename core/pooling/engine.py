"""The pooling engine: texts in, vectors out, in steps of take -> run -> hand out.

On a GPU the next step is begun before the one before it is finished: the host packs texts and hands vectors out while the device
computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..adapters.books import AdapterBooks, Registry
from ..adapters.weights import AdapterWeights
from ..engine.stats import EngineStats, Stopwatch
from ..errors import AdapterError, RecordError
from ..media.store import MediaStore
from ..sampling.transfers import on
from ..settings.config import EngineConfig
from ..types.adapters import AdapterKey
from ..types.pooling_request import Pooled, PoolingRequest, TextIds
from .batch import TextBatch, tagged
from .crew import crew_of
from .head import Head
from .limits import PoolingLimits
from .recipe import Recipe
from .runner import Runner
from .setting import Setting
from .window import Waiting, Window


@dataclass(slots=True, eq=False)
class _Answer:
    """A request on its way: `values` of texts that are not computed yet are None."""

    request: PoolingRequest
    setting: Setting
    order: int
    values: list[Any]
    missing: int
    bad: int | None = None
    """The first of its texts so far whose values are not finite."""
    flying: set[int] = field(default_factory=set)
    """Places whose texts are in a step that is begun."""


#: Who wants a text: an answer, and the text's place in it.
_Taker = tuple[_Answer, int]
#: The values of a step's texts, and which of them are finite.
_Made = tuple[list[NDArray[np.float32]], NDArray[np.bool_]]
#: Makes the values of a step's texts, and says which are finite, when the device is done.
_Values = Callable[[], _Made]


@dataclass(frozen=True, slots=True)
class _Step:
    """Texts of one setting that are computed together, and the slot of the adapter that reads them."""

    taken: list[Waiting[_Taker]]
    setting: Setting
    slot: int


_order = attrgetter("order")
_NOTHING = np.empty(0, dtype=np.float32)


class PoolingEngine:
    """
    Args:
        runner: computes steps.
        head: the model's own, float32.
        adapters: what requests may name of LoRA adapters; None: nothing. A step has texts of one.
        media: makes vectors of images; None: there are none. A step has texts or images.
    """

    def __init__(
        self,
        config: EngineConfig,
        recipe: Recipe,
        runner: Runner,
        head: Head,
        adapters: Registry | None = None,
        media: MediaStore | None = None,
    ) -> None:
        self._media = media
        self.config = config
        self.recipe = recipe
        self.vocab_size = runner.model.vocab_size
        self.max_model_len = config.max_model_len
        self.stats = EngineStats()
        self._limits = PoolingLimits(self.vocab_size, config.max_model_len, recipe)
        self._num_types = runner.model.num_token_types
        self.runner = runner
        self._head = head
        self.adapters = adapters
        self._books = None if adapters is None else AdapterBooks(config.max_cpu_loras, config.max_loras, self._load_adapter)
        self._window: Window[_Taker] = Window()
        self._open: dict[str, _Answer] = {}
        self._num_added = 0
        self._begun: tuple[_Step, _Values] | None = None
        """The step that the device has to do, where steps overlap."""
        self._overlaps = config.device != "cpu" and not config.disable_async_output_proc
        self._refused: list[Pooled] = []
        self._crew = crew_of(self, config, runner)

    # -- requests ------------------------------------------------------------------------------------------------
    def add(self, request: PoolingRequest) -> None:
        """Queues a request. Raises RecordError if it can never be answered; the engine is then as it was."""
        with self._turn():
            self._add(request)

    def _turn(self) -> AbstractContextManager[Any]:
        """Around whatever changes the books, which lanes have in common."""
        return nullcontext() if self._crew is None else self._crew.turn

    def _add(self, request: PoolingRequest) -> None:
        self._limits.check(request)
        if self._num_types > 1:
            self._check_types(request.texts)
        assert request.request_id not in self._open, f"request id {request.request_id!r} is in use"
        texts, setting = request.texts, Setting.of(request, self.recipe)
        if request.lora is not None:
            if self.adapters is None:
                raise RecordError("invalid_value", "LoRA adapters are off; --enable-lora lets records name some", param="lora")
            setting = setting._replace(adapter=self.adapters.key_of(request.lora))
        answer = _Answer(request, setting, self._num_added, [None] * len(texts), len(texts))
        for place, text in enumerate(texts):
            self._window.add(text, _of(setting, text), (answer, place))
        self._open[request.request_id] = answer
        self._num_added += 1

    def _load_adapter(self, slot: int, key: AdapterKey) -> None:
        """Reads an adapter for the steps to come. Raises AdapterError."""
        assert self.runner.adapters is not None
        self.runner.adapters.put(slot, AdapterWeights.of(key, self.config.max_lora_rank))

    def _check_types(self, texts: list[TextIds]) -> None:
        for text in texts:
            assert not text.types or len(text.types) == len(text.ids), "each token has a type"
            if text.types and not 0 <= min(text.types) <= max(text.types) < self._num_types:
                raise RecordError("invalid_value", f"token types must be 0 to {self._num_types - 1} for this model", param="input")

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""
        with self._turn():
            if request_id not in self._open and self._crew is not None:
                self._crew.outputs = [output for output in self._crew.outputs if output.request_id != request_id]
                return
            self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        answer = self._open.pop(request_id)
        for place, text in enumerate(answer.request.texts):
            if answer.values[place] is None and place not in answer.flying:
                self._window.drop(text, _of(answer.setting, text), (answer, place))

    def is_open(self, request_id: str) -> bool:
        """True if the request was added and is not answered."""
        with self._turn():
            return request_id in self._open or any(output.request_id == request_id for output in self._answered)

    def expect_more(self, more: bool) -> None:
        """Says whether requests may be added to those that are there. Nothing here depends on it."""

    def check(self) -> None:
        """There are no other processes to be lost."""

    @property
    def _answered(self) -> list[Pooled]:
        """Answers that nobody was given yet."""
        return [] if self._crew is None else self._crew.outputs

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""
        return len(self._open) + len(self._answered)

    @property
    def has_requests(self) -> bool:
        """True if there is something to compute."""
        return bool(self._open)

    @property
    def max_num_seqs(self) -> int:
        """Most texts in a step."""
        return self.config.max_num_seqs

    @property
    def num_waiting(self) -> int:
        """Texts to compute; those that are the same count once."""
        return len(self._window)

    @property
    def num_waiting_tokens(self) -> int:
        """Theirs."""
        return self._window.num_tokens

    def reset_prefix_cache(self) -> bool:
        """True: there is no such cache."""
        return True

    def close(self) -> None:
        """Ends the threads of lanes, if there are any."""
        if self._crew is not None:
            self._crew.end()

    # -- the loop ------------------------------------------------------------------------------------------------
    def step(self) -> list[Pooled]:
        """Computes one step; returns the requests it finished, answered or failed, in the order in which they were added."""
        with on(self.runner.device):
            return self._advance() if self._crew is None else self._crew.step()

    def _advance(self) -> list[Pooled]:
        watch = Stopwatch(self.stats.seconds)
        step, self._begun = self._begun or self._begin(watch), None
        if step is not None and self._overlaps:
            self._begun = self._begin(watch)
        refused = self.take_refused()
        if step is None:
            return refused
        taken, values = step
        made = values()
        watch.count("sample")
        finished = self.book(taken, made, watch)
        watch.count("commit")
        return refused + finished

    def _begin(self, watch: Stopwatch) -> tuple[_Step, _Values] | None:
        """Gives the device a step to do; None if nothing waits, or if those who wait longest had to be refused."""
        step = self.take(self.config.max_num_batched_tokens, watch)
        return None if step is None else (step, self._start(step, self.runner, watch))

    def take(self, budget: int, watch: Stopwatch) -> _Step | None:
        """The next step, of at most `budget` tokens; None if nothing waits, or if those who wait longest had to be refused."""
        taken = self._window.take(budget, self.config.max_num_seqs)
        if not taken:
            return None
        for waiting in taken:
            for answer, place in waiting.takers:
                answer.flying.add(place)
        watch.count("schedule")
        setting, slot = taken[0].setting, 0
        if setting.adapter is not None and self._books is not None:
            try:
                slot = self._slot_of(setting.adapter)
            except AdapterError as error:
                self._refused += self._refuse(taken, error.of_record())
                return None
        return _Step(taken, setting, slot)

    def _slot_of(self, key: AdapterKey) -> int:
        """Of an adapter, which is read if need be. Raises AdapterError."""
        assert self._books is not None
        if self._crew is None or self._books.is_ready(key):
            return self._books.slot_of(key)
        with self._crew.at_rest():  # the slot it gets may be one that others compute with
            return self._books.slot_of(key)

    def take_refused(self) -> list[Pooled]:
        """Answers of requests that could not be computed, each once."""
        refused, self._refused = self._refused, []
        return refused

    def compute(self, step: _Step, runner: Runner, watch: Stopwatch) -> _Made:
        """Computes a step. Touches nothing that lanes have in common."""
        made = self._start(step, runner, watch)()
        watch.count("sample")
        return made

    def _start(self, step: _Step, runner: Runner, watch: Stopwatch) -> _Values:
        """Gives the device a step to do."""
        texts, setting = [waiting.text for waiting in step.taken], step.setting
        if setting.image:
            return self._of_images(texts, setting)
        batch = runner.pack(texts)
        watch.count("batch")
        if setting.kind in ("token_embed", "token_classify"):
            return self._of_tokens(texts, batch, step, runner, watch)
        begun = self._head.begin(runner.pooled(texts, batch, step.slot), len(texts), setting)
        watch.count("model")

        def values() -> _Made:
            vectors, finite = self._head.finish(begun, setting)
            return list(vectors), finite

        return values

    def book(self, step: _Step, made: _Made, watch: Stopwatch) -> list[Pooled]:
        """Hands out what was computed; the requests that this finished, in the order in which they were added."""
        finished = self._hand_out(step.taken, *made)
        self._count(step.taken)
        return finished

    def _of_images(self, images: list[TextIds], setting: Setting) -> _Values:
        """Their vectors; NaN of those that the tower cannot read."""
        assert self._media is not None, "without it there are no images"
        rows = [self._media.embeds(one.image) for one in images if one.image is not None]

        def values() -> _Made:
            vectors, finite = self._head.finished(np.concatenate(rows), setting)
            return list(vectors), finite

        return values

    def _of_tokens(self, texts: list[TextIds], batch: TextBatch, step: _Step, runner: Runner, watch: Stopwatch) -> _Values:
        """Vectors or scores of each text's tokens; of some tokens alone if the setting or the text says so."""
        setting = step.setting
        wanted = None if setting.step_tag_id is None else tagged(batch, setting.step_tag_id)
        count, ends = (int(batch.starts[-1]), batch.starts[1:]) if wanted is None else (int(wanted.ends[-1]), wanted.ends)
        begun = self._head.begin(runner.tokens(batch, None if wanted is None else wanted.rows, step.slot), count, setting)
        watch.count("model")

        def values() -> _Made:
            rows, finite = self._head.finish(begun, setting)
            found = np.split(rows, ends[:-1])
            if wanted is None:
                found = [np.delete(one, text.silent, 0) if text.silent else one for one, text in zip(found, texts, strict=True)]
            return found, np.array([bool(one.all()) for one in np.split(finite, ends[:-1])])

        return values

    def _refuse(self, taken: list[Waiting[_Taker]], error: RecordError) -> list[Pooled]:
        """Answers all who wait for texts whose adapter could not be read."""
        answers = {answer: None for waiting in taken for answer, _ in waiting.takers}
        for answer, place in (taker for waiting in taken for taker in waiting.takers):
            answer.values[place] = _NOTHING
        for answer in answers:
            self._drop(answer.request.request_id)
        self._count(taken)
        return [
            Pooled(answer.request.request_id, num_tokens=sum(len(text.ids) for text in answer.request.texts), error=error)
            for answer in sorted(answers, key=_order)
        ]

    def _hand_out(self, taken: list[Waiting[_Taker]], values: list[NDArray[np.float32]], finite: NDArray[np.bool_]) -> list[Pooled]:
        whole: list[_Answer] = []
        for waiting, value, good in zip(taken, values, finite.tolist(), strict=True):
            mine = value
            for answer, place in waiting.takers:
                answer.flying.discard(place)
                if self._open.get(answer.request.request_id) is not answer:  # it was dropped while the device computed
                    continue
                answer.values[place] = mine
                answer.missing -= 1
                if not good:
                    answer.bad = place if answer.bad is None else min(place, answer.bad)
                if not answer.missing:
                    whole.append(answer)
                mine = value.copy() if len(waiting.takers) > 1 else value  # whoever changes his leaves the others' alone
        return [self._close(answer) for answer in sorted(whole, key=_order)]

    def _close(self, answer: _Answer) -> Pooled:
        """Answers a request all of whose texts are computed: which of them is blamed does not depend on who was first."""
        request = answer.request
        num_tokens = sum(len(text.ids) for text in request.texts)
        del self._open[request.request_id]
        if (bad := answer.bad) is not None:
            text = request.texts[bad]
            fault = self._media.fault(text.image.key) if text.image is not None and self._media is not None else None
            return Pooled(request.request_id, num_tokens=num_tokens, error=fault or _not_finite(request, bad))
        return Pooled(request.request_id, answer.values, num_tokens)

    def _count(self, taken: list[Waiting[_Taker]]) -> None:
        stats = self.stats
        stats.num_steps += 1
        stats.num_running = len(taken)
        for waiting in taken:
            tokens, takers = len(waiting.text.ids), len(waiting.takers)
            stats.num_prompt_tokens += tokens * takers
            stats.num_cached_tokens += tokens * (takers - 1)
            stats.num_computed_tokens += tokens
            waiting.takers.clear()  # the window may know it a little longer, and need not know the answers
        if stats.first_token_at is None:
            stats.first_token_at = time.monotonic()


def _of(setting: Setting, text: TextIds) -> Setting:
    """The setting of one text: those with unseen tokens go through attention in another way, and images are no texts."""
    if text.image is not None:
        return setting._replace(image=True)
    return setting._replace(unseen=True) if text.unseen else setting


def _not_finite(request: PoolingRequest, place: int) -> RecordError:
    which = f"text {place + 1} of {len(request.texts)}" if len(request.texts) > 1 else "the text"
    return RecordError("non_finite_logits", f"the model gave infinity or NaN for {which}")
