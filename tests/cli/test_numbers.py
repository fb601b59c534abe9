"""Numbers at their extremes in every field that a record may have: nobody but the record itself gets to feel them.

The fields are those that the tasks and the classes of parameters say they have, so a new one is tried without being named here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infer.core.build.plan import Plan, make_plan
from infer.core.engine.protocol import AnyEngine
from infer.core.fleet.start import start as start_engine
from infer.core.jobs.input.inputs import Inputs
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.output.pipe import StraightOutput
from infer.core.jobs.run import Run
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask
from infer.core.jobs.tasks.base import Task
from infer.core.jobs.tasks.beam import BeamTask
from infer.core.jobs.tasks.embed import EmbedOptions, EmbedTask
from infer.core.jobs.tasks.score import ScoreOptions, ScoreTask
from infer.core.settings.args import EngineArgs
from infer.core.types import beam_params, params
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.bounds import Bounds, bounds_of
from infer.core.types.params import SamplingParams
from infer.core.types.pooling_params import PoolingParams

NUMBERS = (0, 1, -1, 5.0, 1.5, True, "5", 5e-324, 1e308, -1e308, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**200)
#: For fields that are no numbers.
FEW = (1.5, 2**64)
#: Where a field holds numbers within something.
WITHIN = ([2**64], [-1], [0.5], [True], {"5": 1e308}, {"5": 2**200}, {str(2**64): 1}, {"-1": 1})
#: What a record of each command asks about, and its model.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": ("tiny_llama", {"prompt": "one"}),
    "chat": ("tiny_llama", {"messages": [{"role": "user", "content": "two"}]}),
    "beam": ("tiny_llama", {"prompt": "three"}),
    "embed": ("tiny_bert", {"input": "the cat"}),
    "score": ("tiny_bert", {"query": "the cat", "documents": ["a dog", "the sun"]}),
}
#: Every so many records there is one with nothing wrong.
EVERY = 8
#: Choices that are worth waiting for.
MOST_CHOICES = 100


@dataclass(frozen=True)
class Model:
    """A tiny model, without its weights."""

    plan: Plan

    @classmethod
    def of(cls, folder: Path, count: int, **more: Any) -> Model:
        settings = {"dtype": "float32", "device": "cpu", "max_num_seqs": 128, "data_parallel_size": count, **more}
        return cls(make_plan(EngineArgs(model=str(folder), **settings)))

    def task(self, command: str) -> Task[Any]:
        """As the command makes it, where it is given --max-tokens 2 (and --width 2)."""
        tokenizer, length = self.plan.tokenizer, self.plan.config.max_model_len
        drawn, beam = SamplingParams(max_tokens=2), BeamSearchParams(2, 2)
        if command == "generate":
            return GenerateTask(CompletionOptions(defaults=drawn), tokenizer, max_model_len=length)
        if command == "chat":
            return ChatTask(CompletionOptions(defaults=drawn), tokenizer, self.plan.chat_template(), max_model_len=length)
        if command == "beam":
            return BeamTask(CompletionOptions(defaults=beam.sampling(), beam=beam), tokenizer, max_model_len=length)
        assert self.plan.recipe is not None
        if command == "embed":
            return EmbedTask(EmbedOptions(), tokenizer, self.plan.recipe, max_model_len=length)
        return ScoreTask(ScoreOptions(), tokenizer, self.plan.recipe, max_model_len=length)


@cache
def numeric() -> frozenset[str]:
    """Parameters that are numbers or hold some, by all of their names, and what else of a record is one."""
    classes = [f for kind in (SamplingParams, BeamSearchParams, PoolingParams) for f in fields(kind)]
    names = {f.name for f in classes if "int" in str(f.type) or "float" in str(f.type)}
    aliases = {name for name, own in {**params.ALIASES, **beam_params.ALIASES}.items() if own in names}
    return frozenset(names | aliases | {"priority", "top_logprobs", "top_n", "prompt", "input", "id"})


@cache
def edges() -> dict[str, list[float]]:
    """Name of a parameter -> both ends of its range, and what is just beyond them."""
    found: dict[str, list[float]] = {}
    for kind in (SamplingParams, BeamSearchParams, PoolingParams):
        for f in fields(kind):
            bounds = bounds_of(f)
            if bounds is not None:
                found.setdefault(f.name, []).extend(_edges(bounds))
    return found


def _edges(bounds: Bounds) -> Iterator[float]:
    for end, beyond in ((bounds.low, -1), (bounds.high, 1)):
        if end is not None:
            yield from (end, end + beyond, end - beyond) if abs(end) <= MOST_CHOICES or end >= 2**53 else (end + beyond,)


def records(task: Task[Any], command: str) -> list[dict[str, Any]]:
    """Every field with every number, and now and then a record with nothing wrong."""
    asked = ASKED[command][1]
    made: list[dict[str, Any]] = []
    for name in sorted(task.known_fields | task.fields | {"top_n", "unknown"}):
        rest = {} if name in task.fields and name not in BeamSearchParams.field_names() else asked
        for value in (*NUMBERS, *WITHIN, *edges().get(name, ())) if name in numeric() else FEW:
            if len(made) % EVERY == 0:
                made.append({**asked, "good": len(made)})
            made.append({**rest, "temperature": 0.7, name: value} if name not in asked else {name: value})
    return made


def answered_by(engine: AnyEngine, task: Task[Any], source: Path, out: Path) -> list[bytes]:
    """The rows of a job that takes an engine which is there already."""
    inputs = Inputs([str(source)])
    output = StraightOutput(str(out), os.open(out, os.O_WRONLY | os.O_CREAT), owned=True)
    try:
        Run(RecordReader(inputs.sources, 1 << 20), output).run(engine, task)
    finally:
        output.close()
        inputs.close()
    return out.read_bytes().splitlines()


def lines_of(made: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in made)


@pytest.fixture(scope="module")
def two_engines(request: pytest.FixtureRequest) -> Callable[[str], tuple[Model, AnyEngine]]:
    """two_engines("tiny_llama"): the model, and two processes that answer together, started once."""

    @cache
    def start(name: str) -> tuple[Model, AnyEngine]:
        model = Model.of(request.getfixturevalue(name), 2, **({"task": "embed"} if name == "tiny_bert" else {}))
        return model, start_engine(model.plan)

    return start


@pytest.mark.parametrize("command", ASKED)
def test_numbers_at_their_extremes(command: str, call: Any, tmp_path: Path, request: pytest.FixtureRequest, two_engines: Any) -> None:
    name, _ = ASKED[command]
    model, engines = two_engines(name)
    made = records(model.task(command), command)
    assert len(made) > 100
    hostile, harmless = tmp_path / "hostile.jsonl", tmp_path / "harmless.jsonl"
    hostile.write_bytes(lines_of(made))
    small = ["--width", "2"] if command == "beam" else []
    small += ["--max-tokens", "2", "--kv-cache-memory-bytes", "8MiB"] if name == "tiny_llama" else []
    options = ["--model", str(request.getfixturevalue(name)), "--dtype", "float32", "--device", "cpu", "--max-num-seqs", "128", *small]

    rows = answered_by(engines, model.task(command), hostile, tmp_path / "two.jsonl")
    assert len(rows) == len(made)
    errors = [json.loads(row)["error"] for row in rows]
    assert [made[i] for i, error in enumerate(errors) if error and error["code"] == "internal"] == []
    good = [i for i, record in enumerate(made) if "good" in record]
    assert not any(errors[i] for i in good)

    # One engine, stopped on the way.
    out = tmp_path / "one.jsonl"
    assert call(command, *options, "--max-errors", str(len(made) // 3), hostile, out).exit_code == 1
    assert call(command, *options, "--resume", hostile, out).exit_code == 3
    assert out.read_bytes().splitlines() == rows

    # Those with nothing wrong by themselves, at their places.
    harmless.write_bytes(b"\n".join(json.dumps(record).encode() if "good" in record else b"none" for record in made))
    assert call(command, *options, harmless, tmp_path / "alone.jsonl").exit_code == 3
    alone = (tmp_path / "alone.jsonl").read_bytes().splitlines()
    assert [rows[i] for i in good] == [alone[i] for i in good]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_the_command_itself_with_two_engines(call: Any, tmp_path: Path, tiny: list[str], write_lines: Any, read_rows: Any) -> None:
    """Numbers of more than 64 bits travel between processes; and a run that was stopped goes on."""
    lines = [{"prompt": "one", "seed": i, "max_tokens": 3} for i in range(12)]
    hostile = {"top_k": 10**20, "max_tokens": 2**64, "temperature": 2**200, "n": 2**64, "seed": 2**63}
    for place, (name, value) in enumerate(hostile.items()):
        lines[2 * place + 1][name] = value
    source, command, out = write_lines(*lines), ("generate", *tiny, "--data-parallel-size", "2"), tmp_path / "out"
    assert call(*command, "--max-errors", "1", source, out).exit_code == 1
    assert call(*command, "--resume", source, out).exit_code == 3
    assert [row["index"] for row in read_rows(out) if row["error"]] == [7, 9]
    assert call("generate", *tiny, source, tmp_path / "one").exit_code == 3
    assert out.read_bytes() == (tmp_path / "one").read_bytes()
