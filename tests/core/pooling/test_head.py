"""Pooling, dense layers and normalization are sentence-transformers' arithmetic, and every row is computed by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infer.core.pooling.batch import bags, pack
from infer.core.pooling.dense import ACTIVATIONS, activate
from infer.core.pooling.head import Head, activated, normalized
from infer.core.pooling.recipe import DenseSpec
from infer.core.pooling.runner import mean
from infer.core.pooling.setting import Setting
from infer.core.types.pooling_request import TextIds

TEXTS = [(11, 12, 13, 14, 15), (21,), (31, 32, 33), tuple(range(40, 70)), (22, 21), (13, 12)]
TWO_LAYERS = (DenseSpec("2_Dense", 24, 40, True, "tanh"), DenseSpec("3_Dense", 40, 17, False, "identity"))


def pooled_by_hand(hidden: Tensor, pooling: str, skip: int = 0) -> Tensor:
    """As sentence-transformers pools [tokens, size], whose mask is 0 at a prompt's tokens that are to be left out."""
    if pooling == "cls":
        return hidden[0]
    if pooling == "last":
        return hidden[-1]
    mask = torch.ones(len(hidden), 1)
    mask[:skip] = 0
    return (hidden * mask).sum(0) / mask.expand(hidden.shape).sum(0).clamp(min=1e-9)


def dense_by_hand(vector: Tensor, specs: tuple[DenseSpec, ...], weights: Callable[[DenseSpec], dict[str, Tensor]]) -> Tensor:
    for spec in specs:
        w = weights(spec)
        vector = ACTIVATIONS[spec.activation](F.linear(vector, w["linear.weight"], w.get("linear.bias")))
    return vector


@pytest.mark.parametrize("dimensions", [None, 5])
@pytest.mark.parametrize("dense", [(), TWO_LAYERS])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_the_table(
    make: Any, ask: Any, states: Any, weights: Any, pooling: str, normalize: bool, dense: Any, dimensions: int | None
) -> None:
    engine, model = make(pooling=pooling, normalize=normalize, dense=dense, matryoshka=True)
    for number, text in enumerate(TEXTS):
        engine.add(ask(str(number), text, dimensions=dimensions))
    found = {pooled.request_id: pooled for _ in range(9) for pooled in engine.step()}
    for number, text in enumerate(TEXTS):
        wanted = dense_by_hand(pooled_by_hand(states(text), pooling), dense, weights)[:dimensions]
        wanted = F.normalize(wanted, p=2, dim=-1) if normalize else wanted
        (got,) = found[str(number)].values
        assert (got.dtype, got.shape) == (np.float32, (dimensions or (17 if dense else 24),))
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=2e-6, atol=2e-6)
    assert all((rows is None) == (pooling == "mean") for rows in model.wanted), "the last layer computes what is wanted"


def test_a_request_over_the_recipe(make: Any, ask: Any, states: Any) -> None:
    """The run's own dimensions and normalization hold where a request has none."""
    engine, _ = make(dimensions=6, matryoshka=(4, 6), normalize=False)
    text = TEXTS[0]
    engine.add(ask("plain", text))
    engine.add(ask("shorter", text, dimensions=4))
    engine.add(ask("whole", text, dimensions=24))
    engine.add(ask("normal", text, use_activation=True))
    found = {pooled.request_id: pooled.values[0] for _ in range(9) for pooled in engine.step()}
    vector = pooled_by_hand(states(text), "mean")
    wanted = {"plain": vector[:6], "shorter": vector[:4], "whole": vector, "normal": F.normalize(vector[:6], dim=0)}
    for name, values in wanted.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), values, rtol=2e-6, atol=2e-6)


def test_a_prompt_that_is_left_out_of_the_mean(make: Any, ask: Any, states: Any) -> None:
    engine, _ = make(normalize=False)
    for skip in (0, 1, 4, 5, 9):
        engine.add(ask(str(skip), TextIds(TEXTS[0], skip=skip), TEXTS[2]))
    for pooled in engine.step():
        wanted = pooled_by_hand(states(TEXTS[0]), "mean", int(pooled.request_id))
        torch.testing.assert_close(torch.from_numpy(pooled.values[0]), wanted, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(torch.from_numpy(pooled.values[1]), pooled_by_hand(states(TEXTS[2]), "mean"), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_only_the_mean_leaves_anything_out(make: Any, ask: Any, states: Any, pooling: str) -> None:
    engine, _ = make(normalize=False, pooling=pooling)
    engine.add(ask("a", TextIds(TEXTS[0], skip=3)))
    (pooled,) = engine.step()
    assert pooled.values[0].tolist() == pooled_by_hand(states(TEXTS[0]), pooling).tolist()


def test_token_types_reach_the_model(make: Any, ask: Any, states: Any) -> None:
    engine, _ = make(normalize=False)
    engine.add(ask("a", TextIds((5, 6, 9), (0, 1, 1)), (5, 6, 9)))
    (pooled,) = engine.step()
    for got, types in zip(pooled.values, ((0, 1, 1), ()), strict=True):
        wanted = pooled_by_hand(states((5, 6, 9), types), "mean")
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dense", [(), TWO_LAYERS])
def test_a_vector_for_every_token(make: Any, ask: Any, states: Any, weights: Any, normalize: bool, dense: Any) -> None:
    engine, _ = make(normalize=normalize, dense=dense, matryoshka=True)
    engine.add(ask("a", *TEXTS, kind="token_embed"))
    engine.add(ask("b", TEXTS[0], TEXTS[0], kind="token_embed", dimensions=3))
    found = {pooled.request_id: pooled.values for _ in range(9) for pooled in engine.step()}
    for text, got, size in [*((t, g, None) for t, g in zip(TEXTS, found["a"], strict=True)), *((TEXTS[0], g, 3) for g in found["b"])]:
        wanted = dense_by_hand(states(text), dense, weights)[:, :size]
        wanted = F.normalize(wanted, p=2, dim=-1) if normalize else wanted
        assert got.shape == (len(text), size or (17 if dense else 24))
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("use", [None, True, False])
@pytest.mark.parametrize(("labels", "activation"), [(1, "sigmoid"), (3, "softmax"), (3, "sigmoid"), (2, "identity")])
def test_scores_of_a_classifier(make: Any, ask: Any, states: Any, labels: int, activation: str, use: bool | None) -> None:
    engine, model = make(labels=labels, activation=activation, pooling="cls")
    engine.add(ask("a", *TEXTS, kind="classify", use_activation=use))
    (pooled,) = [answer for _ in range(3) for answer in engine.step()]
    functions = {"sigmoid": torch.sigmoid, "softmax": lambda x: torch.softmax(x, 0), "identity": lambda x: x}
    for text, got in zip(TEXTS, pooled.values, strict=True):
        wanted = model.classifier(states(text)[0][None])[0]
        wanted = wanted if use is False else functions[activation](wanted)
        assert (got.dtype, got.shape) == (np.float32, (labels,))
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=2e-6, atol=1e-6)


def test_large_scores_are_no_error() -> None:
    scores = np.array([[-1000, 1000, 0]], dtype=np.float32)
    assert activated(scores, "sigmoid").tolist() == [[0, 1, 0.5]]
    assert activated(scores, "softmax").tolist() == [[0, 1, 0]]
    assert activated(scores, "identity") is scores


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 384, 1000])
def test_normalized(size: int) -> None:
    """torch's own to the last digits but one; a row's bits do not depend on how many there are; zeros stay zeros."""
    x = torch.randn(301, size, generator=torch.Generator().manual_seed(size)).numpy()
    x[7] = 0
    whole = normalized(x)
    np.testing.assert_allclose(whole, F.normalize(torch.from_numpy(x), p=2, dim=1).numpy(), rtol=3e-7)
    assert whole[7].tolist() == [0] * size
    for row in range(0, 301, 10):
        assert normalized(x[row : row + 1].copy()).tobytes() == whole[row].tobytes()
        assert normalized(x[row : row + 3]).tobytes() == whole[row : row + 3].tobytes()
    cut = normalized(np.concatenate([x, x], axis=1)[:, :size])
    assert cut.tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 3, 48, 100, 384])
def test_means_are_those_of_the_text_alone(size: int, dtype: torch.dtype) -> None:
    """In any company, at any place and with any number of threads: the sum of the rows, one after the other."""
    lengths = [int(n) for n in np.random.default_rng(size).integers(1, 200, 60)]
    texts = [TextIds((1,) * n, skip=n % 5) for n in lengths]
    batch = pack(texts)
    hidden = torch.randn(len(batch.tokens), size, generator=torch.Generator().manual_seed(size)).to(dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = mean(hidden.float(), bags(texts, batch))
        torch.set_num_threads(3)
        whole = mean(hidden.float(), bags(texts, batch))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, whole)
    for row, (text, start) in enumerate(zip(texts, batch.starts.tolist(), strict=False)):
        mine = hidden[start : start + len(text.ids)].float()
        total = torch.zeros(size)
        for line in mine[text.skip :]:
            total = total + line
        assert torch.equal(whole[row], total / max(len(text.ids) - text.skip, 1e-9))
        alone = mean(torch.cat([mine, torch.zeros(16, size)]), bags([text], pack([text])))
        assert torch.equal(alone[0], whole[row])


@pytest.mark.parametrize("kind", list(ACTIVATIONS))
def test_an_activation_of_an_element_depends_on_it_alone(kind: str) -> None:
    threads = torch.get_num_threads()
    x = torch.randn(5003, 17, generator=torch.Generator().manual_seed(3)) * 3
    try:
        torch.set_num_threads(3)
        whole = activate(x, kind)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(whole, ACTIVATIONS[kind](x))
    assert whole.shape == x.shape
    for row in range(0, 5003, 37):
        assert torch.equal(activate(x[row : row + 1].clone(), kind)[0], whole[row])
        assert torch.equal(activate(x[row : row + 5, 3:8].clone(), kind), whole[row : row + 5, 3:8])


def test_rows_that_are_not_finite_are_told() -> None:
    pooled = torch.randn(16, 4)
    pooled[2, 1] = float("inf")
    pooled[9, 0] = float("nan")  # nobody's
    setting = Setting("classify", 1, True)
    values, finite = Head((), lambda x: torch.sigmoid(x[:, :2]), "sigmoid")(pooled, 5, setting)
    assert finite.tolist() == [True, True, False, True, True], "a squashed infinity is none the better"
    _, finite = Head((), lambda x: torch.log(x[:, :1] * 0), "identity")(pooled[:1].expand(16, 4), 1, setting)
    assert finite.tolist() == [False]
    assert values.shape == (5, 1)
