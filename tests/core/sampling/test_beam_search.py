"""The search by itself: against an exhaustive one, against the plain algorithm, against the rules of transformers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from infer.core.sampling.beam_search import BeamSearch

VOCABULARY, EOS = 6, 0
Model = Callable[[tuple[int, ...]], np.ndarray]


def model(seed: int, *, flat: bool = False) -> Model:
    """Log-probabilities of the next token after any tokens; `flat` ones have many ties."""

    def next_logprobs(tokens: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([seed, *tokens, len(tokens)])
        logits = rng.integers(0, 2, VOCABULARY).astype(float) if flat else rng.normal(0, 1.5, VOCABULARY)
        return logits - np.log(np.exp(logits).sum())

    return next_logprobs


def search(next_logprobs: Model, **how: object) -> list[tuple[tuple[int, ...], float, str]]:
    """(tokens, score, finish reason) of what a search returns, and checks the books on the way."""
    settings = {"num_prompt": 3, "length_penalty": 1.0, "scoring": "vllm", "early_stopping": False, "num_ends": 1, **how}
    settings.setdefault("num_return", settings["width"])
    beams = BeamSearch(**settings)  # type: ignore[arg-type]
    live: list[tuple[int, ...]] = [()]
    texts: dict[int, tuple[int, ...]] = {}
    while not beams.done:
        assert len(live) == len(beams.live) <= beams.width
        rows = [next_logprobs(tokens) for tokens in live]
        count = min(beams.num_candidates, VOCABULARY)
        top = [np.lexsort((np.arange(VOCABULARY), -row))[:count] for row in rows]
        values = np.array([row[t] for row, t in zip(rows, top, strict=True)])
        going, new = beams.advance(np.array(top), values, lambda _, token: ("stop", None) if token == EOS else None)
        texts.update({id(h): (*live[h.parent], h.token) for h in new})
        live = [(*live[g.parent], g.token) for g in going]
    return [(texts[id(h)], h.score, h.finish_reason) for h in beams.best()]


def plain(
    next_logprobs: Model, width: int, max_tokens: int, length_penalty: float, num_prompt: int = 3
) -> list[tuple[tuple[int, ...], float]]:
    """vLLM's algorithm as its documentation tells it: no bound, all steps."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    completed: list[tuple[tuple[int, ...], float]] = []
    for _ in range(max_tokens):
        candidates = []
        for tokens, total in live:
            row = next_logprobs(tokens)
            for token in sorted(range(VOCABULARY), key=lambda t: (-row[t], t))[: 2 * width]:
                beam = ((*tokens, token), total + float(np.float32(row[token])))
                (completed if token == EOS else candidates).append(beam)
        live = sorted(candidates, key=lambda beam: -beam[1])[:width]

    def score(beam: tuple[tuple[int, ...], float]) -> float:
        length = num_prompt + len(beam[0]) - (beam[0][-1] == EOS)
        return beam[1] / length**length_penalty

    return [(beam[0], score(beam)) for beam in sorted([*completed, *live], key=lambda beam: -score(beam))[:width]]


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_vllm_scoring_is_the_plain_algorithm_with_an_exact_bound(width: int, length_penalty: float) -> None:
    for seed in range(20):
        found = search(model(seed), width=width, max_tokens=6, length_penalty=length_penalty)
        wanted = plain(model(seed), width, 6, length_penalty)
        assert [tokens for tokens, _, _ in found] == [tokens for tokens, _ in wanted]
        assert [score for _, score, _ in found] == pytest.approx([score for _, score in wanted], abs=1e-5)


@pytest.mark.parametrize(("scoring", "penalty"), [("vllm", 0.0), ("vllm", 1.0), ("hf", 0.0)])
def test_a_wide_enough_beam_finds_the_best_of_all_sequences(scoring: str, penalty: float) -> None:
    """Every sequence of up to 4 tokens; for hf "never" without length penalty is the search that is exact."""
    for seed in range(10):
        next_logprobs = model(seed)
        best: tuple[float, tuple[int, ...]] = (-math.inf, ())
        for length in range(1, 5):
            for tokens in itertools.product(range(VOCABULARY), repeat=length):
                if EOS in tokens[:-1] or (tokens[-1] != EOS and length < 4):
                    continue
                total = sum(float(np.float32(next_logprobs(tokens[:i])[t])) for i, t in enumerate(tokens))
                best = max(best, (total / (3 + length - (tokens[-1] == EOS)) ** penalty, tokens))
        found = search(next_logprobs, width=6**3, max_tokens=4, length_penalty=penalty, scoring=scoring, early_stopping="never")
        assert found[0][0] == best[1]
        assert found[0][1] == pytest.approx(best[0], abs=1e-5)


@pytest.mark.parametrize("scoring", ["vllm", "hf"])
def test_ties_have_one_outcome(scoring: str) -> None:
    for seed in range(10):
        runs = {tuple(search(model(seed, flat=True), width=3, max_tokens=5, scoring=scoring)) for _ in range(3)}
        assert len(runs) == 1


def test_the_bound_saves_steps() -> None:
    """An ending that is nearly certain leaves nothing to look for."""
    calls = []

    def sure(tokens: tuple[int, ...]) -> np.ndarray:
        calls.append(tokens)
        return np.log(np.array([0.9, 0.02, 0.02, 0.02, 0.02, 0.02]))

    search(sure, width=2, num_return=1, max_tokens=1000)
    assert len(calls) < 100


def test_early_stopping_stops_at_width_finished_beams() -> None:
    random.seed(0)
    for seed in range(20):
        steps = {}
        for early in (True, False, "never"):
            calls: list[int] = []

            def counted(tokens: tuple[int, ...], seed: int = seed, calls: list[int] = calls) -> np.ndarray:
                calls.append(len(tokens))
                return model(seed)(tokens)

            found = search(counted, width=3, max_tokens=12, scoring="hf", early_stopping=early, length_penalty=1.0)
            assert len(found) == 3
            assert [score for _, score, _ in found] == sorted((score for _, score, _ in found), reverse=True)
            steps[early] = max(calls)
        assert steps[True] <= steps[False] <= steps["never"]
