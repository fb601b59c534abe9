"""A checkpoint that does not fit is refused by name, before any memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from infer.core.errors import ModelError
from infer.core.weights.loader import load, load_dummy
from infer.core.weights.parameter import Parameter

CPU = torch.device("cpu")


@dataclass
class Source:
    weights: dict[str, torch.Tensor]
    name: str = "toy"

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.weights

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.weights.items()


def parameters() -> list[Parameter]:
    return [Parameter(("q.weight", (4, 3)), ("k.weight", (2, 3))), Parameter(("norm.weight", (3,)))]


def weights() -> dict[str, torch.Tensor]:
    return {"norm.weight": torch.rand(3), "k.weight": torch.rand(2, 3), "q.weight": torch.rand(4, 3)}


def test_parts_are_stacked_and_converted() -> None:
    made, given = parameters(), weights()
    load(made, Source({**given, "model.layers.0.rotary_emb.inv_freq": torch.rand(2)}), torch.bfloat16, CPU)  # type: ignore[arg-type]
    assert torch.equal(made[0].tensor, torch.cat([given["q.weight"], given["k.weight"]]).bfloat16())
    assert torch.equal(made[1].tensor, given["norm.weight"].bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k.weight": None}, r"missing: k\.weight"),
        ({"extra.weight": torch.rand(1)}, r"unexpected: extra\.weight"),
        ({"k.weight": torch.rand(3, 2)}, r"k\.weight has shape \(3, 2\), config.json makes it \(2, 3\)"),
        ({f"x{i}": torch.rand(1) for i in range(9)}, r"unexpected: x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    given = {name: tensor for name, tensor in {**weights(), **change}.items() if tensor is not None}
    made = parameters()
    with pytest.raises(ModelError, match=message):
        load(made, Source(given), torch.float32, CPU)  # type: ignore[arg-type]
    assert all(p.tensor.numel() == 0 for p in made)


def test_what_may_be_there_is_ignored() -> None:
    load(parameters(), Source({**weights(), "lm_head.weight": torch.rand(1)}), torch.float32, CPU, ignore=frozenset({"lm_head.weight"}))  # type: ignore[arg-type]


def test_dummy_weights_are_the_same_each_time_and_of_sane_size() -> None:
    made, again = parameters(), parameters()
    load_dummy(made, torch.float32, CPU, seed=1)
    load_dummy(again, torch.float32, CPU, seed=1)
    assert torch.equal(made[0].tensor, again[0].tensor)
    assert torch.equal(made[1].tensor, torch.ones(3))
    assert 0 < made[0].tensor.std() < 2
