"""Counts kept from step to step are those counted from scratch, whatever happens to the sequences."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM
from infer.core.sampling.penalties import PenaltyBook
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence
from infer.core.types.structured import StructuredOutputsParams

CPU = torch.device("cpu")
VOCABULARY = 40
ENDS = frozenset({1, 2, VOCABULARY + 5})  # models may name end tokens that the vocabulary lacks

PARAMS = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "presence_penalty": 0.5},
    {"frequency_penalty": -0.1},
    {"frequency_penalty": 0.7, "presence_penalty": -2.0},
    {},
    {"min_tokens": 6, "max_tokens": 100, "stop_token_ids": (7, 8)},
    {"min_tokens": 6, "max_tokens": 100, "repetition_penalty": 1.1, "frequency_penalty": 0.3},
    {"logit_bias": {3: 5.0, 17: -2.5, 2: 1.0}},
    {"logit_bias": {i: i / 2 for i in range(0, VOCABULARY, 3)}, "repetition_penalty": 1.2, "presence_penalty": 0.1},
    {"logit_bias": {4: 7.0, 1: 3.0}, "frequency_penalty": 0.4, "min_tokens": 3, "max_tokens": 100},
]

#: (bias, repetition, subtract)
Change = tuple[float, float, float]


def new_sequence(prompt: list[int], choice: int = 0, **params: Any) -> Sequence:
    return Sequence.of(Request("a", prompt, SamplingParams(**params), 0), choice, 0, 4096)


def from_scratch(sequence: Sequence, banned: set[int] | None = None, *, may_end: bool = False) -> dict[int, Change]:
    p = sequence.params
    counts = Counter(sequence.output_ids)
    seen = set(sequence.tokens) if p.repetition_penalty != 1 else set(counts)
    if p.repetition_penalty == 1 and not p.frequency_penalty and not p.presence_penalty:
        seen = set()
    biases = p.logit_bias or {}
    forbidden = set(banned or ())
    if sequence.num_output < p.min_tokens and not may_end:
        forbidden |= {*ENDS, *p.stop_token_ids}
    entries = {}
    for t in seen | set(biases) | {t for t in forbidden if t < VOCABULARY}:
        subtract = p.frequency_penalty * counts[t] + p.presence_penalty * (counts[t] > 0)
        entries[t] = (biases.get(t, 0.0), p.repetition_penalty if t in seen else 1.0, math.inf if t in forbidden else subtract)
    return entries


def gathered(book: PenaltyBook, sequences: list[Sequence], rows: list[int] | None = None, **how: Any) -> list[dict[int, Change]]:
    penalties = book.gather(sequences, list(range(len(sequences))) if rows is None else rows, VOCABULARY, CPU, **how)
    if penalties is None:
        return [{} for _ in sequences]
    assert [t.dtype for t in (penalties.row_start, penalties.token)] == [torch.int64] * 2
    values = [penalties.bias, penalties.repetition, penalties.subtract]
    assert [t.dtype for t in values] == [torch.float32] * 3
    assert all(t.is_contiguous() for t in values)
    starts = penalties.row_start.tolist()
    assert len(starts) == len(sequences) + 1
    assert {starts[-1]} == {len(t) for t in (penalties.token, *values)}
    changes = list(zip(*(t.tolist() for t in values), strict=True))
    result = []
    for start, end in pairwise(starts):
        token = penalties.token[start:end].tolist()
        assert len(set(token)) == len(token), "a token appears twice"
        result.append(dict(zip(token, changes[start:end], strict=True)))
    return result


def check(book: PenaltyBook, sequences: list[Sequence], banned: dict[int, set[int]], may_end: set[int]) -> None:
    for row, entries in enumerate(gathered(book, sequences, banned=banned, may_end=may_end)):
        expected = from_scratch(sequences[row], banned.get(row), may_end=row in may_end)
        assert entries.keys() == expected.keys()
        for token, change in expected.items():
            assert entries[token] == pytest.approx(change)


def test_counts_are_those_from_scratch_through_pauses_and_choices() -> None:
    """Sequences come, pause (as after preemption), come back longer, and go; some are choices of one prompt."""
    rng = random.Random(0)
    book = PenaltyBook(ENDS)
    alive: list[Sequence] = []
    for step in range(400):
        if step % 7 == 0:
            params = PARAMS[step // 7 % len(PARAMS)]
            prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 100))]
            alive += [new_sequence(prompt, choice, **params) for choice in range(rng.randrange(1, 3))]
        drawing = [s for s in alive if rng.random() < 0.8]
        rng.shuffle(drawing)
        rows = range(len(drawing))
        banned = {row: {rng.randrange(VOCABULARY + 3) for _ in range(3)} for row in rows if rng.random() < 0.3}
        check(book, drawing, banned, {row for row in rows if rng.random() < 0.2})
        assert len(book._seen) <= len(drawing)
        for sequence in alive:
            for _ in range(rng.randrange(3) if sequence not in drawing else 1):
                sequence.tokens.append(rng.randrange(VOCABULARY))
        if len(alive) > 20:
            del alive[rng.randrange(len(alive))]


def test_only_output_counts_but_for_repetition() -> None:
    book = PenaltyBook(ENDS)
    plain, repeated = new_sequence([3, 3, 4], frequency_penalty=1.0), new_sequence([3, 3, 4], frequency_penalty=1.0, repetition_penalty=2.0)
    for sequence in (plain, repeated):
        sequence.tokens += [4, 4, 5]
    assert gathered(book, [plain, repeated]) == [{4: (0, 1, 2), 5: (0, 1, 1)}, {3: (0, 2, 0), 4: (0, 2, 2), 5: (0, 2, 1)}]


def test_a_token_both_penalized_and_forbidden_is_one_entry() -> None:
    book = PenaltyBook(ENDS)
    sequence = new_sequence([1, 9], repetition_penalty=2.0, min_tokens=1, stop_token_ids=(11,))
    assert gathered(book, [sequence]) == [{1: (0, 2, math.inf), 9: (0, 2, 0), 2: (0, 1, math.inf), 11: (0, 1, math.inf)}]
    sequence.tokens.append(12)
    assert gathered(book, [sequence]) == [{1: (0, 2, 0), 9: (0, 2, 0), 12: (0, 2, 0)}]


def test_rows_without_anything_to_change() -> None:
    book = PenaltyBook(ENDS)
    fresh, other = new_sequence([3], presence_penalty=1.0), new_sequence([4], presence_penalty=1.0)
    assert book.gather([fresh, other], [0, 1], VOCABULARY, CPU) is None  # nothing drawn yet
    other.tokens.append(6)
    plain = new_sequence([5])
    assert gathered(book, [plain, fresh, other, plain], [1, 2]) == [{}, {}, {6: (0, 1, 1)}, {}]


@pytest.mark.parametrize(("given", "held"), [(1e300, torch.tensor(1e28).item()), (1e-300, torch.finfo(torch.float32).tiny)])
def test_penalties_that_float32_cannot_hold(given: float, held: float) -> None:
    assert gathered(PenaltyBook(ENDS), [new_sequence([3], repetition_penalty=given)]) == [{3: (0, held, 0)}]


@pytest.mark.parametrize("constraint", [{"structured_outputs": {"regex": "a+"}}, {"allowed_token_ids": [67]}])
def test_a_huge_penalty_forbids_nothing(tiny_llama: Path, constraint: dict[str, Any]) -> None:
    """A constraint leaves one token, which the prompt has: it comes, however dear. (That of a regex may end then.)"""
    llm = LLM(str(tiny_llama), device="cpu", dtype="float32", num_gpu_blocks_override=40)
    if "structured_outputs" in constraint:
        constraint = {"structured_outputs": StructuredOutputsParams(**constraint["structured_outputs"])}
    for temperature in (0, 0.01, 1):
        params = SamplingParams(max_tokens=3, temperature=temperature, repetition_penalty=1e308, ignore_eos=True, **constraint)
        (output,) = llm.generate(["ab"], params)
        assert output.outputs[0].text == ("a" if "structured_outputs" in constraint else "aaa")


def test_a_step_looks_at_new_tokens_alone() -> None:
    class Counting(list[int]):
        looked_at = 0

        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            Counting.looked_at += len(found) if isinstance(place, slice) else 1
            return found

    book = PenaltyBook(ENDS)
    sequence = new_sequence([3] * 500, repetition_penalty=1.5, presence_penalty=1.0)
    sequence.tokens = Counting(sequence.tokens)
    for token in range(100):
        book.gather([sequence], [0], VOCABULARY, CPU)
        sequence.tokens.append(token % VOCABULARY)
    assert Counting.looked_at == 500 + 99
