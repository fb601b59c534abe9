"""An engine over a model without layers: what it says of a token depends on the whole of its text, its place and its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.core.layers.linear import Linear
from infer.core.pooling.dense import Dense
from infer.core.pooling.engine import PoolingEngine
from infer.core.pooling.head import Head
from infer.core.pooling.recipe import DenseSpec, Recipe
from infer.core.pooling.runner import Runner
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.spec.read import read_spec
from infer.core.types.pooling_params import PoolingParams
from infer.core.types.pooling_request import PoolingRequest, TextIds
from infer.core.weights.parameter import Parameter
from infer.kernels import load
from infer.kernels.ops import ROW_MULTIPLE, Segments

VOCABULARY = 100
HIDDEN = 24
MAX_LEN = 64
#: Texts with this token give NaN, those with that infinity.
NAN, INFINITE = 7, 8


TABLE = torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(1))


def hidden_states(ids: Sequence[int], types: Sequence[int] = ()) -> Tensor:
    """float32 [tokens, HIDDEN] of one text by itself: any function of the whole of it will do."""
    rows = TABLE[list(ids)] * (1 + 0.1 * torch.arange(len(ids)))[:, None]
    if types:
        rows += 0.5 * torch.tensor(types)[:, None]
    rows += 0.3 * rows[torch.tensor(ids).argmax()] + 0.2 * rows[-1]
    if NAN in ids:
        rows[-1, 0] = float("nan")
    if INFINITE in ids:
        rows[0, 3] = float("inf")
    return rows


class TextModel:
    """A PoolingModel that looks at its batch as one of ours does, and checks it."""

    hidden_size = HIDDEN
    vocab_size = VOCABULARY
    num_token_types = 2

    def __init__(self, labels: int = 0) -> None:
        self.ops = load("reference")
        self.steps: list[list[int]] = []
        """Lengths of the texts of each step."""
        self.wanted: list[int | None] = []
        weight = torch.randn(labels, HIDDEN, generator=torch.Generator().manual_seed(2))
        self.classifier: Callable[[Tensor], Tensor] | None = (lambda x: x @ weight.T) if labels else None

    def linears(self) -> Iterator[Linear]:
        return iter(())

    def parameters(self) -> Iterator[Parameter]:
        return iter(())

    def beside(self) -> TextModel:
        return self

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None, segments: Segments, rows: Tensor | None = None) -> Tensor:
        starts = segments.starts.tolist()
        assert segments.starts.dtype == torch.int32
        assert tokens.dtype == positions.dtype == torch.int64
        assert len(tokens) % ROW_MULTIPLE == 0
        assert len(tokens) >= starts[-1]
        assert len(positions) == len(tokens)
        self.steps.append([end - start for start, end in pairwise(starts)])
        self.wanted.append(None if rows is None else len(rows))
        hidden = torch.full((len(tokens), HIDDEN), float("nan"))  # of rows that nobody may look at
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            kinds = [] if types is None else types[start:end].tolist()
            hidden[start:end] = hidden_states(tokens[start:end].tolist(), kinds)
        if rows is None:
            return hidden
        assert len(rows) % ROW_MULTIPLE == 0
        return hidden[rows]


Make = Callable[..., tuple[PoolingEngine, TextModel]]


@pytest.fixture(scope="session")
def make_config() -> Callable[..., EngineConfig]:
    def make(budget: int = 64, most: int = 256, **kwargs: Any) -> EngineConfig:
        hf = {"model_type": "llama", "max_position_embeddings": MAX_LEN}
        settings = {"max_num_seqs": min(most, budget), "max_num_batched_tokens": budget, "enable_chunked_prefill": True}
        return EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", **settings, **kwargs).resolve(read_spec(hf))

    return make


@pytest.fixture(scope="session")
def make(make_config: Callable[..., EngineConfig]) -> Make:
    """make(budget=..., most=..., labels=..., lanes=..., threads=..., any field of Recipe) -> (engine, its model).

    Weights of Dense modules are random.
    """

    def engine(
        budget: int = 64, most: int = 256, labels: int = 0, lanes: int = 1, threads: int = 1, **fields: Any
    ) -> tuple[PoolingEngine, TextModel]:
        model = TextModel(labels)
        kind = "classify" if labels else "embed"
        defaults = {"kind": kind, "pooling": "mean", "normalize": True, "hidden_size": HIDDEN, "labels": tuple("abcdefgh"[:labels])}
        recipe = Recipe(**{**defaults, **fields})
        head = Head([dense(spec, model) for spec in recipe.dense], model.classifier, recipe.activation)
        return PoolingEngine(
            make_config(budget, most, lanes=lanes, threads=threads), recipe, Runner(model, recipe.pooling, torch.device("cpu")), head
        ), model

    return engine


def dense_weights(spec: DenseSpec) -> dict[str, Tensor]:
    """The tensors of a Dense module, its file's keys."""
    random = torch.Generator().manual_seed(spec.in_features * 1000 + spec.out_features)
    weights = {"linear.weight": torch.randn(spec.out_features, spec.in_features, generator=random) * 0.2}
    return {**weights, "linear.bias": torch.randn(spec.out_features, generator=random)} if spec.bias else weights


def dense(spec: DenseSpec, model: TextModel) -> Dense:
    made, weights = Dense(model.ops, spec), dense_weights(spec)
    for parameter in made.linear.parameters():
        for part in parameter.parts:
            parameter.fill(part, weights[part.name], torch.float32, torch.device("cpu"))
    return made


@pytest.fixture(scope="session")
def ask() -> Callable[..., PoolingRequest]:
    """ask(name, text, text..., kind=..., any field of PoolingParams) -> PoolingRequest; texts are ids or TextIds."""

    def request(name: str, *texts: Sequence[int] | TextIds, kind: str = "embed", **params: Any) -> PoolingRequest:
        ids = [text if isinstance(text, TextIds) else TextIds(tuple(text)) for text in texts]
        return PoolingRequest(name, ids, PoolingParams(**params), kind)

    return request


@pytest.fixture(scope="session")
def states() -> Callable[..., Tensor]:
    """states(ids, types=()) -> what the model says of the tokens of one text, float32 [tokens, HIDDEN]."""
    return hidden_states


@pytest.fixture(scope="session")
def weights() -> Callable[[DenseSpec], dict[str, Tensor]]:
    return dense_weights
