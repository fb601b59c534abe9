"""`LLM.encode` with models that label tokens, against transformers' `...ForTokenClassification`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core import LLM
from infer.core.errors import ConfigError, RecordError

from ...conftest import word_pieces

TEXTS = ["the cat sat on the mat", "rain", "the sun and the dog " * 9]
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 96}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 48, "hidden_dim": 64},
    "mpnet": {},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_has_the_scores_of_transformers(compiled_kernels: None, tmp_path: Path, kind: str) -> None:
    import transformers
    from tokenizers import Tokenizer

    size = word_pieces(tmp_path)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=size, num_labels=5, initializer_range=0.3, **{**SIZES, **KINDS[kind]})
    oracle = transformers.AutoModelForTokenClassification.from_config(config).eval()
    oracle.save_pretrained(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    llm = LLM(str(tmp_path), dtype="float32", device="cpu")
    whole = llm.encode(TEXTS, use_tqdm=False)
    for text, output in zip(TEXTS, whole, strict=True):
        with torch.inference_mode():
            expected = oracle(torch.tensor([tokenizer.encode(text).ids])).logits[0].softmax(-1)
        torch.testing.assert_close(output.outputs.data, expected, rtol=1e-4, atol=1e-5)
        (alone,) = llm.encode(text, use_tqdm=False, pooling_task="token_classify")
        assert torch.equal(alone.outputs.data, output.outputs.data)
    with pytest.raises(RecordError, match="labels the tokens of a text and not the text"):
        llm.classify("rain", use_tqdm=False)
    with pytest.raises(ConfigError, match="score needs a classifier of one label"):
        llm.score("rain", "sun", use_tqdm=False)


def test_a_classifier_of_texts_says_so(tiny_ranker: Path) -> None:
    llm = LLM(str(tiny_ranker), dtype="float32", device="cpu")
    with pytest.raises(RecordError, match="scores of a whole text, not of its tokens"):
        llm.encode("rain", use_tqdm=False, pooling_task="token_classify")
