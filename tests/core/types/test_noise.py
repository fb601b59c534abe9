"""Noise belongs to a place: (run seed, index, choice, position), or (own seed + choice, position)."""

from __future__ import annotations

import numpy as np

from infer.core.types.noise import noise_key, uniforms
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request, Sequence


def test_every_part_of_the_place_matters() -> None:
    places = [(None, run, index, choice) for run in range(3) for index in range(20) for choice in range(4)]
    keys = [noise_key(*place) for place in places]
    assert len(set(keys)) == len(keys)


def test_own_seed_leaves_the_place_out_and_counts_choices_on() -> None:
    assert noise_key(5, 0, 1, 0) == noise_key(5, 9, 2, 0)
    assert noise_key(5, 0, 1, 2) == noise_key(7, 0, 1, 0)
    assert noise_key(5, 0, 1, 0) != noise_key(6, 0, 1, 0)


def test_prompts_of_a_list_have_noise_of_their_own() -> None:
    """They share an index; with a seed of its own each is drawn for as if it stood alone."""

    def keys(seed: int | None, first: int) -> list[int]:
        request = Request("r", [1], SamplingParams(n=2, seed=seed), 3, first_choice=first)
        return [Sequence.of(request, choice, 0, 9).noise_key for choice in range(2)]

    assert keys(None, 0) == [noise_key(None, 0, 3, 0), noise_key(None, 0, 3, 1)]
    assert keys(None, 2) == [noise_key(None, 0, 3, 2), noise_key(None, 0, 3, 3)]
    assert keys(5, 2) == keys(5, 0)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    keys = [noise_key(None, 0, i, 0) for i in range(50)]
    together = uniforms(keys, range(50))
    assert [float(uniforms([k], [i])[0]) for i, k in enumerate(keys)] == together.tolist()


def test_uniform_and_uncorrelated() -> None:
    keys = [noise_key(None, 0, i, 0) for i in range(500)]
    draws = np.stack([uniforms(keys, [position] * 500) for position in range(200)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-square with 99 degrees of freedom: 1 in 10,000
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.015
    assert len(np.unique(draws)) == draws.size
