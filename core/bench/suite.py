"""The suite: works of several shapes answered one after another by one engine, as JSON beside what the machine can reach."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection
from typing import Any

from ..build.plan import Plan, make_plan
from ..jobs.stats import JobStats, versions
from ..jobs.tasks.completion import CompletionOptions
from ..jobs.tasks.embed import EmbedOptions, EmbedTask
from ..jobs.tasks.generate import GenerateTask
from ..jobs.tasks.protocol import AnyTask
from ..settings.args import EngineArgs
from ..types.params import SamplingParams
from . import results
from .breakdown import breakdown as breakdown_of
from .peaks import Peaks
from .run import peaks_of
from .throughput import Throughput
from .works import FULL, QUICK, WORKS, Corpus, Scale, Work

#: Parts of the breakdown that have a column of their own; all others are "other".
SHOWN = ("linear", "lm_head", "attention")
#: A work before the first that counts.
WARM_UP = Scale(counts=32, lengths=16)
#: Settings of a run that say something to the engine for texts as well.
_SHARED = ("device", "dtype", "kernels", "require_kernels", "threads", "seed", "download_dir", "quantization", "quantize_lm_head")


def measure_suite(
    plan: Plan,
    args: EngineArgs,
    names: Collection[str] = (),
    *,
    embed_model: str = "",
    quick: bool = False,
    repeat: int = 1,
    breakdown: bool = True,
    on_work: Callable[[str, JobStats], None] = lambda name, one: None,
) -> dict[str, Any]:
    """Each work `repeat` times, after a short one that warms the engine up; JSON.

    Args:
        plan, args: of the model that writes (or, where the model embeds, of the one for texts), and its settings as they were given.
        names: those of WORKS to run; empty: all.
        embed_model: the model for the texts; empty: the plan's, if it embeds.
        quick: works of a fraction of the size.
        breakdown: one more pass of each work with stopwatches, and the peaks of the machine.
        on_work: told of each pass, by the name of its work.

    Raises InferError.
    """
    suite = _Suite(QUICK if quick else FULL, repeat, breakdown, on_work)
    works = [WORKS[name] for name in names or WORKS]
    writing, texts = [w for w in works if not w.embeds], [w for w in works if w.embeds]
    embeds = plan.recipe is not None and plan.recipe.kind == "embed"
    if writing and plan.recipe is None:
        suite.run(plan, _writer, writing)
    else:
        suite.skip(writing, f"{plan.source.name} does not generate")
    if texts and embed_model:
        shared = {name: getattr(args, name) for name in _SHARED}
        plan = make_plan(EngineArgs(model=embed_model, task="embed", **shared))
        suite.run(plan, _embedder, texts)
    elif texts and embeds:
        suite.run(plan, _embedder, texts)
    else:
        suite.skip(texts, "no model for it: name one with --embed-model")
    return {
        "scale": "quick" if quick else "full",
        "repeat": repeat,
        "works": suite.done,
        "failed": sum(one["failed"] for one in suite.done),
        "skipped": suite.skipped,
        "engines": suite.engines,
        "versions": versions(),
    }


class _Suite:
    """Works measured so far, as JSON."""

    def __init__(self, scale: Scale, repeat: int, breakdown: bool, on_work: Callable[[str, JobStats], None]) -> None:
        self._scale, self._repeat, self._breakdown, self._on_work = scale, repeat, breakdown, on_work
        self.done: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self.engines: list[dict[str, Any]] = []

    def skip(self, works: Collection[Work], why: str) -> None:
        self.skipped += [{"name": work.name, "why": why} for work in works]

    def run(self, plan: Plan, make_task: Callable[[Plan], AnyTask], works: Collection[Work]) -> None:
        """The works that fit the model, by one engine, which is gone when this returns."""
        corpus, config = Corpus.of(plan), plan.config
        bench = Throughput(plan, make_task)
        peaks = peaks_of(bench) if self._breakdown else None
        warm = False
        for work in works:
            workload, longest = corpus.workload(work, self._scale, config.seed or 0)
            if longest > config.max_model_len:
                self.skip([work], f"it has records of {longest:,} tokens, and max_model_len is {config.max_model_len:,}")
                continue
            if not warm:  # memory that nobody has touched yet, and kernels that choose their way, are no part of a pass
                bench.run(corpus.workload(work, WARM_UP)[0])
                warm = True
            passes = []
            for _ in range(self._repeat):
                passes.append(bench.run(workload))
                self._on_work(work.name, passes[-1])
            told = {"name": work.name, "about": work.about, **results.throughput(passes), "texts": passes[0].num_texts}
            if peaks is not None:
                told["breakdown"] = _parts(breakdown_of(bench.run_timed(workload), peaks, config.dtype, bench.engine.vocab_size))
            self.done.append(told)
        self.engines.append(_engine(bench, peaks))
        bench.engine.close()
        del bench
        gc.collect()


def _parts(told: dict[str, Any]) -> dict[str, Any]:
    """A breakdown with its parts added up to a few; the peaks are the engine's."""
    shares = {part["name"]: part["share"] for part in told["parts"]}
    few = {name: shares[name] for name in SHOWN}
    few["other"] = results.rounded(max(0.0, 1 - sum(few.values())))
    return {"shares": few, **{name: value for name, value in told.items() if name != "peaks"}}


def _engine(bench: Throughput, peaks: Peaks | None) -> dict[str, Any]:
    config = bench.plan.config
    return {
        "model": bench.plan.name,
        "load_s": results.rounded(bench.load_s),
        "peaks": None if peaks is None else results.peaks(peaks),
        "settings": config.to_dict(),
    }


def _writer(plan: Plan) -> GenerateTask:
    defaults = SamplingParams(temperature=0.0, ignore_eos=True)
    return GenerateTask.of(CompletionOptions(defaults=defaults, max_tokens_given=True), plan)


def _embedder(plan: Plan) -> EmbedTask:
    return EmbedTask(EmbedOptions(truncate="right"), plan.tokenizer, plan.must_pool(), max_model_len=plan.config.max_model_len)
