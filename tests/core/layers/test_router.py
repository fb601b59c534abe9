"""Routing as data: every way of choosing experts and weighing them against plain formulas, and the same for a row in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from infer.core.errors import ModelError
from infer.core.layers.router import Router, row_sum
from infer.core.spec.architectures.experts.mixtral import NAMES
from infer.core.spec.stack import ExpertsSpec, RoutingSpec
from infer.kernels import load

EXPERTS = 24


def router(**settings: Any) -> Router:
    made = Router(load("reference"), "layer", NAMES, 8, EXPERTS, RoutingSpec(**settings))
    if made.correction is not None:
        made.correction.tensor = torch.randn(made.correction.shape, generator=torch.Generator().manual_seed(3))
    return made


def numbers(rows: int = 64) -> torch.Tensor:
    return torch.randn(rows, EXPERTS, generator=torch.Generator().manual_seed(1)) * 2


def test_a_softmax_over_all_is_weighed_by_their_shares() -> None:
    chosen, weights = router(per_token=4).choice(numbers())
    expected, places = numbers().softmax(-1).topk(4)
    assert torch.equal(chosen, places)
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("settings", [{"scores": "chosen"}, {"normalized": True}], ids=str)
def test_a_softmax_over_the_chosen_is_normalized(settings: dict[str, Any]) -> None:
    chosen, weights = router(per_token=5, **settings).choice(numbers())
    largest, places = numbers().topk(5)
    assert torch.equal(chosen, places)
    torch.testing.assert_close(weights, largest.softmax(-1))


def test_what_is_added_to_the_sum_makes_small_scores_smaller() -> None:
    _, weights = router(per_token=3, scores="sigmoid", normalized=True, added_to_sum=1e-3).choice(numbers() - 12)
    scores = (numbers() - 12).sigmoid().topk(3).values
    torch.testing.assert_close(weights, scores / (scores.sum(-1, keepdim=True) + 1e-3))
    assert weights.sum(-1).min() < 0.9


@pytest.mark.parametrize("correction", [1, 2])
@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_a_correction_decides_and_does_not_weigh(scores: str, correction: int) -> None:
    made = router(per_token=3, scores=scores, correction=correction, normalized=True, scale=2.5)
    chosen, weights = made.choice(numbers())
    plain = numbers().sigmoid() if scores == "sigmoid" else numbers().softmax(-1)
    assert made.correction is not None
    places = (plain + made.correction.tensor.flatten()).topk(3).indices
    assert torch.equal(chosen, places)
    assert not torch.equal(chosen, plain.topk(3).indices)
    own = plain.gather(1, places)
    torch.testing.assert_close(weights, 2.5 * own / own.sum(-1, keepdim=True))


@pytest.mark.parametrize("group_by", [1, 2])
def test_only_the_best_groups_are_chosen_from(group_by: int) -> None:
    chosen, weights = router(per_token=5, scores="sigmoid", groups=6, groups_chosen=2, group_by=group_by).choice(numbers())
    scores = numbers().sigmoid()
    for row, mine, weighed in zip(scores, chosen, weights, strict=True):
        groups = row.view(6, 4).topk(group_by).values.sum(-1).topk(2).indices.tolist()
        allowed = [expert for expert in range(EXPERTS) if expert // 4 in groups]
        best = sorted(allowed, key=lambda expert: -row[expert].item())[:5]
        assert mine.tolist() == best
        torch.testing.assert_close(weighed, row[mine])


@pytest.mark.parametrize(
    "settings",
    [
        {"scores": "chosen"},
        {"normalized": True},
        {"scores": "sigmoid", "correction": 1, "groups": 4, "groups_chosen": 2, "group_by": 2, "normalized": True, "scale": 1.5},
        {"correction": 2, "normalized": True},
    ],
    ids=str,
)
def test_a_row_gets_the_same_in_any_company_and_equals_go_to_the_lower(settings: dict[str, Any]) -> None:
    made, many = router(per_token=6, **settings), numbers(96)
    many[40] = 0.5
    many[41] = torch.nan
    chosen, weights = made.choice(many)
    for first, count in ((0, 16), (32, 16), (7, 1), (40, 1), (41, 1), (48, 48)):
        few, few_weights = made.choice(many[first : first + count].clone())
        assert torch.equal(few, chosen[first : first + count])
        torch.testing.assert_close(few_weights, weights[first : first + count], rtol=0, atol=0, equal_nan=True)
    if made.correction is None:
        assert chosen[40].tolist() == [0, 1, 2, 3, 4, 5]
    assert weights[torch.arange(96) != 41].isfinite().all()


def test_sums_do_not_depend_on_the_number_of_rows() -> None:
    for width in (1, 2, 3, 5, 8, 60, 127, 128):
        x = torch.randn(64, width, generator=torch.Generator().manual_seed(width))
        whole = row_sum(x)
        torch.testing.assert_close(whole[:, 0].double(), x.double().sum(-1), rtol=1e-5, atol=1e-5)
        assert torch.equal(torch.cat([row_sum(row[None]) for row in x]), whole)


def test_numbers_that_do_not_fit_are_refused() -> None:
    for settings, count, message in (
        ({"per_token": 9}, 8, "a token has 9 experts, and there are 8"),
        ({"per_token": 2, "groups": 3}, 8, "8 experts cannot be chosen from 1 of 3 groups"),
        ({"per_token": 5, "groups": 4, "groups_chosen": 2}, 8, "2 of 4 groups have no 5 experts"),
    ):
        with pytest.raises(ModelError, match=message):
            ExpertsSpec(count=count, routing=RoutingSpec(**settings), size=4, activation="silu")
