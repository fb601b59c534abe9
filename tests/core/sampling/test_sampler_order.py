"""The whole order of a draw, against the same in lists and `math`: every field alone, in any mix, and in any company."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from infer import kernels
from infer.core.sampling.sampler import Sampler, Samples
from infer.core.types.noise import uniforms
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence

ENDS = frozenset({1, 2})
VOCABULARY = 90
NO = -math.inf

#: A logits processor -> the same on (prompt ids, output ids, list of logits).
PlainProcessors = dict[Any, Callable[[list[int], list[int], list[float]], list[float]]]


def allowed_tokens(sequence: Sequence, logits: list[float], structured: set[int] | None) -> set[int]:
    """By the mask: structured output, allowed_token_ids, and what processors left."""
    allowed = {t for t, x in enumerate(logits) if x > NO}
    if structured is not None:
        allowed &= structured
    if sequence.params.allowed_token_ids is not None:
        allowed &= set(sequence.params.allowed_token_ids)
    return allowed


def forbidden_tokens(sequence: Sequence, allowed: set[int], ends: frozenset[int], bad: list[list[int]]) -> set[int]:
    """By bad words, given as token sequences, and by min_tokens."""
    p, output = sequence.params, sequence.output_ids
    forbidden = {word[-1] for word in bad if output[len(output) - len(word) + 1 :] == word[:-1] and len(word) - 1 <= len(output)}
    held_back = {*ends, *p.stop_token_ids} if len(output) < p.min_tokens else set()
    masked = sequence.grammar is not None or p.allowed_token_ids is not None or bool(p.logits_processors)
    if not (masked and allowed <= held_back):
        forbidden |= held_back
    return forbidden


def penalized(sequence: Sequence, logits: list[float]) -> list[float]:
    """After logit_bias, repetition, frequency and presence penalty."""
    p, output = sequence.params, sequence.output_ids
    result = list(logits)
    for token, bias in (p.logit_bias or {}).items():
        result[token] += bias
    for token in {*sequence.request.prompt_token_ids, *output}:
        result[token] = result[token] / p.repetition_penalty if result[token] > 0 else result[token] * p.repetition_penalty
    for token in set(output):
        result[token] -= p.frequency_penalty * output.count(token)
    for token in set(output):
        result[token] -= p.presence_penalty
    return result


def narrowed(sequence: Sequence, logits: list[float]) -> list[float]:
    """After temperature, min_p, top_k, top_p."""
    p = sequence.params
    if p.temperature < 1e-5:
        return logits
    scaled = [x / max(p.temperature, 0.01) for x in logits]
    best = max(scaled)
    weights = [math.exp(x - best) for x in scaled]
    keep = [w >= p.min_p for w in weights]
    if p.top_k > 0:
        kth = sorted(logits, reverse=True)[min(p.top_k, len(logits)) - 1]
        keep = [k and x >= kth for k, x in zip(keep, logits, strict=True)]
    if p.top_p < 1:
        kept = sorted(((x, w) for x, w, k in zip(logits, weights, keep, strict=True) if k), reverse=True)
        total, running = sum(w for _, w in kept), 0.0
        for x, w in kept:
            running += w
            if running >= p.top_p * total:
                keep = [k and y >= x for k, y in zip(keep, logits, strict=True)]
                break
    return [x if k else NO for x, k in zip(scaled, keep, strict=True)]


def processed(
    sequence: Sequence,
    logits: list[float],
    *,
    ends: frozenset[int],
    bad: list[list[int]],
    structured: set[int] | None = None,
    processors: PlainProcessors | None = None,
) -> list[float] | None:
    """The distribution of the sequence's next token; None if no token is left."""
    for processor in sequence.params.logits_processors:
        logits = (processors or {})[processor](sequence.request.prompt_token_ids, sequence.output_ids, logits)
    allowed = allowed_tokens(sequence, logits, structured)
    allowed -= forbidden_tokens(sequence, allowed, ends, bad)
    if not allowed:
        return None
    masked = [x if t in allowed else NO for t, x in enumerate(logits)]
    return narrowed(sequence, penalized(sequence, masked))


def logprobs(logits: list[float]) -> list[float]:
    best = max(logits)
    log_sum = math.log(sum(math.exp(x - best) for x in logits))
    return [x - best - log_sum for x in logits]


def drawn(sequence: Sequence, scores: list[float]) -> int:
    """The most likely token, or the one that the sequence's noise picks."""
    if sequence.params.temperature < 1e-5:
        return scores.index(max(scores))
    weights = [math.exp(x) for x in logprobs(scores)]
    target = float(uniforms([sequence.noise_key], [sequence.num_output])[0]) * sum(weights)
    running = 0.0
    for token, weight in enumerate(weights):
        running += weight
        if running > target:
            return token
    return max(t for t, w in enumerate(weights) if w)


# -- the sampler beside it --------------------------------------------------------------------------------------------
class Letters:
    """One token a letter (10 to 35); those with a space in front have tokens of their own (40 to 65), a space alone is 9."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        tokens, space = [], False
        for letter in text:
            if letter == " ":
                tokens += [9] * space
                space = True
            else:
                tokens.append(ord(letter) - ord("a") + (40 if space else 10))
                space = False
        return [*tokens, *[9] * space]

    def token_name(self, token: int) -> str:
        return f"<{token}>"


class Allowing:
    """A grammar that allows the same tokens at any time."""

    finished = False

    failure = None

    def __init__(self, tokens: set[int]) -> None:
        self.tokens = tokens

    def fill(self, bits: Tensor, place: int) -> None:
        flags = np.zeros(-(-VOCABULARY // 32) * 32, dtype=bool)
        flags[list(self.tokens)] = True
        flags[VOCABULARY:] = True  # what lies beyond the vocabulary means nothing
        bits[place] = torch.from_numpy(np.packbits(flags, bitorder="little").view("<i4"))

    def accept(self, token: int) -> bool:
        return token in self.tokens


def halve(output: list[int], logits: Tensor) -> Tensor:
    return logits.mul_(0.5)


def favour_prompt(prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
    logits[prompt] += 2.0
    output.append(3)  # its own copy
    return logits


def forbid_thirds(output: list[int], logits: Tensor) -> Tensor:
    result = logits.double()
    result[::3] = -math.inf
    return result


PLAIN_PROCESSORS: PlainProcessors = {
    halve: lambda prompt, output, x: [v / 2 for v in x],
    favour_prompt: lambda prompt, output, x: [v + 2.0 * (t in prompt) for t, v in enumerate(x)],
    forbid_thirds: lambda prompt, output, x: [v if t % 3 else NO for t, v in enumerate(x)],
}

#: Field -> values that make a difference, each tried alone and in any mix.
FIELDS: dict[str, list[Any]] = {
    "temperature": [0.0, 0.3, 0.83, 1.7],
    "top_p": [0.0371, 0.537, 0.931],
    "top_k": [1, 4, 23, 1000],
    "min_p": [0.0113, 0.31],
    "presence_penalty": [1.1, -2.0],
    "frequency_penalty": [0.7, -0.9],
    "repetition_penalty": [0.6, 1.9],
    "logit_bias": [{7: 100.0, 8: -100}, {"31": 2.25, "11": -1.5, "1": 4}, {t: 0.37 * (t % 5) for t in range(VOCABULARY)}],
    "allowed_token_ids": [[5, 11, 12, 31, 32, 63, 64, 89], list(range(1, VOCABULARY, 2)), [1, 2]],
    "bad_words": [["a", "bc"], [" abc", "b", "cab"], ["  "], [*"abcdefghijklmnopqrstuvwxyz"]],
    "min_tokens": [3, 9],
    "stop_token_ids": [[11, 12, 13]],
    "logits_processors": [[halve], [favour_prompt, halve], [forbid_thirds]],
    "seed": [5],
}
STRUCTURED = [None, {1, 2}, {11, 12, 13, 50, 51, 89}, set(range(VOCABULARY)) - {10, 40}, {1, 11}]
LOGITS = torch.randn(64, VOCABULARY, generator=torch.Generator().manual_seed(0)).mul(2.5)
LOGITS[::4] = LOGITS[::4].round()  # ties


def new_sequence(index: int, params: dict[str, Any], output: list[int], structured: set[int] | None = None) -> Sequence:
    if structured is not None:
        params = {**params, "structured_outputs": {"choice": ["whatever `structured` stands for"]}}
    request = Request(str(index), [3, 11, 12, 10 + index % 50], SamplingParams(max_tokens=40, logprobs=-1, **params), index)
    sequence = Sequence.of(request, 0, 0, 4096)
    sequence.tokens += output
    sequence.grammar = None if structured is None else Allowing(structured)  # type: ignore[assignment]
    return sequence


def make_sampler(backend: str, mode: str = "processed_logprobs") -> Sampler:
    return Sampler(kernels.load(backend), ENDS, Letters(), VOCABULARY, mode)  # type: ignore[arg-type]


def expected_of(sequence: Sequence, logits: Tensor) -> list[float] | None:
    bad = [tokens for word in sequence.params.bad_words for tokens in spelled(word)]
    grammar: Any = sequence.grammar
    structured = None if grammar is None else grammar.tokens
    return processed(sequence, logits.tolist(), ends=ENDS, bad=bad, structured=structured, processors=PLAIN_PROCESSORS)


def spelled(word: str) -> list[list[int]]:
    """Where a word starts with letters: as it is and after a space."""
    letters = Letters()
    bare = word.lstrip(" ")
    return [letters.encode(text, add_special_tokens=False) for text in ((bare, " " + bare) if bare else (word,))]


def check(samples: Samples, row: int, sequence: Sequence, logits: Tensor) -> None:
    """One row against the plain rules, its whole distribution included."""
    scores = expected_of(sequence, logits)
    if scores is None:
        assert samples.failed[row].code == "invalid_value"
        assert "no token may come next" in samples.failed[row].message
        assert row not in samples.logprobs
        return
    assert row not in samples.failed
    assert samples.tokens[row] == drawn(sequence, scores)
    entries = samples.logprobs[row]
    wanted = logprobs(scores)
    assert len(entries) == VOCABULARY
    for token, entry in entries.items():
        assert entry.logprob == pytest.approx(wanted[token], abs=2e-4)
        assert entry.decoded_token == f"<{token}>"


@pytest.fixture(params=kernels.usable("cpu"))
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_alone(backend: str, name: str) -> None:
    outputs = [[], [11], [20, 11], [10, 11, 12, 10, 11], [12, 10] * 5]
    sequences = [new_sequence(i, {name: value}, output) for value in FIELDS[name] for i, output in enumerate(outputs)]
    if name not in ("stop_token_ids", "min_tokens", "seed"):
        plain = [expected_of(new_sequence(i, {}, s.output_ids), LOGITS[i]) for i, s in enumerate(sequences)]
        assert any(p != expected_of(s, LOGITS[i]) for i, (p, s) in enumerate(zip(plain, sequences, strict=True))), "it changes nothing"
    samples = make_sampler(backend).sample(LOGITS[: len(sequences)], sequences)
    for row, sequence in enumerate(sequences):
        check(samples, row, sequence, LOGITS[row])


def mixes() -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: st.sampled_from(values) for name, values in FIELDS.items()}
    return st.fixed_dictionaries({}, optional=fields)


ROWS = st.tuples(
    mixes(), st.lists(st.sampled_from([1, 10, 11, 12, 31, 40, 41]), max_size=12), st.sampled_from(STRUCTURED), st.integers(0, 63)
)


@pytest.mark.parametrize("mode", ["processed_logprobs", "raw_logprobs"])
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
def test_any_mix_in_any_company(backend: str, mode: str, rows: list[tuple[dict[str, Any], list[int], set[int] | None, int]]) -> None:
    """A batch of any parameters: each row is what the plain rules give, and to the bit what it gets alone."""
    sequences = [new_sequence(i, params, output, structured) for i, (params, output, structured, _) in enumerate(rows)]
    logits = LOGITS[[place for *_, place in rows]]
    before = logits.clone()
    sampler = make_sampler(backend, mode)
    together = sampler.sample(logits, sequences)
    assert torch.equal(logits, before)
    for row, sequence in enumerate(sequences):
        alone = make_sampler(backend, mode).sample(logits[row : row + 1], [sequence])
        assert alone.tokens == [together.tokens[row]]
        assert alone.logprobs.get(0) == together.logprobs.get(row)
        assert (0 in alone.failed) == (row in together.failed)
        if mode == "processed_logprobs":
            check(together, row, sequence, logits[row])
        elif row not in together.failed:
            wanted = logprobs(logits[row].tolist())
            for token, entry in together.logprobs[row].items():
                assert entry.logprob == pytest.approx(wanted[token], abs=1e-4)
            scores = expected_of(sequence, logits[row])
            assert scores is not None
            assert together.tokens[row] == drawn(sequence, scores)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.6, "top_k": 6, "logit_bias": {11: 1.5, 12: -1.0}},
        {"temperature": 0.7, "top_p": 0.93, "repetition_penalty": 1.4, "frequency_penalty": 0.4},
        {"min_p": 0.04, "temperature": 1.9, "presence_penalty": 0.8, "bad_words": ["a"]},
        {"allowed_token_ids": [1, 5, 6, 7, 11, 12], "min_tokens": 8, "top_p": 0.99, "temperature": 2.5},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: dict[str, Any]) -> None:
    """20,000 records' draws from the same logits, each with its own noise, against the plain rules' probabilities."""
    count, output = 20000, [11, 11, 12, 20]
    made = SamplingParams(max_tokens=40, **params)
    sequences = []
    for i in range(count):
        sequence = Sequence.of(Request(str(i), [3, 11], made, i), 0, 0, 4096)
        sequence.tokens += output
        sequences.append(sequence)
    logits = LOGITS[1]
    samples = make_sampler(kernels.usable("cpu")[0]).sample(logits.expand(count, VOCABULARY), sequences)
    scores = expected_of(sequences[0], logits)
    assert scores is not None
    expected = [count * math.exp(x) for x in logprobs(scores)]
    counts = Counter(samples.tokens)
    assert all(expected[token] for token in counts)
    # Tokens too rare to be judged one by one are one class together.
    classes = [(counts[t], e) for t, e in enumerate(expected) if e >= 8]
    rare = [(counts[t], e) for t, e in enumerate(expected) if 0 < e < 8]
    if sum(e for _, e in rare) >= 8:
        classes.append((sum(c for c, _ in rare), sum(e for _, e in rare)))
    chi_square = sum((c - e) ** 2 / e for c, e in classes)
    freedom = max(len(classes) - 1, 1)
    # Wilson and Hilferty's approximation of the quantile that one run in 100,000 exceeds.
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 4.265 * math.sqrt(2 / (9 * freedom))) ** 3


def test_a_structured_output_that_can_only_end_ends(backend: str) -> None:
    """min_tokens gives way to the mask where that leaves nothing but ends, and only there."""
    sequences = [
        new_sequence(0, {"min_tokens": 9, "stop_token_ids": [11]}, [20], {1, 11}),
        new_sequence(1, {"min_tokens": 9, "stop_token_ids": [11]}, [20], {1, 11, 30}),
        new_sequence(2, {"min_tokens": 9, "allowed_token_ids": [2]}, [20]),
        new_sequence(3, {"min_tokens": 9, "allowed_token_ids": [2, 17]}, [20], {2, 17, 1}),
    ]
    samples = make_sampler(backend).sample(LOGITS[:4], sequences)
    assert not samples.failed
    assert samples.tokens[0] in (1, 11)
    assert samples.tokens[1:] == [30, 2, 17]


def test_a_row_that_nothing_is_left_for_fails_alone(backend: str) -> None:
    sequences = [
        new_sequence(0, {"temperature": 0}, []),
        new_sequence(1, {"allowed_token_ids": [10, 40], "bad_words": ["a"]}, []),
        new_sequence(2, {"allowed_token_ids": [10]}, [], {11}),
        new_sequence(3, {"logits_processors": [lambda output, x: x.fill_(-math.inf)]}, []),
    ]
    samples = make_sampler(backend).sample(LOGITS[:4], sequences)
    assert {row: (e.code, e.param) for row, e in samples.failed.items()} == {
        1: ("invalid_value", "allowed_token_ids"),
        2: ("invalid_value", "structured_outputs"),
        3: ("invalid_value", "logits_processors"),
    }
    assert samples.tokens[0] == int(LOGITS[0].argmax())
    assert min(samples.tokens) >= 0
