"""all-MiniLM-L6-v2 through the engine, by its own recipe, against transformers in float32 pooled as sentence-transformers does."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from infer.core.build.engines import build_pooling_engine
from infer.core.build.plan import Plan
from infer.core.pooling.recipe_files import read_recipe
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.types.pooling_params import PoolingParams
from infer.core.types.pooling_request import PoolingRequest, TextIds
from infer.core.weights.find import find

ROOT = Path(__file__).resolve().parents[3]


def real_texts(folder: Path) -> list[tuple[int, ...]]:
    """Paragraphs of our own README and licence as the model reads them, cut at its 256 tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    content = "\n\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE"))
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", content) if part.strip()]
    return [tuple(one.ids) for one in tokenizer.encode_batch(paragraphs)]


def vectors(folder: Path, texts: list[tuple[int, ...]], *, shuffled: bool = False, **settings: object) -> NDArray[np.float32]:
    source = find(str(folder))
    hf = source.read_json("config.json")
    assert hf is not None
    config = EngineArgs.from_kwargs(model=str(folder), device="cpu", task="embed", **settings).resolve(read_spec(hf))
    engine = build_pooling_engine(Plan(config, source, None, source, read_recipe(source, read_spec(hf), task="embed")))
    order = list(range(len(texts)))
    if shuffled:
        random.Random(0).shuffle(order)
    for number in order:
        engine.add(PoolingRequest(str(number), [TextIds(texts[number])], PoolingParams()))
    found = {}
    while engine.num_unfinished:
        found.update({int(answer.request_id): answer.values[0] for answer in engine.step()})
    return np.stack([found[number] for number in range(len(texts))])


@pytest.mark.real
@pytest.mark.slow
def test_vectors_equal_transformers(minilm: Path, int8: dict[str, Any]) -> None:
    from transformers import BertModel

    texts = real_texts(minilm)[::4]
    assert len(texts) > 15
    oracle = BertModel.from_pretrained(minilm, dtype=torch.float32).eval()
    with torch.inference_mode():
        means = [oracle(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in texts]
        expected = F.normalize(torch.stack(means), p=2, dim=1).numpy()
    exact = vectors(minilm, texts, dtype="float32")
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, atol=1e-6)
    for settings, least in (({"dtype": "bfloat16"}, 0.999), ({"dtype": "bfloat16", **int8}, 0.99)):
        got = vectors(minilm, texts, **settings)
        assert (got * expected).sum(1).min() >= least
        again = vectors(minilm, texts, shuffled=True, max_num_batched_tokens=700, max_num_seqs=50, **settings)
        assert again.tobytes() == got.tobytes()
