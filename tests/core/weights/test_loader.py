"""A checkpoint that does not fit is refused by name, before any memory is taken."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

from infer.core.errors import ModelError
from infer.core.weights.loader import load, load_dummy
from infer.core.weights.parameter import Parameter
from infer.core.weights.source import TensorInfo

CPU = torch.device("cpu")


@dataclass
class Source:
    weights: dict[str, torch.Tensor]
    name: str = "toy"

    def tensors(self) -> dict[str, TensorInfo]:
        dtypes = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL", torch.complex64: "C64"}
        return {name: TensorInfo(name, tuple(one.shape), dtypes[one.dtype], "toy") for name, one in self.weights.items()}

    def stream(self, cuts: object = None) -> Iterator[tuple[str, torch.Tensor]]:
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
        ({"k.weight": torch.ones(2, 3, dtype=torch.int64)}, r"k\.weight is stored as I64, which is no dtype of weights"),
        ({"norm.weight": torch.ones(3, dtype=torch.bool)}, r"norm\.weight is stored as BOOL"),
        ({"q.weight": torch.ones(4, 3, dtype=torch.complex64)}, r"q\.weight is stored as C64"),
        ({f"x{i}": torch.rand(1) for i in range(9)}, r"unexpected: x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, torch.Tensor | None], message: str) -> None:
    given = {name: tensor for name, tensor in {**weights(), **change}.items() if tensor is not None}
    made = parameters()
    with pytest.raises(ModelError, match=message):
        load(made, Source(given), torch.float32, CPU)  # type: ignore[arg-type]
    assert all(p.tensor.numel() == 0 for p in made)


def test_a_tensor_with_two_uses_is_read_once() -> None:
    stored: list[torch.Tensor] = []
    embedding, head = Parameter(("e.weight", (4, 3))), Parameter(("e.weight", (4, 3)), store=stored.append)
    given = torch.rand(4, 3)
    load([embedding, head], Source({"e.weight": given}), torch.float32, CPU)  # type: ignore[arg-type]
    assert torch.equal(embedding.tensor, given)
    assert torch.equal(stored[0], given)
    load_dummy(again := [Parameter(("e.weight", (4, 3))), Parameter(("e.weight", (4, 3)))], torch.float32, CPU)
    assert torch.equal(again[0].tensor, again[1].tensor)


def test_a_parameter_is_finished_with_its_last_part_and_let_go() -> None:
    """At any time there is memory for one tensor of the file and for fused ones that still lack a part, no more."""
    finished: list[str] = []
    alive: list[weakref.ref[torch.Tensor]] = []

    def store(name: str) -> Callable[[torch.Tensor], None]:
        def stored(tensor: torch.Tensor) -> None:
            assert tensor.shape == (6, 3)
            finished.append(name)

        return stored

    class Watched(Source):
        def stream(self, cuts: object = None) -> Iterator[tuple[str, torch.Tensor]]:
            for i in range(3):
                for part, rows in (("q", 4), ("k", 2)):
                    assert finished == [str(j) for j in range(i)], "a layer waits for another"
                    assert not [ref for ref in alive if ref() is not None], "the last tensor is still held"
                    tensor = torch.rand(rows, 3)
                    alive.append(weakref.ref(tensor))
                    pair = (f"{i}.{part}", tensor)
                    del tensor
                    yield pair
                    del pair

    layers = [Parameter((f"{i}.q", (4, 3)), (f"{i}.k", (2, 3)), store=store(str(i))) for i in range(3)]
    headers = {f"{i}.{part}": torch.empty(rows, 3) for i in range(3) for part, rows in (("q", 4), ("k", 2))}
    load(layers, Watched(headers), torch.float32, CPU)  # type: ignore[arg-type]
    assert finished == ["0", "1", "2"]
    assert all(p.tensor.numel() == 0 for p in layers)


def test_what_may_be_there_is_ignored() -> None:
    load(parameters(), Source({**weights(), "lm_head.weight": torch.rand(1)}), torch.float32, CPU, ignore=frozenset({"lm_head.weight"}))  # type: ignore[arg-type]


def test_dummy_weights_are_the_same_each_time_and_of_sane_size() -> None:
    made, again = parameters(), parameters()
    load_dummy(made, torch.float32, CPU, seed=1)
    load_dummy(again, torch.float32, CPU, seed=1)
    assert torch.equal(made[0].tensor, again[0].tensor)
    assert torch.equal(made[1].tensor, torch.ones(3))
    assert 0 < made[0].tensor.std() < 2
