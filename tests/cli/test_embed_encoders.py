"""`infer embed` with folders of encoders as they are published: sentence-transformers' modules beside a random model of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..conftest import word_pieces

TEXTS = ["the cat sat on the mat", "rain", "query: " + "the sun and the dog " * 9]
SIZES = {"num_hidden_layers": 2, "max_position_embeddings": 80, "initializer_range": 0.3}
BERT = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 64, "pad_token_id": 1}
GEMMA = {"head_dim": 16, "num_key_value_heads": 1, "query_pre_attn_scalar": 16, "use_bidirectional_attention": True, "sliding_window": 8}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "position_biased_input": False}
KINDS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 48, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "mpnet": BERT,
    "albert": {**BERT, "embedding_size": 16},
    "deberta-v2": {**BERT, **DISENTANGLED, "share_att_key": True, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 48},
    "gemma3_text": {**BERT, **GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
}


def published(folder: Path, kind: str) -> tuple[Any, list[torch.Tensor]]:
    """A folder that pools the mean, with two Dense layers (of which the first is wider) as EmbeddingGemma has them; its halves."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=word_pieces(folder), **{**SIZES, **KINDS[kind]})
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(folder)
    shapes = [(96, 48), (48, 96)]
    names = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    paths = ["", *(f"{i}_{name}" for i, name in enumerate(names) if i)]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(zip(paths, names, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}))
    weights = [torch.randn(*shape) * 0.1 for shape in shapes]
    for path, weight in zip(paths[2:4], weights, strict=True):
        (folder / path).mkdir()
        sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": False}
        (folder / path / "config.json").write_text(json.dumps({**sizes, "activation_function": "torch.nn.modules.linear.Identity"}))
        save_file({"linear.weight": weight}, folder / path / "model.safetensors")
    return model, weights


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(call: Any, write_lines: Any, compiled_kernels: None, tmp_path: Path, kind: str) -> None:
    from tokenizers import Tokenizer

    folder = tmp_path / "model"
    folder.mkdir()
    model, weights = published(folder, kind)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    flags = ["--model", folder, "--dtype", "float32", "--device", "cpu"]
    done = call("embed", *flags, write_lines(*({"input": text} for text in TEXTS)), tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    for text, line in zip(TEXTS, (tmp_path / "out").read_bytes().splitlines(), strict=True):
        with torch.inference_mode():
            pooled = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].mean(0)
            expected = F.normalize(weights[1] @ (weights[0] @ pooled), dim=0)
        torch.testing.assert_close(torch.tensor(json.loads(line)["embedding"]), expected, rtol=1e-4, atol=1e-5)
