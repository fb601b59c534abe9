"""Host time of steps: what the engine itself takes of one, over a runner that computes nothing.

On a GPU this is what has to be done beside the kernels, and what is seen of a step that is shorter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from infer.kernels import set_threads
from infer.kernels.ops import DecodeLaunch, SamplingRows

from ..build.plan import find_model
from ..engine.batch import Batch
from ..engine.engine import Engine
from ..engine.graphs import MOST_TOKENS, StepGraphs, StepSizes
from ..engine.runner import Runner
from ..engine.static_inputs import StaticInputs
from ..engine.stopping import EndTokens
from ..jobs.stats import versions
from ..models.language_model import LanguageModel
from ..settings.args import EngineArgs
from ..settings.config import EngineConfig
from ..spec.model_spec import ModelSpec
from ..spec.read import read_spec
from ..types.params import SamplingParams
from ..types.request import Request
from .kernels import BLOCK_SIZE, SHAPES
from .launches import GPUSteps
from .results import rounded

#: Sequences of a step.
SEQUENCES = (256, 1024)
#: Steps that are measured, and those before them that are not.
STEPS, WARM_UP = 60, 20
#: Tokens of a prompt.
PROMPT = 16
#: Of the sequences in a mixed step, one in so many begins with it, and as many end.
TURNS = 16
#: What every row draws, which ends nothing.
DRAWN = 7


class Kind(NamedTuple):
    """A kind of steps."""

    draws: str
    temperature: float
    mixed: bool
    """Prompts join the decodes; steps that none joins, as places come free in turns, are not measured."""


KINDS = (Kind("greedy", 0.0, False), Kind("sampled", 0.8, False), Kind("greedy", 0.0, True))


class _Drawn:
    """Operations of which only the draw is there: it gives the same token to every row."""

    name = "none"

    def __init__(self, most: int) -> None:
        self.rows: SamplingRows | None = None
        """Sampling settings of the last step's rows."""
        self._tokens, self._finite = torch.full((most,), DRAWN), torch.ones(most, dtype=torch.bool)

    def sample(self, logits: Tensor, rows: SamplingRows | None, *rest: object) -> tuple[Tensor, Tensor]:
        self.rows = rows
        return self._tokens[: len(logits)], self._finite[: len(logits)]


class _Empty:
    """A model that computes nothing, and the recorder of its steps."""

    def forward(self, tokens: Tensor, *rest: object, **more: object) -> Tensor:
        return torch.empty(len(tokens), 1)

    @staticmethod
    def record(compute: Callable[[], None]) -> Callable[[], None]:
        """As of `Recorder`."""
        compute()
        return lambda: None


class _Nothing:
    """A runner that computes nothing: it finds each step's recording, writes its inputs and replays it, and that is empty."""

    any_rows, encoder, can_be_shared, num_stages = False, None, False, 1

    def __init__(self, sequences: int, context: int) -> None:
        self.ops = _Drawn(sequences)
        self.drawn: Tensor | None = None
        self.batch: Batch | None = None
        """The last step's."""
        sizes = StepSizes.choose(sequences, MOST_TOKENS, DecodeLaunch(1, joins=True))  # prefixes in common are looked for
        inputs = StaticInputs(sizes.largest, context, BLOCK_SIZE, torch.device("cpu"), spare_slot=-1)
        self._graphs = StepGraphs(cast(LanguageModel, _Empty()), [], inputs, sizes, _Empty)
        self.filling = 0.0
        """Seconds of the thread that went into that."""

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, batch: Batch) -> Tensor:
        started = time.thread_time()
        size = self._graphs.size_of(batch)
        if size is not None:
            self._graphs.run(batch, size)
        self.filling += time.thread_time() - started
        self.batch = batch
        return torch.empty(batch.num_logits, 1)

    def close(self) -> None:
        """There is nothing to end."""


class _Bench:
    """
    Args:
        model: whose launches are counted; None: that of `SHAPES`.

    Raises InferError.
    """

    def __init__(self, model: str | None, steps: int) -> None:
        self._shapes = read_spec(SHAPES)
        self._model: ModelSpec = find_model(EngineArgs.from_kwargs(model=model)).spec() if model else self._shapes
        self._steps = steps

    def _config(self, sequences: int, context: int) -> EngineConfig:
        args = EngineArgs.from_kwargs(
            model="none",
            device="cpu",
            max_model_len=context,
            max_num_seqs=sequences,
            max_num_batched_tokens=max(MOST_TOKENS, PROMPT * sequences),  # all prompts at once
            lanes=1,
            speculation="off",
        )
        return replace(args.resolve(self._shapes), device="cuda", block_size=BLOCK_SIZE)  # steps overlap, as they do there

    def measure(self, sequences: int, kind: Kind) -> dict[str, Any]:
        """CPU time of the thread for steps of one kind, and what they would launch."""
        rounds = self._steps + WARM_UP
        # While the first prompts come, others decode; and the step behind the last is begun.
        context = PROMPT + (TURNS if kind.mixed else rounds + sequences + 1)
        config, runner = self._config(sequences, context), _Nothing(sequences, context)
        joining = -(-sequences // TURNS)
        # Those that end keep their blocks until their last step is booked; others take their places before.
        blocks = (sequences + joining) * -(-context // BLOCK_SIZE)
        engine = Engine(config, cast(Runner, runner), blocks, None, EndTokens(0, frozenset({1, 2})), SHAPES["vocab_size"])
        params, number = SamplingParams(temperature=kind.temperature, ignore_eos=True), 0

        def add(count: int, *, staggered: bool = False) -> None:
            nonlocal number
            for _ in range(count):
                length = 1 + number // joining % TURNS if staggered else context - PROMPT
                prompt = [3 + number // 1024, *[3 + number % 1024] * (PROMPT - 1)]
                engine.add(Request(str(number), prompt, replace(params, max_tokens=length), number))
                number += 1

        add(sequences, staggered=kind.mixed)
        while engine.stats.num_prompt_tokens < sequences * PROMPT:
            engine.step()
        taken: list[float] = []
        measured: Batch | None = None
        while len(taken) < rounds:
            if len(taken) == WARM_UP:
                runner.filling = 0.0
            if kind.mixed and engine.num_unfinished < sequences + joining:
                add(joining)
            started, runner.batch, filled = time.thread_time(), None, runner.filling
            engine.step()
            batch: Batch | None = runner.batch
            if batch is not None and (len(batch.slots) > len(batch.kv_lens)) == kind.mixed:
                taken.append(time.thread_time() - started)
                measured = batch
            else:
                runner.filling = filled
        assert kind.mixed or engine.num_unfinished == sequences, "steps of the same sequences are measured"
        assert measured is not None
        launches = self._launches(config, context, measured, runner.ops.rows)
        return {
            "draws": kind.draws,
            "sequences": sequences,
            "joining": int(np.count_nonzero(np.diff(measured.query_start) > 1)),
            "ms": rounded(1e3 * median(taken[WARM_UP:])),
            "least_ms": rounded(1e3 * min(taken[WARM_UP:])),
            "inputs_ms": rounded(1e3 * runner.filling / self._steps),
            "launches": launches,
        }

    def _launches(self, config: EngineConfig, context: int, batch: Batch, rows: SamplingRows | None) -> dict[str, int | None] | None:
        try:
            found = GPUSteps(config, self._model, context).count(batch, rows)
        except ImportError:  # no Triton for this system
            return None
        return None if found is None else found._asdict()


def measure_hosts(sequences: Sequence[int] = (), steps: int = STEPS, model: str | None = None) -> dict[str, Any]:
    """Steps of so many sequences (none: SEQUENCES), of each kind; JSON.

    Args:
        model: whose launches are counted, by its name or folder; None: SmolLM2-135M's shapes.

    Raises InferError.
    """
    bench, before = _Bench(model, steps), torch.get_num_threads()
    set_threads(1)  # others would be waited for, and the wait counted
    try:
        measured = [bench.measure(n, kind) for n in sequences or SEQUENCES for kind in KINDS]
    finally:
        set_threads(before)
    return {"model": model, "steps": measured, "versions": versions()}
