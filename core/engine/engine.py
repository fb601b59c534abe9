"""The engine of models that write: requests in, answers out, in steps of schedule -> run -> commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..adapters.books import AdapterBooks, Registry
from ..adapters.weights import AdapterWeights
from ..containment import own_error
from ..errors import RecordError
from ..memory.swap import SwapSpace
from ..sampling.grammar.constrained import Constrained
from ..sampling.grammar.grammar import Grammars
from ..sampling.repetition import RepetitionCount
from ..sampling.sampler import Sampler, Samples
from ..sampling.thinking import Thinking, ThinkingPlace
from ..settings.config import EngineConfig
from ..text.tokenizer import Tokenizer
from ..types.adapters import AdapterKey
from ..types.outputs import RequestOutput
from ..types.request import Request, Sequence
from .answers import answer
from .batch import media_fault, pack
from .beams.groups import BeamGroups, Moved
from .blocks import BlockManager
from .lanes.choose import lanes_of
from .lanes.lane import Lane, Planned
from .lifetimes import Lifetimes
from .limits import Limits
from .overlap import Step, may_go_ahead, wanted
from .promise import Promise, schedule_ahead
from .runner import Runner
from .schedule import Schedule
from .scheduler import Scheduler
from .scoring.continuations import sequences_of
from .speculation.choose import speculation_of
from .speculation.drafter import Drafter
from .speculation.rounds import rounds
from .states import StateSlots
from .stats import EngineStats, Stopwatch
from .stopping import Endings, EndTokens, without
from .transcript import Transcripts


class Engine:
    """
    Args:
        runner: computes steps.
        num_blocks: usable blocks of the runner's KV cache.
        tokenizer: makes text of tokens; None leaves every text empty.
        max_idle_blocks: see `BlockManager`.
        num_states: slots of states that the runner has for sequences and snapshots; 0: the model keeps none.
        swap: the books of the runner's blocks in CPU memory, if it has some.
        adapters: what requests may name of LoRA adapters; None: nothing.
        drafter: guesses tokens where the settings ask for another than the sequences' own text.
    """

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        num_blocks: int,
        tokenizer: Tokenizer | None,
        ends: EndTokens,
        vocab_size: int,
        *,
        max_idle_blocks: int | None = None,
        num_states: int = 0,
        swap: SwapSpace | None = None,
        adapters: Registry | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.max_model_len = config.max_model_len
        self.tokenizer = tokenizer
        self.stats = EngineStats(num_kv_blocks=num_blocks, num_states=num_states)
        self.scheduler = Scheduler(
            BlockManager(
                num_blocks + 1,
                config.block_size,
                prefix_caching=config.enable_prefix_caching,
                max_idle=max_idle_blocks,
                states=StateSlots(num_states) if num_states else None,
            ),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            chunked_prefill=config.chunked_prefill,
            long_prefill_token_threshold=config.long_prefill_token_threshold,
            watermark=config.watermark,
            policy=config.scheduling_policy,
            swap=swap,
            overlaps=wanted(config),
            adapters=None if adapters is None else AdapterBooks(config.max_cpu_loras, config.max_loras, self._load_adapter),
            admits_together=config.device != "cpu" and config.pipeline_parallel_size == 1,
        )
        self.adapters = adapters
        grammars = Grammars(tokenizer, ends.all, vocab_size, settings=config.structured_outputs_config)
        self._limits = Limits.of(config, vocab_size, num_blocks, tokenizer, grammars)
        self.runner = runner
        self._ends = ends
        self._transcripts = Transcripts(tokenizer, ends)

        def sampler() -> Sampler:
            return Sampler(runner.ops, ends.all, tokenizer, vocab_size, config.logprobs_mode)

        self._beams = BeamGroups(sampler(), self.scheduler, ends, self._transcripts)
        self._lacking_prompt_logprobs: set[Sequence] = set()

        def lane(scheduler: Scheduler) -> Lane:
            speculation = speculation_of(config, scheduler, drafter, padded=not runner.any_rows)
            return Lane(scheduler, sampler(), self._lacking_prompt_logprobs, speculation)

        self._lane = lane(self.scheduler)
        """The first, and the only one unless there is a crew."""
        self._crew = lanes_of(self, config, self._lane, lambda: lane(self.scheduler.beside()))
        self._lifetimes = Lifetimes()
        self._constrained = Constrained(grammars, self.scheduler.add)
        self._endings = Endings(ends, self._constrained, self._transcripts.push_all)
        self._thinking = Thinking.of(config.reasoning_config, tokenizer)
        self._open: dict[str, list[Sequence]] = {}

    # -- requests ------------------------------------------------------------------------------------------------
    def add(self, request: Request) -> None:
        """Queues a request. Raises RecordError if it can never be answered; the engine is then as it was."""
        with self._turn():
            self._add(request)

    def _turn(self) -> AbstractContextManager[Any]:
        """Around whatever changes the books, which lanes have in common."""
        return nullcontext() if self._crew is None else self._crew.turn

    def _add(self, request: Request) -> None:
        self._limits.check(request)
        assert request.request_id not in self._open, f"request id {request.request_id!r} is in use"
        adapter = None
        if request.lora is not None:
            if self.adapters is None:
                raise RecordError("invalid_value", "LoRA adapters are off; --enable-lora lets records name some", param="lora")
            adapter = self.adapters.key_of(request.lora)
        seed, most = self.config.seed, self._limits.most_tokens(request)
        if request.continuations is None:
            choices = [Sequence.of(request, i, seed, most, self.config.block_size) for i in range(request.params.num_choices)]
        else:
            choices = sequences_of(request, seed, most, self.config.block_size)
        for choice in choices:
            choice.adapter = adapter
        self._open[request.request_id] = choices
        try:
            self._queue(choices)
        except BaseException:
            self._drop(request.request_id)
            raise

    def _load_adapter(self, slot: int, key: AdapterKey) -> None:
        """Reads an adapter for the steps to come. Raises AdapterError."""
        self.runner.load_adapter(slot, AdapterWeights.of(key, self.config.max_lora_rank))

    def _queue(self, choices: list[Sequence]) -> None:
        request, params = choices[0].request, choices[0].request.params
        self._endings.expect(choices)
        for choice in choices:
            if (budget := params.thinking_token_budget) is not None and params.structured_outputs is None:
                assert self._thinking is not None, "the limits of requests say so"
                choice.thinking = ThinkingPlace(self._thinking, budget, choice.tokens)
            if params.repetition_detection is not None:
                choice.repetitions = RepetitionCount(params.repetition_detection, choice.max_length - choice.num_prompt)
        if request.beam is not None:
            self._beams.open(choices[0])
        if params.structured_outputs is None:
            self.scheduler.add(choices)
        else:
            self._constrained.add(choices)
        for choice in choices:
            if choice.lacks_prompt_logprobs:
                self._lacking_prompt_logprobs.add(choice)
        self._lifetimes.arrived(request)

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""
        with self.runner.at_work(), self._turn():
            if request_id not in self._open and self._crew is not None:
                self._crew.outputs = [output for output in self._crew.outputs if output.request_id != request_id]
                return
            self._drop(request_id)
            if self._crew is None:
                self._drop_overruns()
            elif not self._open:
                self._crew.rest()

    def _drop(self, request_id: str) -> None:
        choices = self._open.pop(request_id)
        request = choices[0].request
        self._beams.close(request)
        for sequence in choices:
            self._transcripts.drop(sequence)
            self._lacking_prompt_logprobs.discard(sequence)
        self._lifetimes.drop(request)
        self.scheduler.abort(request)
        self._constrained.remove(request)

    def is_open(self, request_id: str) -> bool:
        """True if the request was added and is not answered."""
        if request_id in self._open:
            return True
        with self._turn():
            return self._crew is not None and any(output.request_id == request_id for output in self._crew.outputs)

    def expect_more(self, more: bool) -> None:
        """Says whether requests may be added to those that are there, which is supposed until it is said. No answer depends on
        it, but work that is known whole can be shared out better."""
        self.scheduler.expect_more(more)

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""
        return len(self._open) + (0 if self._crew is None else len(self._crew.outputs))

    @property
    def has_requests(self) -> bool:
        """True if there is something to compute."""
        return bool(self._open)

    @property
    def num_sequences(self) -> int:
        """Sequences that run or wait."""
        return self.scheduler.num_running + self.num_waiting

    @property
    def has_beams(self) -> bool:
        """True if a search is open."""
        return bool(self._beams)

    @property
    def max_num_seqs(self) -> int:
        """Most sequences running at a time."""
        return self.config.max_num_seqs

    @property
    def num_waiting(self) -> int:
        """Sequences that are queued and not running."""
        return len(self.scheduler.waiting) + self._constrained.num_held

    def reset_prefix_cache(self) -> bool:
        """Forgets what the prefix cache holds; False, and nothing is forgotten, while there are requests."""
        with self._turn():
            if self._open:
                return False
            self.scheduler.blocks.reset()
            return True

    def close(self) -> None:
        """Ends the threads of lanes and the other ranks, if there are any."""
        if self._crew is not None:
            self._crew.end()
        self.runner.close()

    def check(self) -> None:
        """Looks after the other ranks while there is nothing to compute. Raises what a step would raise if one is lost."""
        self.runner.check()

    # -- the loop ------------------------------------------------------------------------------------------------
    def step(self) -> list[RequestOutput]:
        """Computes one step; returns the requests it finished, answered or failed."""
        with self.runner.at_work():
            return self._advance() if self._crew is None else self._crew.step()

    def _advance(self) -> list[RequestOutput]:
        lane, watch = self._lane, Stopwatch(self.stats.seconds)
        if lane.step is None:
            lane.step = self._begin(self.scheduler.schedule(), watch)
        step = lane.step
        if step is None:
            return self.fail_refused()
        ahead = None
        if (overruns := self.scheduler.overruns) is not None:
            ahead = self._begin_ahead(step, watch)
            overruns.fly(ahead.schedule.sequences if ahead is not None else ())
        outputs = self.book(lane, step, lane.sampler.finish(step.draws), watch)
        lane.step = ahead
        self._drop_overruns()
        outputs += self.fail_refused()
        watch.count("commit")
        return outputs

    def _begin_ahead(self, step: Step, watch: Stopwatch) -> Step | None:
        """Begins with the step after one that is not finished, if that can be."""
        if self._beams or not may_go_ahead(step):
            return None
        if step.promise is None:
            step.promise = Promise(self.scheduler, step.schedule, step.drawing, step.rows)
        return self._begin(schedule_ahead(self.scheduler), watch, after=step)

    def _begin(self, schedule: Schedule | None, watch: Stopwatch, *, after: Step | None = None) -> Step | None:
        """Gives a scheduled step to the device; None if there is nothing in it.

        Args:
            after: the step before, if it is not finished.
        """
        planned = None if schedule is None else self.plan(self._lane, schedule, watch)
        if planned is None:
            return None
        self.runner.drawn = None if after is None else after.draws.tokens
        return self.compute(self._lane, planned, watch, ahead=self.scheduler.overruns is not None)

    def plan(self, lane: Lane, schedule: Schedule, watch: Stopwatch) -> Planned | None:
        """Packs a step that was scheduled; None if there is nothing in it."""
        if not schedule.sequences:
            watch.count("schedule")
            return None
        self._lifetimes.scheduled(schedule.admitted, self.stats)
        self._constrained.start(schedule.admitted)
        if lane.speculation is not None:
            lane.speculation.add_drafts(schedule)
        watch.count("schedule")
        spans = lane.prompt_logprobs.plan(schedule)
        batch = pack(schedule, lane.scheduler.running, self.config.block_size, spans, self.runner.encoder)
        watch.count("batch")
        return Planned(schedule, batch)

    def compute(self, lane: Lane, planned: Planned, watch: Stopwatch, *, ahead: bool = False) -> Step:
        """Gives a step to the device, and the drawing of its tokens. Touches nothing that lanes have in common.

        Args:
            ahead: see `Sampler.begin`.
        """
        take, batch = lane.prompt_logprobs.take, planned.batch
        logits = self.runner.run(batch, take) if batch.num_prompt_logits else self.runner.run(batch)
        watch.count("model")
        broken = lane.prompt_logprobs.failed()
        step = Step.begin(planned.schedule, lane.sampler, logits, broken, has_beams=bool(self._beams), ahead=ahead)
        watch.count("sample")
        return step

    def book(self, lane: Lane, step: Step, samples: Samples, watch: Stopwatch) -> list[RequestOutput]:
        """Books what a step drew, and returns the requests that it finished."""
        scheduler = lane.scheduler
        watch.count("sample")
        if lane.speculation is not None:
            lane.speculation.finished(step)
        if scheduler.overruns is not None and self._crew is None:
            scheduler.overruns.free(but=step.promise.leaving if step.promise is not None else frozenset())
        if step.promise is not None:
            step.promise.keep(samples.ids)
        samples = samples.of(step.rows)
        full = scheduler.commit(step.schedule, samples.ids, step.plain) if step.promise is None else step.promise.leaving
        watch.count("commit")
        failed, num_accepted = step.broken, 0
        ended = self._endings.find(step.drawing, samples, full, failed, watch, step.traits)
        for more in rounds(step, lane.sampler, failed):
            samples = lane.sampler.finish(more.draws)
            full = scheduler.progress.accept(more.rows, samples.ids)
            ended += self._endings.find(more.drawing, samples, full, failed, watch)
            num_accepted += len(more.drawing)
        # Behind the drafts, whose rows are the schedule's until beams fork and end.
        moved = self._beams.step(step.beam_logits, step.beams) if step.beam_logits is not None else Moved()
        watch.count("sample")
        if self._constrained:
            failed.update(self._constrained.judge([*ended, *(s for search in moved.ended for s in search)]))
            ended = without(ended, failed)
            moved.ended = [search for search in moved.ended if not any(s in failed for s in search)]
        scheduler.finish(ended)
        self.stats.count(step, num_accepted, self._lifetimes.first_tokens(), scheduler)
        failed.update(moved.failed)
        return [*(self._answer(found) for found in moved.ended), *self._fail(failed), *self._collect(ended)]

    def _drop_overruns(self) -> None:
        """Takes what has ended out of the step that is begun; if that leaves nobody in it, it is waited for and forgotten."""
        step, overruns = self._lane.step, self.scheduler.overruns
        if step is None or overruns is None:
            return
        step.drop(overruns.apart)
        if step.schedule.sequences and self._open:
            return
        self._lane.sampler.finish(step.draws)
        self._lane.step = None
        overruns.fly()
        overruns.free()

    def fail_refused(self) -> list[RequestOutput]:
        """Answers requests whose adapter could not be read."""
        books = self.scheduler.adapters
        return self._fail(books.take_refused()) if books is not None and books.refused else []

    def _fail(self, failed: Mapping[Sequence, RecordError]) -> list[RequestOutput]:
        outputs = []
        for sequence, error in failed.items():
            if sequence.request.request_id in self._open:  # another choice of it may have failed in the same step
                if error.code == "non_finite_logits":
                    self.scheduler.blocks.forget(sequence)
                outputs.append(self._failure(sequence.request, media_fault(self.runner.encoder, sequence.request) or error))
        return outputs

    def _failure(self, request: Request, error: RecordError) -> RequestOutput:
        """Drops a request; returns its answer."""
        metrics = self._lifetimes.ended(request, self.stats)
        self._drop(request.request_id)
        return RequestOutput(
            request.request_id, request.prompt, request.prompt_token_ids, error=error, metrics=metrics, lora_request=request.lora
        )

    def _collect(self, ended: Iterable[Sequence]) -> list[RequestOutput]:
        outputs = []
        for sequence in ended:
            request = sequence.request
            choices = self._open.get(request.request_id)
            if choices is not None and all(s.finished for s in choices):
                outputs.append(self._answer(choices))
        return outputs

    def _answer(self, choices: list[Sequence]) -> RequestOutput:
        """Closes a request whose choices have all ended."""
        request = choices[0].request
        try:
            for choice in choices:
                self._limits.check_end(choice)
            made = answer(choices)
        except BaseException as error:
            return self._failure(request, own_error(error, f"request {request.request_id}"))
        made.metrics = self._lifetimes.ended(request, self.stats)
        del self._open[request.request_id]
        self._beams.close(request)
        self._constrained.remove(request)
        return made
