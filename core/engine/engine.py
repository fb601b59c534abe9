"""The engine: requests in, finished answers out, in steps of schedule -> run -> commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from infer.kernels.ops import Ops

from ..config import EngineConfig
from ..errors import RecordError
from ..outputs import CompletionOutput, Logprob, RequestOutput
from ..text.tokenizer import Tokenizer
from ..weights.source import ModelSource
from .batch import pack
from .blocks import BlockManager
from .limits import Limits
from .loading import build_runner
from .request import Request, Sequence
from .runner import Runner
from .sampler import Sampler
from .scheduler import Scheduler
from .stats import EngineStats, Stopwatch
from .stopping import EndTokens
from .transcript import Transcripts


class Engine:
    """
    Args:
        runner: computes steps.
        num_blocks: usable blocks of the runner's KV cache.
        tokenizer: makes text of tokens; None leaves every text empty.
    """

    def __init__(
        self, config: EngineConfig, runner: Runner, num_blocks: int, tokenizer: Tokenizer | None, ends: EndTokens, vocab_size: int
    ) -> None:
        self.config = config
        self.vocab_size = vocab_size
        self.max_model_len = config.max_model_len
        self.tokenizer = tokenizer
        self.stats = EngineStats()
        self.scheduler = Scheduler(
            BlockManager(num_blocks + 1, config.block_size, prefix_caching=config.enable_prefix_caching),
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            chunked_prefill=config.chunked_prefill,
            long_prefill_token_threshold=config.long_prefill_token_threshold,
            watermark=config.watermark,
        )
        self._limits = Limits(vocab_size, config.max_model_len, config.max_logprobs, config.block_size, num_blocks)
        self._runner = runner
        self._ends = ends
        self._sampler = Sampler(runner.ops, ends.all)
        self._transcripts = Transcripts(tokenizer, ends)
        self._open: dict[str, list[Sequence]] = {}

    @classmethod
    def create(
        cls, config: EngineConfig, source: ModelSource, tokenizer: Tokenizer | None, *, wrap_ops: Callable[[Ops], Ops] | None = None
    ) -> Engine:
        """Loads the model and takes the memory; for `wrap_ops` see `build_runner`. Raises ModelError, ConfigError or EngineError."""
        runner, num_blocks = build_runner(config, source, wrap_ops)
        return cls(config, runner, num_blocks, tokenizer, _end_tokens(source, tokenizer), runner.model.config.vocab_size)

    # -- requests ------------------------------------------------------------------------------------------------
    def add(self, request: Request) -> None:
        """Queues a request. Raises RecordError if it can never be answered; the engine is then as it was."""
        self._limits.check(request)
        assert request.request_id not in self._open, f"request id {request.request_id!r} is in use"
        choices = [Sequence.of(request, i, self.config.seed, self.max_model_len) for i in range(request.params.n)]
        ends = self._ends.of(request.params)
        for choice in choices:
            choice.end_ids = ends
        self._open[request.request_id] = choices
        self.scheduler.add(choices)

    def abort(self, request_id: str) -> None:
        """Drops a request that has not been answered."""
        for sequence in self._open.pop(request_id):
            self._transcripts.drop(sequence)
            self.scheduler.abort(sequence.request)

    def is_open(self, request_id: str) -> bool:
        """Whether the request was added and is not answered."""
        return request_id in self._open

    def expect_more(self, more: bool) -> None:
        """Says whether requests may be added to those that are there, which is supposed until it is said. No answer depends on
        it, but work that is known whole can be shared out better."""
        self.scheduler.expect_more(more)

    @property
    def num_unfinished(self) -> int:
        """Requests added and not answered."""
        return len(self._open)

    @property
    def max_num_seqs(self) -> int:
        """Most sequences running at a time."""
        return self.config.max_num_seqs

    @property
    def num_waiting(self) -> int:
        """Sequences that are queued and not running."""
        return len(self.scheduler.waiting)

    # -- the loop ------------------------------------------------------------------------------------------------
    def step(self) -> list[RequestOutput]:
        """Computes one step; returns the requests it finished, answered or failed."""
        watch = Stopwatch(self.stats.seconds)
        schedule = self.scheduler.schedule()
        if not schedule.sequences:
            return []
        watch.count("schedule")
        batch = pack(schedule, self.scheduler.running, self.config.block_size)
        watch.count("batch")
        logits = self._runner.run(batch)
        watch.count("model")
        drawing = schedule.drawing
        samples = self._sampler.sample(logits, drawing)
        watch.count("sample")
        self.scheduler.commit(schedule, samples.tokens)
        failed = [drawing[row] for row in sorted(samples.failed)]
        drawn = drawing if not failed else [s for row, s in enumerate(drawing) if row not in samples.failed]
        self._ends.check_all(drawn)
        watch.count("commit")
        for row, logprobs in samples.logprobs.items():
            self._keep_logprobs(drawing[row], logprobs)
        self._transcripts.push_all(drawn)
        watch.count("detokenize")
        ended = [s for s in drawn if s.finish_reason is not None]
        self.scheduler.finish(ended)
        self._count(drawing)
        outputs = [*self._fail(failed), *self._collect(ended)]
        watch.count("commit")
        return outputs

    def _keep_logprobs(self, sequence: Sequence, logprobs: dict[int, Logprob]) -> None:
        assert sequence.logprobs is not None
        if self.tokenizer is not None:
            logprobs = {t: Logprob(p.logprob, p.rank, self.tokenizer.token_text(t)) for t, p in logprobs.items()}
        sequence.logprobs.append(logprobs)
        sequence.cumulative_logprob += logprobs[sequence.tokens[-1]].logprob

    def _fail(self, sequences: list[Sequence]) -> list[RequestOutput]:
        outputs = []
        for sequence in sequences:
            request = sequence.request
            if request.request_id in self._open:  # another choice of it may have failed in the same step
                self.scheduler.blocks.forget(sequence)
                self.abort(request.request_id)
                error = RecordError("non_finite_logits", "the model's logits for this record are not finite")
                outputs.append(RequestOutput(request.request_id, request.prompt, request.prompt_token_ids, error=error))
        return outputs

    def _collect(self, ended: Iterable[Sequence]) -> list[RequestOutput]:
        outputs = []
        for sequence in ended:
            request = sequence.request
            choices = self._open.get(request.request_id)
            if choices is not None and all(s.finished for s in choices):
                del self._open[request.request_id]
                output = _output(request, choices)
                outputs.append(output)
        return outputs

    def _count(self, drawing: list[Sequence]) -> None:
        stats = self.stats
        stats.num_steps += 1
        stats.num_output_tokens += len(drawing)
        for sequence in drawing:
            if len(sequence.tokens) == sequence.num_prompt + 1 and not sequence.choice:
                stats.num_prompt_tokens += sequence.num_prompt
                stats.num_cached_tokens += sequence.num_cached
        stats.num_preemptions = self.scheduler.num_preemptions
        stats.num_running = len(self.scheduler.running)
        stats.kv_usage = self.scheduler.blocks.usage
        stats.peak_kv_usage = max(stats.peak_kv_usage, stats.kv_usage)
        if drawing and stats.first_token_at is None:
            stats.first_token_at = time.monotonic()


def _output(request: Request, choices: list[Sequence]) -> RequestOutput:
    outputs = [
        CompletionOutput(
            index=s.choice,
            text=s.text or "",
            token_ids=s.output_ids,
            finish_reason=s.finish_reason,
            stop_reason=s.stop_reason,
            cumulative_logprob=s.cumulative_logprob if s.logprobs is not None else None,
            logprobs=s.logprobs,
        )
        for s in choices
    ]
    return RequestOutput(request.request_id, request.prompt, request.prompt_token_ids, outputs, num_cached_tokens=choices[0].num_cached)


def _end_tokens(source: ModelSource, tokenizer: Tokenizer | None) -> EndTokens:
    """The tokenizer's end token is the primary one; those of generation_config.json and config.json count too."""
    stated: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = (source.read_json(name) or {}).get("eos_token_id")
        stated += value if isinstance(value, list) else [] if value is None else [value]
    primary = tokenizer.eos_token_id if tokenizer is not None else None
    if primary is None and stated:
        primary = stated[0]
    return EndTokens(primary, frozenset(stated) - {primary})
