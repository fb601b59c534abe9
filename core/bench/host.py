"""Host time of steps: what the engine itself takes of one, over a runner that computes nothing.

On a GPU this is what has to be done beside the kernels, and what is seen of a step that is shorter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from infer.kernels import set_threads

from ..engine.batch import Batch
from ..engine.engine import Engine
from ..engine.runner import Runner
from ..engine.static_inputs import StaticInputs, StepSize
from ..engine.stopping import EndTokens
from ..jobs.stats import versions
from ..settings.args import EngineArgs
from ..spec.read import read_spec
from ..types.params import SamplingParams
from ..types.request import Request
from .kernels import BLOCK_SIZE, SHAPES
from .results import rounded

#: Sequences of a step.
SEQUENCES = (256, 1024)
#: Steps that are measured, and those before them that are not.
STEPS, WARM_UP = 60, 20
#: Tokens of a prompt.
PROMPT = 32
#: How tokens are drawn.
TEMPERATURES = {"greedy": 0.0, "sampled": 0.8}
#: What every row draws, which ends nothing.
DRAWN = 7


class _Drawn:
    """Operations of which only the draw is there: it gives the same token to every row."""

    name = "none"

    def sample(self, logits: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        return torch.full((len(logits),), DRAWN, dtype=torch.int64), torch.ones(len(logits), dtype=torch.bool)


class _Nothing:
    """A runner that computes nothing, and writes each step's inputs as a recorded one would have them written."""

    any_rows, encoder, can_be_shared, num_stages = False, None, False, 1

    def __init__(self, sequences: int, context: int) -> None:
        self.ops = _Drawn()
        self.drawn: Tensor | None = None
        self._inputs = StaticInputs(StepSize(sequences, sequences), context, BLOCK_SIZE, torch.device("cpu"), spare_slot=-1)
        self.filling = 0.0
        """Seconds of the thread that went into that."""

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, batch: Batch) -> Tensor:
        started = time.thread_time()
        if len(batch.slots) == len(batch.kv_lens):
            self._inputs.fill(batch, self._inputs.largest)
        self.filling += time.thread_time() - started
        return torch.empty(batch.num_logits, 1)

    def close(self) -> None:
        """There is nothing to end."""


def _engine(sequences: int, context: int) -> tuple[Engine, _Nothing]:
    spec = read_spec(SHAPES)
    args = EngineArgs.from_kwargs(
        model="none", device="cpu", max_model_len=context, max_num_seqs=sequences, max_num_batched_tokens=2048, lanes=1, speculation="off"
    )
    config = replace(args.resolve(spec), device="cuda", block_size=BLOCK_SIZE)  # steps overlap, as they do there
    runner = _Nothing(sequences, context)
    ends = EndTokens(0, frozenset({1, 2}))
    return Engine(config, cast(Runner, runner), sequences * -(-context // BLOCK_SIZE), None, ends, 49152), runner


def measure_hosts(sequences: Sequence[int] = (), steps: int = STEPS) -> dict[str, Any]:
    """Steps of so many sequences (none: SEQUENCES), greedy and sampled; JSON."""
    before = torch.get_num_threads()
    set_threads(1)  # others would be waited for, and the wait counted
    try:
        measured = [_measure(n, draws, steps) for n in sequences or SEQUENCES for draws in TEMPERATURES]
    finally:
        set_threads(before)
    return {"steps": measured, "versions": versions()}


def _measure(sequences: int, draws: str, steps: int) -> dict[str, Any]:
    """CPU time of the thread for steps of decodes alone."""
    context = PROMPT + steps + WARM_UP + sequences  # while the first prompts come, others decode
    engine, runner = _engine(sequences, context)
    params = SamplingParams(temperature=TEMPERATURES[draws], max_tokens=context - PROMPT)
    for index in range(sequences):
        engine.add(Request(str(index), [3 + index] * PROMPT, replace(params), index))
    while engine.stats.num_prompt_tokens < sequences * PROMPT:
        engine.step()
    taken = []
    for number in range(steps + WARM_UP):
        if number == WARM_UP:
            runner.filling = 0.0
        started = time.thread_time()
        engine.step()
        taken.append(time.thread_time() - started)
    assert engine.num_unfinished == sequences, "steps of the same sequences are measured"
    return {
        "draws": draws,
        "sequences": sequences,
        "ms": rounded(1e3 * median(taken[WARM_UP:])),
        "least_ms": rounded(1e3 * min(taken[WARM_UP:])),
        "inputs_ms": rounded(1e3 * runner.filling / steps),
    }
