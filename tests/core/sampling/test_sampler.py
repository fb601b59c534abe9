"""Every row gets what it asked for, whoever its neighbours are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.core.engine.engine import Engine
from infer.core.sampling.row_settings import CAPACITY, RowSettings
from infer.core.sampling.sampler import PIECE, Sampler
from infer.core.types.noise import noise_key, uniforms
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

ENDS = frozenset({1, 2})
VOCABULARY = 90

PARAMS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1e-7},
    {"temperature": 1e-3},
    {"temperature": 1e300},
    {"temperature": 0.7, "top_k": 5},
    {"top_k": 10**30},
    {"top_p": 0.8},
    {"min_p": 0.2, "seed": 5},
    {"logprobs": 0},
    {"logprobs": 4, "temperature": 0},
    {"logprobs": 500, "top_k": 3},
    {"frequency_penalty": 1.5, "temperature": 0},
    {"repetition_penalty": 3.0},
    {"min_tokens": 9, "stop_token_ids": [5, 6]},
    {"min_tokens": 9, "temperature": 0, "presence_penalty": 1.0, "logprobs": 2},
]


def new_sequence(index: int, output: list[int] | None = None, **params: Any) -> Sequence:
    request = Request(str(index), [3, 4, 5 + index], SamplingParams(max_tokens=20, **params), index)
    sequence = Sequence.of(request, 0, 0, 4096)
    sequence.tokens += output or []
    return sequence


@pytest.fixture(params=kernels.usable("cpu"))
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return Sampler(kernels.load(request.param), ENDS, None, VOCABULARY)


def random_logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_do_not_mix(sampler: Sampler, dtype: torch.dtype) -> None:
    sequences = [new_sequence(i, [7, 8, 7, 9 + i], **PARAMS[i % len(PARAMS)]) for i in range(3 * len(PARAMS))]
    logits = random_logits(len(sequences)).to(dtype)
    before = logits.clone()
    together = sampler.sample(logits, sequences)
    assert torch.equal(logits, before)
    assert not together.failed
    for i, sequence in enumerate(sequences):
        alone = sampler.sample(logits[i : i + 1], [sequence])
        assert alone.tokens == [together.tokens[i]]
        assert alone.logprobs.get(0) == together.logprobs.get(i)
        assert (i in together.logprobs) == (sequence.params.logprobs is not None)
    for i in range(0, len(sequences), len(PARAMS)):
        best = logits[i : i + 3].argmax(-1).tolist()
        assert together.tokens[i : i + 3] == best  # temperatures of 0, of next to 0 and of almost 0


def test_a_batch_that_asks_for_nothing(sampler: Sampler) -> None:
    logits = random_logits(9)
    samples = sampler.sample(logits, [new_sequence(i, temperature=0) for i in range(9)])
    assert (samples.tokens, samples.failed, samples.logprobs) == (logits.argmax(-1).tolist(), {}, {})
    assert sampler.sample(logits[:0], []).tokens == []


def test_failed_rows_have_no_logprobs_and_hurt_nobody(sampler: Sampler) -> None:
    sequences = [new_sequence(i, logprobs=2, min_tokens=3) for i in range(5)]
    logits = random_logits(5)
    whole = sampler.sample(logits, sequences)
    logits[1, 30], logits[3, 1] = math.nan, -math.inf
    broken = sampler.sample(logits, sequences)
    assert {row: error.code for row, error in broken.failed.items()} == dict.fromkeys((1, 3), "non_finite_logits")
    assert set(broken.logprobs) == {0, 2, 4}
    for row in (0, 2, 4):
        assert broken.tokens[row] == whole.tokens[row]
        assert broken.logprobs[row] == whole.logprobs[row]


def test_logprobs_of_every_count_at_once(sampler: Sampler) -> None:
    counts = [0, 3, 1, 3, VOCABULARY, 10 * VOCABULARY]
    sequences = [new_sequence(i, logprobs=count, temperature=3.0, presence_penalty=2.0) for i, count in enumerate(counts)]
    logits = random_logits(len(counts)).round()  # ties: lower ids come first
    samples = sampler.sample(logits, sequences)
    for row, count in enumerate(counts):
        values = torch.log_softmax(logits[row], -1)
        best = logits[row].sort(descending=True, stable=True).indices[:count].tolist()
        token = samples.tokens[row]
        entries = samples.logprobs[row]
        assert list(entries) == (best if token in best else [*best, token])
        for place, (t, entry) in enumerate(entries.items(), start=1):
            assert entry.logprob == pytest.approx(float(values[t]), abs=1e-5)
            assert entry.rank == (place if t in best else int((logits[row] > logits[row, token]).sum()) + 1)


def test_all_logprobs(sampler: Sampler) -> None:
    logits = random_logits(2)
    samples = sampler.sample(logits, [new_sequence(0, logprobs=-1), new_sequence(1, logprobs=VOCABULARY)])
    for row in range(2):
        order = logits[row].sort(descending=True, stable=True).indices.tolist()
        assert list(samples.logprobs[row]) == order
        assert [entry.rank for entry in samples.logprobs[row].values()] == list(range(1, VOCABULARY + 1))


def test_the_best_of_several_choices_are_scored(sampler: Sampler) -> None:
    """Their drawn tokens have a log-probability, asked for or not; without best_of only who asks has them."""
    wanted: list[dict[str, Any]] = [{"best_of": 3}, {"best_of": 3, "n": 3}, {"n": 2}, {"best_of": 2, "logprobs": 1}, {}]
    logits = random_logits(len(wanted))
    samples = sampler.sample(logits, [new_sequence(i, **params) for i, params in enumerate(wanted)])
    assert sorted(samples.logprobs) == [0, 3]
    assert list(samples.logprobs[0]) == [samples.tokens[0]]
    value = float(torch.log_softmax(logits[0], -1)[samples.tokens[0]])
    assert samples.logprobs[0][samples.tokens[0]].logprob == pytest.approx(value, abs=1e-5)


class Texts:
    """Names tokens; a word is one token."""

    def token_name(self, token: int) -> str:
        return f"<{token}>"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [len(text)]


@pytest.mark.parametrize("backend", kernels.usable("cpu"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 3, -1, 1000])
def test_prompt_logprobs(backend: str, dtype: torch.dtype, count: int) -> None:
    """Those of the model's own distribution whatever the mode, with rank and text; the same for any number of rows."""
    logits, tokens = random_logits(7).to(dtype), [5, 1, 89, 0, 40, 41, 42]
    sampler = Sampler(kernels.load(backend), ENDS, Texts(), VOCABULARY, "processed_logprobs")  # type: ignore[arg-type]
    found = sampler.prompt_logprobs(logits, tokens, count)
    asked = VOCABULARY if count < 0 else min(count, VOCABULARY)
    for row, (token, entries) in enumerate(zip(tokens, found, strict=True)):
        values = torch.log_softmax(logits[row].double(), -1)
        best = logits[row].float().sort(descending=True, stable=True).indices[:asked].tolist()
        assert list(entries) == (best if token in best else [*best, token])
        for t, entry in entries.items():
            assert entry.logprob == pytest.approx(float(values[t]), abs=1e-5)
            assert entry.decoded_token == f"<{t}>"
        if token not in best:
            assert entries[token].rank == 1 + int((logits[row] > logits[row, token]).sum())
        assert sampler.prompt_logprobs(logits[row : row + 1], [token], count) == [entries]
    assert sampler.prompt_logprobs(logits[:0], [], count) == []


@pytest.mark.parametrize("backend", kernels.usable("cpu"))
def test_processed_logprobs_in_pieces(backend: str) -> None:
    """Rows are looked at a few at a time; each is what it is alone."""
    count = 2 * PIECE + 3
    sequences = [new_sequence(i, temperature=0.5 + i / 50, top_k=1 + i % 9, logprobs=2) for i in range(count)]
    logits = random_logits(count)
    sampler = Sampler(kernels.load(backend), ENDS, None, VOCABULARY, "processed_logprobs")
    samples = sampler.sample(logits, sequences)
    for row in range(0, count, 13):
        alone = sampler.sample(logits[row : row + 1], [sequences[row]])
        assert alone.logprobs[0] == samples.logprobs[row]
        kept = logits[row] / sequences[row].params.temperature
        kept[kept < kept.topk(1 + row % 9).values[-1]] = -math.inf
        for token, entry in samples.logprobs[row].items():
            assert entry.logprob == pytest.approx(float(torch.log_softmax(kept, -1)[token]), abs=1e-5)


def test_settings_are_those_of_the_params_however_many_come_and_go() -> None:
    """Far more sets of parameters than are remembered, each gone before the next: none is taken for another."""
    settings = RowSettings()
    for start in range(0, 3 * CAPACITY, 500):
        sequences = [new_sequence(i, temperature=1 + (start + i) / 1000, top_k=i) for i in range(500)]
        found = settings.gather(sequences)
        assert found["top_k"].tolist() == list(range(500))
        assert found["temperature"].tolist() == pytest.approx([1 + (start + i) / 1000 for i in range(500)])
        assert len(settings._params) <= CAPACITY + 500
        assert len(settings._table) <= 2 * CAPACITY


def alone(oracle: Callable[[list[int]], Tensor], request: Request, choice: int) -> list[int]:
    """A choice with penalties by a plain loop over the whole context."""
    p = request.params
    tokens, output = list(request.prompt_token_ids), []
    while len(output) < (p.max_tokens or 0):
        logits = oracle(tokens).clone()
        for t in set(tokens):
            logits[t] = logits[t] / p.repetition_penalty if logits[t] > 0 else logits[t] * p.repetition_penalty
        for t, count in Counter(output).items():
            logits[t] -= p.frequency_penalty * count + p.presence_penalty
        cumulative = torch.softmax(logits / p.temperature, -1).double().cumsum(-1)
        u = float(uniforms([noise_key(p.seed, 0, request.index, choice)], [len(output)])[0])
        output.append(int((cumulative <= u * cumulative[-1]).sum()))
        tokens.append(output[-1])
    return output


def test_penalties_survive_preemption_and_choices(make_engine: Callable[..., Engine], oracle: Callable[[list[int]], Tensor]) -> None:
    params = SamplingParams(
        n=2, max_tokens=14, ignore_eos=True, temperature=0.8, repetition_penalty=1.4, frequency_penalty=0.6, presence_penalty=0.2
    )
    requests = [Request(str(i), [3 + i, 4, 5, 6] * 3, params, i) for i in range(6)]
    engine = make_engine(num_blocks=14)
    for request in requests:
        engine.add(request)
    outputs = {}
    while engine.num_unfinished:
        outputs.update({o.request_id: o for o in engine.step()})
    assert engine.stats.num_preemptions > 0
    for request in requests:
        assert [o.token_ids for o in outputs[request.request_id].outputs] == [alone(oracle, request, i) for i in range(2)]


def test_what_is_kept_of_a_step_is_right_for_the_next(sampler: Sampler) -> None:
    """The same rows again with a token more, others in their places, and fewer: each draws what it would as the first."""
    first, second, third = (new_sequence(i, temperature=0.5 + i) for i in range(3))
    logits = random_logits(3)
    for rows in ([first, second, third], [first, second, third], [third, second, first], [second], [first, second]):
        alone = [Sampler(sampler.ops, ENDS, None, VOCABULARY).sample(logits[[i]], [s]).tokens[0] for i, s in enumerate(rows)]
        drawn = sampler.sample(logits[: len(rows)], rows)
        assert drawn.tokens == drawn.ids.tolist() == alone
        for sequence, token in zip(rows, alone, strict=True):
            sequence.tokens.append(token)
