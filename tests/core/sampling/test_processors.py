"""A record's Python functions: how they are called, and that their mistakes are that record's alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.core.engine.engine import Engine
from infer.core.errors import RecordError
from infer.core.sampling.processors import process
from infer.core.sampling.sampler import Sampler
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

from ..stepping import drain

VOCABULARY = 20


def sequence_of(*processors: Callable[..., Any], index: int = 0, **params: Any) -> Sequence:
    made = SamplingParams(logits_processors=list(processors), **params)  # type: ignore[arg-type]
    sequence = Sequence.of(Request(str(index), [3, 4], made, index), 0, 0, 4096)
    sequence.tokens += [5, 6, 7]
    return sequence


class Calls:
    """Every way to be a function of two or of three positional arguments."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def two(self, output: list[int], logits: Tensor) -> Tensor:
        self.seen.append((output, logits.tolist()))
        return logits + 1

    def three(self, prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
        self.seen.append((prompt, output, logits.tolist()))
        return logits + 1

    def with_keyword(self, output: list[int], logits: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.two(output, logits)

    def any_number(self, *given: Any) -> Tensor:
        self.seen.append((*given[:-1], given[-1].tolist()))
        return given[-1] + 1

    def __call__(self, prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
        return self.three(prompt, output, logits)


def test_what_they_are_given() -> None:
    calls = Calls()
    processors = [calls.two, calls.three, calls, functools.partial(calls.three, [0]), calls.with_keyword, calls.any_number]
    result = process(sequence_of(*processors), torch.zeros(VOCABULARY))
    assert result.tolist() == [6.0] * VOCABULARY
    prompt, output = [3, 4], [5, 6, 7]
    wanted: list[tuple[Any, ...]] = [(output,), (prompt, output), (prompt, output), ([0], output), (output,), (output,)]
    assert calls.seen == [(*given, [float(i)] * VOCABULARY) for i, given in enumerate(wanted)]
    assert all(isinstance(given, list) for call in calls.seen for given in call)


def test_any_floating_dtype_may_come_back() -> None:
    result = process(sequence_of(lambda output, x: (x + 0.5).to(torch.float64)), torch.zeros(VOCABULARY))
    assert (result.dtype, result.tolist()) == (torch.float32, [0.5] * VOCABULARY)


def fail(output: list[int], logits: Tensor) -> Tensor:
    raise KeyError("lost")


MISTAKES: list[tuple[Callable[..., Any], str]] = [
    (fail, "fail raised KeyError: 'lost'"),
    (lambda output, x: None, "must return logits, not NoneType"),
    (lambda output, x: x.tolist(), "must return logits, not list"),
    (lambda output, x: x[:-1], r"must return floating-point logits \[20\], not torch.float32 \[19\]"),
    (lambda output, x: x[None], r"not torch.float32 \[1, 20\]"),
    (lambda output, x: x.long(), r"not torch.int64 \[20\]"),
    (lambda output, x: x * math.nan, "NaN or infinite"),
    (lambda output, x: x.fill_(math.inf), "NaN or infinite"),
    (lambda x: x, "raised TypeError"),
]


@pytest.mark.parametrize(("processor", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_mistakes(processor: Callable[..., Any], message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        process(sequence_of(processor), torch.ones(VOCABULARY))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "logits_processors")


def favour(token: int, output: list[int], logits: Tensor) -> Tensor:
    logits[token] += 50
    return logits


@pytest.mark.parametrize("backend", kernels.usable("cpu"))
def test_a_mistake_is_its_own_rows_alone(backend: str) -> None:
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits[4, 2] = math.nan
    calls = Calls()
    sequences = [
        sequence_of(index=0, temperature=0),
        sequence_of(functools.partial(favour, 8), index=1, logprobs=0),
        sequence_of(fail, index=2),
        sequence_of(index=3),
        sequence_of(calls.two, index=4),
        sequence_of(lambda output, x: x.fill_(-math.inf).index_fill_(0, torch.tensor([9]), -7.0), index=5),
    ]
    sampler = Sampler(kernels.load(backend), frozenset({1}), None, VOCABULARY)
    samples = sampler.sample(logits, sequences)
    assert {row: e.code for row, e in samples.failed.items()} == {2: "invalid_value", 4: "non_finite_logits"}
    assert not calls.seen, "logits that are not finite reached a processor"
    assert [samples.tokens[row] for row in (0, 1, 5)] == [int(logits[0].argmax()), 8, 9]
    assert sampler.sample(logits[3:4], sequences[3:4]).tokens == samples.tokens[3:4]
    # Logprobs are the model's own, not the processor's.
    assert samples.logprobs[1][8].logprob == pytest.approx(float(torch.log_softmax(logits[1].float(), -1)[8]), abs=1e-5)


def test_in_the_engine(make_engine: Callable[..., Engine]) -> None:
    """One record follows its processor to the end, one fails, and the third is what it would be without them."""

    def count_up(prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
        return logits.fill_(-math.inf).index_fill_(0, torch.tensor([10 + len(prompt) + len(output)]), 0.0)

    def late(output: list[int], logits: Tensor) -> Tensor:
        return logits if len(output) < 2 else logits[:1]

    def answers(*made: tuple[str, SamplingParams]) -> dict[str, Any]:
        engine = make_engine()
        for i, (name, params) in enumerate(made):
            engine.add(Request(name, [3, 4, 5], params, i if name != "plain" else 7))
        return drain(engine)

    plain = SamplingParams(max_tokens=6, ignore_eos=True)
    found = answers(
        ("up", SamplingParams(max_tokens=4, logits_processors=[count_up])),  # type: ignore[arg-type]
        ("plain", plain),
        ("late", SamplingParams(max_tokens=6, ignore_eos=True, logits_processors=[late])),  # type: ignore[arg-type]
    )
    assert found["up"].outputs[0].token_ids == [13, 14, 15, 16]
    assert (found["late"].error.code, found["late"].outputs) == ("invalid_value", [])
    assert found["plain"].outputs[0].token_ids == answers(("plain", plain))["plain"].outputs[0].token_ids
