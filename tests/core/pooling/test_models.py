"""The engine over real models, tiny ones: transformers' hidden states in float32 pooled as sentence-transformers does, and bytes
that depend on the text alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from infer.core.bench.timing import TimedOps
from infer.core.build.engines import build_pooling_engine
from infer.core.build.plan import Plan
from infer.core.errors import ModelError
from infer.core.pooling.engine import PoolingEngine
from infer.core.pooling.recipe import DenseSpec, Recipe
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.types.pooling_params import PoolingParams
from infer.core.types.pooling_request import Pooled, PoolingRequest, TextIds
from infer.core.weights.find import find
from infer.kernels import usable

from ..models.texts import oracle_of, texts_of, types_of, with_int8

SIZE = 48
DENSE = DenseSpec("2_Dense", SIZE, 20, True, "tanh")
LENGTHS = (70, 1, 33, 128, 16, 2, 17, 5, 5, 40, 3, 64, 1, 15)
#: Backends, dtypes and quantization whose bytes are compared.
HOW = [
    ("reference", "float32", None),
    *(
        (backend, *how)
        for backend in usable("cpu")
        if backend != "reference"
        for how in (("float32", None), ("bfloat16", None), ("bfloat16", "int8"))
    ),
]
ENCODERS = [("bert", {}), ("xlm-roberta", {"pad_token_id": 1}), ("modernbert", {"local_attention": 10}), ("nomic_bert", {})]
DECODERS = [("llama", {"num_key_value_heads": 2}), ("qwen3", {"head_dim": 16, "num_key_value_heads": 2})]


def recipe_of(pooling: str, **fields: Any) -> Recipe:
    return Recipe(**{"kind": "embed", "pooling": pooling, "normalize": True, "hidden_size": SIZE, **fields})


def engine_of(folder: Path, recipe: Recipe, *, backend: str = "reference", dtype: str = "float32", **settings: Any) -> PoolingEngine:
    source = find(str(folder))
    hf = source.read_json("config.json")
    assert hf is not None
    named = {"task": "embed" if recipe.kind == "embed" else "classify", "max_model_len": 128, **settings}
    args = EngineArgs.from_kwargs(model=str(folder), device="cpu", dtype=dtype, kernels=backend, **named)
    return build_pooling_engine(Plan(args.resolve(read_spec(hf)), source, None, source, recipe))


def ask(engine: PoolingEngine, texts: list[TextIds], kind: str = "embed", order: list[int] | None = None) -> list[Pooled]:
    """One request a text, added in some order and answered in the texts'."""
    for number in order or range(len(texts)):
        engine.add(PoolingRequest(str(number), [texts[number]], PoolingParams(), kind))
    found = {}
    while engine.num_unfinished:
        found.update({int(answer.request_id): answer for answer in engine.step()})
    return [found[number] for number in range(len(texts))]


def some_texts(*, types: bool = False) -> list[TextIds]:
    ids = texts_of(*LENGTHS)
    kinds = types_of(ids) if types else [[]] * len(ids)
    return [TextIds(tuple(one), tuple(kind) if i % 2 else ()) for i, (one, kind) in enumerate(zip(ids, kinds, strict=True))]


@torch.inference_mode()
def by_hand(oracle: Any, text: TextIds, pooling: str) -> torch.Tensor:
    """Pooled as sentence-transformers does, of transformers' base model."""
    types = {"token_type_ids": torch.tensor([text.types])} if text.types else {}
    hidden = oracle(input_ids=torch.tensor([text.ids]), **types).last_hidden_state[0]
    return {"cls": hidden[0], "last": hidden[-1], "mean": hidden.sum(0) / max(len(hidden), 1e-9)}[pooling]


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), [*ENCODERS, *DECODERS], ids=lambda value: value if isinstance(value, str) else "")
def test_vectors_equal_transformers(kind: str, changes: dict[str, Any], backend: str, tmp_path: Path) -> None:
    decoder = (kind, changes) in DECODERS
    auto = transformers.AutoModelForCausalLM if decoder else transformers.AutoModel
    oracle = oracle_of(kind, changes, auto)
    oracle.save_pretrained(tmp_path)
    base = oracle.model if decoder else oracle
    texts = some_texts(types=kind in ("bert", "nomic_bert"))
    for pooling in ("mean", "cls", "last"):
        engine = engine_of(tmp_path, recipe_of(pooling), backend=backend, max_num_batched_tokens=160, max_num_seqs=9)
        for answer, text in zip(ask(engine, texts), texts, strict=True):
            wanted = F.normalize(by_hand(base, text, pooling), p=2, dim=-1)
            torch.testing.assert_close(torch.from_numpy(answer.values[0]), wanted, rtol=1e-5, atol=1e-5)
            assert answer.num_tokens == len(text.ids)


@pytest.mark.parametrize(("backend", "dtype", "quantization"), HOW)
@pytest.mark.parametrize(("kind", "changes"), [ENCODERS[0], ENCODERS[2], DECODERS[1]], ids=["bert", "modernbert", "qwen3"])
def test_bytes_depend_on_the_text_alone(
    kind: str, changes: dict[str, Any], backend: str, dtype: str, quantization: str | None, tmp_path: Path
) -> None:
    auto = transformers.AutoModelForCausalLM if kind == "qwen3" else transformers.AutoModel
    oracle_of(kind, changes, auto).save_pretrained(tmp_path)
    write_dense(tmp_path)
    texts = some_texts(types=kind == "bert")
    fixed = {"backend": with_int8(backend) if quantization else backend, "dtype": dtype, "quantization": quantization}
    for pooling in ("mean", "last" if kind == "qwen3" else "cls"):
        recipe = recipe_of(pooling, dense=(DENSE,))
        engine = engine_of(tmp_path, recipe, **fixed, max_num_batched_tokens=64, max_num_seqs=64)
        alone = [ask(engine, [text])[0].values[0].tobytes() for text in texts]
        tokens = [ask(engine, [text], "token_embed")[0].values[0].tobytes() for text in texts]
        for budget, most, lanes in ((200, 7, 2), (4096, 256, 1)):
            engine = engine_of(tmp_path, recipe, **fixed, max_num_batched_tokens=budget, max_num_seqs=most, lanes=lanes, threads=lanes)
            if engine._crew is not None:
                engine._crew.enough = 64
            assert (engine._crew is not None) == (lanes > 1)
            order = random.Random(budget).sample(range(len(texts)), len(texts))
            assert [answer.values[0].tobytes() for answer in ask(engine, texts, order=order)] == alone
            assert [answer.values[0].tobytes() for answer in ask(engine, texts, "token_embed", order)] == tokens


def write_dense(folder: Path) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    weights = {"linear.weight": torch.randn(20, SIZE, generator=random) * 0.2, "linear.bias": torch.randn(20, generator=random)}
    (folder / "2_Dense").mkdir(exist_ok=True)
    save_file(weights, str(folder / "2_Dense/model.safetensors"))
    return weights


@pytest.mark.parametrize("backend", usable("cpu"))
def test_a_dense_module_of_the_folder(backend: str, tmp_path: Path) -> None:
    oracle = oracle_of("bert")
    oracle.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="2_Dense"):
        engine_of(tmp_path, recipe_of("mean", dense=(DENSE,)), backend=backend)
    weights = write_dense(tmp_path)
    texts = some_texts()
    engine = engine_of(tmp_path, recipe_of("mean", dense=(DENSE,), dimensions=7, matryoshka=(7, 20)), backend=backend)
    for answer, text in zip(ask(engine, texts), texts, strict=True):
        wanted = torch.tanh(F.linear(by_hand(oracle, text, "mean"), weights["linear.weight"], weights["linear.bias"]))[:7]
        torch.testing.assert_close(torch.from_numpy(answer.values[0]), F.normalize(wanted, dim=-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("labels", "activation"), [(1, "sigmoid"), (3, "softmax")])
def test_scores_equal_transformers_and_depend_on_the_pair_alone(backend: str, labels: int, activation: str, tmp_path: Path) -> None:
    oracle = oracle_of("bert", {"num_labels": labels}, transformers.AutoModelForSequenceClassification)
    oracle.save_pretrained(tmp_path)
    texts = some_texts(types=True)
    recipe = recipe_of("cls", kind="classify", normalize=False, labels=tuple("abc"[:labels]), activation=activation)
    engine = engine_of(tmp_path, recipe, backend=backend)
    together = ask(engine, texts, "classify")
    for answer, text in zip(together, texts, strict=True):
        types = {"token_type_ids": torch.tensor([text.types])} if text.types else {}
        with torch.inference_mode():
            logits = oracle(input_ids=torch.tensor([text.ids]), **types).logits[0]
        wanted = torch.sigmoid(logits) if labels == 1 else torch.softmax(logits, 0)
        torch.testing.assert_close(torch.from_numpy(answer.values[0]), wanted, rtol=1e-5, atol=1e-5)
        assert ask(engine, [text], "classify")[0].values[0].tobytes() == answer.values[0].tobytes()


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "name"), [("bert", "embeddings.word_embeddings.weight"), ("llama", "model.embed_tokens.weight")])
def test_a_broken_weight_fails_the_texts_that_meet_it(kind: str, name: str, backend: str, tmp_path: Path) -> None:
    """Those beside them in the step, and those that come after, have the same bytes as without."""
    oracle_of(kind, {}, transformers.AutoModelForCausalLM if kind == "llama" else transformers.AutoModel).save_pretrained(tmp_path)
    texts = some_texts()
    good = ask(engine_of(tmp_path, recipe_of("mean"), backend=backend), texts)
    weights = load_file(tmp_path / "model.safetensors")
    weights[name][0] = float("nan")  # a token that none of them has
    save_file(weights, str(tmp_path / "model.safetensors"), {"format": "pt"})
    engine = engine_of(tmp_path, recipe_of("mean"), backend=backend)
    bad = [TextIds((5, 0, 6)), TextIds((0,)), TextIds((7,) * 60 + (0,))]
    for _ in range(2):
        answers = ask(engine, [*bad, *texts])
        assert [answer.error.code if answer.error else None for answer in answers[:3]] == ["non_finite_logits"] * 3
        assert [answer.values[0].tobytes() for answer in answers[3:]] == [answer.values[0].tobytes() for answer in good]


def test_dummy_weights_and_wrapped_operations(tmp_path: Path) -> None:
    oracle_of("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    source = find(str(tmp_path))
    hf = source.read_json("config.json")
    assert hf is not None
    args = EngineArgs.from_kwargs(model=str(tmp_path), device="cpu", dtype="float32", load_format="dummy", task="embed")
    timed: list[TimedOps] = []

    def wrap(ops: Any) -> Any:
        timed.append(TimedOps(ops))
        return timed[0]

    engine = build_pooling_engine(Plan(args.resolve(read_spec(hf)), source, None, source, recipe_of("mean", dense=(DENSE,))), wrap)
    timed[0].on = True
    vectors = [answer.values[0] for answer in ask(engine, some_texts())]
    assert np.isfinite(vectors).all()
    assert {key.name for key in timed[0].times} >= {"linear", "segment_attention", "plan_segments"}
