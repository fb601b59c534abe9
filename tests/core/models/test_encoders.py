"""Every encoder and option against transformers in float32: a row here is what adding an architecture needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer.core import models
from infer.core.errors import ModelError
from infer.core.spec.architectures import encoders
from infer.core.spec.read import read_spec
from infer.kernels import load as load_kernels
from infer.kernels import usable

from .texts import TINY, encoder_of, expected_of, hidden_of, loaded, oracle_of, texts_of, types_of, with_int8

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 16,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "pooler_hidden_size": 48,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
PLAIN = [
    ("bert", {}),
    ("roberta", {"pad_token_id": 1}),
    ("xlm-roberta", {"pad_token_id": 1}),
    ("camembert", {"pad_token_id": 1}),
    ("modernbert", {}),
    ("nomic_bert", {}),
    ("distilbert", {}),
    ("electra", {"embedding_size": 24}),
    ("albert", {"embedding_size": 24, "num_hidden_groups": 2}),
    ("mpnet", {"pad_token_id": 1}),
    ("deberta-v2", DEBERTA),
]
#: EmbeddingGemma.
GEMMA = {
    "use_bidirectional_attention": True,
    "sliding_window": 20,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "head_dim": 16,
    "query_pre_attn_scalar": 20,
    "num_key_value_heads": 2,
    "attention_bias": True,
}
OPTIONS = [
    ("gemma3_text", GEMMA),
    ("gemma3_text", {**GEMMA, "sliding_window": 7, "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}),
    ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    ("bert", {"hidden_act": "relu", "layer_norm_eps": 0.1, "num_attention_heads": 2}),
    ("bert", {"num_hidden_layers": 1}),
    ("roberta", {"pad_token_id": 5, "type_vocab_size": 1}),
    ("modernbert", {"local_attention": 10, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    ("modernbert", {"local_attention": 7, "norm_bias": True, "attention_bias": True, "mlp_bias": True}),
    ("modernbert", {"hidden_activation": "silu", "num_hidden_layers": 1, "norm_eps": 0.1}),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}},
    ),
    ("nomic_bert", {"hidden_act": "gelu", "rope_parameters": {"rope_type": "default", "rope_theta": 123.0}}),
    ("nomic_bert", {"layer_norm_eps": 0.1, "type_vocab_size": 1}),
    ("distilbert", {"activation": "relu", "n_layers": 1, "sinusoidal_pos_embds": True}),
    ("electra", {"embedding_size": 48, "hidden_act": "relu"}),
    ("albert", {"embedding_size": 16, "num_hidden_layers": 5, "hidden_act": "gelu", "layer_norm_eps": 0.1}),
    ("albert", {"embedding_size": 16, "num_hidden_layers": 5, "num_hidden_groups": 3}),
    ("mpnet", {"pad_token_id": 5, "num_attention_heads": 2}),
    ("deberta-v2", {**DEBERTA, "share_att_key": False, "norm_rel_ebd": "none", "position_biased_input": True, "type_vocab_size": 2}),
    ("deberta-v2", {"relative_attention": False, "pos_att_type": ["c2p"], "pooler_hidden_size": 48, "type_vocab_size": 2}),
    ("deberta-v2", {**DEBERTA, "position_buckets": -1, "max_relative_positions": 20, "pos_att_type": "c2p"}),
    ("deberta-v2", {**DEBERTA, "position_buckets": 10, "max_relative_positions": 40, "pos_att_type": ["p2c"], "num_attention_heads": 2}),
]


def named(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value) or "plain"


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), [*PLAIN, *OPTIONS], ids=named)
def test_hidden_states_equal_transformers(kind: str, changes: dict[str, Any], backend: str) -> None:
    oracle = oracle_of(kind, changes)
    model = encoder_of(oracle, backend)
    texts = texts_of(70, 1, 33, 128)
    types = types_of(texts) if model.num_token_types > 1 else None
    for kinds in [None, types] if types else [None]:
        for got, expected in zip(hidden_of(model, texts, kinds), expected_of(oracle, texts, kinds), strict=True):
            near = 5e-5 if kind == "gemma3_text" else 1e-5  # its last norm makes its numbers larger
            torch.testing.assert_close(got, expected, rtol=near, atol=near)


def test_types_are_of_no_matter_to_a_model_with_one() -> None:
    model = encoder_of(oracle_of("roberta", {"type_vocab_size": 1}))
    texts = texts_of(20)
    assert torch.equal(hidden_of(model, texts, types_of(texts))[0], hidden_of(model, texts)[0])


@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("kind", ["bert", "modernbert", "nomic_bert", "albert", "mpnet", "deberta-v2", "gemma3_text"])
def test_neighbours_do_not_change_a_bit(kind: str, backend: str, dtype: torch.dtype, int8: bool) -> None:
    model = encoder_of(oracle_of(kind, dict([*PLAIN, ("gemma3_text", GEMMA)])[kind]), backend, dtype=dtype, int8=int8)
    texts = texts_of(70, 1, 33, 128, 16, 90)
    together = hidden_of(model, texts, types_of(texts))
    for i, text in enumerate(texts):
        assert torch.equal(hidden_of(model, [text], types_of([text]))[0], together[i])
    backwards = hidden_of(model, texts[::-1], types_of(texts[::-1]))[::-1]
    assert all(torch.equal(a, b) for a, b in zip(together, backwards, strict=True))


@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_rows_that_are_asked_for_are_those_of_all(kind: str, backend: str, int8: bool) -> None:
    model = encoder_of(oracle_of(kind), backend, int8=int8)
    texts = texts_of(40, 1, 23)
    whole = torch.cat(hidden_of(model, texts))
    for rows in ([0, 40, 41], [39, 40, 63, 5]):
        assert torch.equal(hidden_of(model, texts, rows=rows)[0], whole[rows])


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), [*PLAIN, ("gemma3_text", GEMMA)], ids=named)
def test_bfloat16_and_int8_stay_near(kind: str, changes: dict[str, Any], backend: str) -> None:
    oracle = oracle_of(kind, {**changes, "initializer_range": 0.1})
    texts = texts_of(70, 33)
    expected = torch.cat(expected_of(oracle, texts))
    wide = 1.6 if kind == "gemma3_text" else 1.0  # transformers' own bfloat16 is 0.039 off
    for dtype, int8, near in ((torch.bfloat16, False, 0.03 * wide), (torch.float32, True, 0.05 * wide)):
        chosen = with_int8(backend) if int8 else backend
        got = torch.cat(hidden_of(encoder_of(oracle, chosen, dtype=dtype, int8=int8), texts)).float()
        assert 0 < (got - expected).norm() / expected.norm() < near


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *PLAIN,
        ("modernbert", {"classifier_pooling": "mean", "norm_bias": True, "classifier_bias": True, "classifier_activation": "silu"}),
        ("modernbert", {"classifier_activation": "relu", "local_attention": 10}),
    ],
    ids=named,
)
def test_scores_equal_transformers(kind: str, changes: dict[str, Any], labels: int, backend: str) -> None:
    oracle = oracle_of(kind, {**changes, "num_labels": labels}, transformers.AutoModelForSequenceClassification)
    model = encoder_of(oracle, backend, labels=labels)
    texts = texts_of(30, 1, 60)
    hidden = hidden_of(model, texts)
    mean = changes.get("classifier_pooling") == "mean"
    pooled = torch.stack([one.mean(0) if mean else one[0] for one in hidden])
    assert model.classifier is not None
    with torch.inference_mode():
        got = model.classifier(pooled)
        expected = torch.cat([oracle(input_ids=torch.tensor([text])).logits for text in texts])
    assert got.shape == (3, labels)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("backend", usable("cpu"))
def test_scores_are_float32_and_a_row_s_own(backend: str, one_by_one: bool) -> None:
    oracle = oracle_of("bert", {"num_labels": 3}, transformers.AutoModelForSequenceClassification)
    model = encoder_of(oracle, backend, dtype=torch.bfloat16, labels=3)
    head: Any = model.classifier
    head.one_by_one = one_by_one
    x = torch.randn(37, 48)
    with torch.inference_mode():
        scores = head(x)
        torch.testing.assert_close(scores, oracle.classifier(torch.tanh(oracle.bert.pooler.dense(x))), rtol=1e-5, atol=1e-5)
        for i in (0, 17, 36):
            assert torch.equal(head(x[i : i + 1])[0], scores[i])
        assert head(x[:0]).shape == (0, 3)
    assert all(p.tensor.dtype != torch.float32 or not p.tensor.numel() for layer in model.layers for p in layer.parameters())


def test_every_encoder_has_a_file_and_is_no_language_model() -> None:
    ops = load_kernels("reference")
    for kind in encoders():
        hf = {**TINY, "model_type": kind}
        spec = read_spec(hf)
        assert models.build_encoder(spec, ops).vocab_size == 160
        assert spec.is_encoder
        assert not spec.is_ours
        with pytest.raises(ModelError, match=rf"'{kind}' reads texts and cannot write.*infer embed"):
            models.build(spec, ops)
    assert not read_spec({"model_type": "llama"}).is_encoder


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        ({"model_type": "rembert"}, r"'rembert' is not a supported encoder .*bert"),
        ({**TINY, "model_type": "albert", "inner_group_num": 2}, "inner_group_num 2"),
        ({**TINY, "model_type": "albert", "num_hidden_groups": 4}, "num_hidden_groups 4 is more than the 3 layers"),
        ({**TINY, "model_type": "electra", "is_decoder": True}, "is_decoder"),
        ({**TINY, "model_type": "mpnet", "relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64"),
        ({**TINY, "model_type": "deberta-v2", **DEBERTA, "pos_att_type": []}, r"pos_att_type \[\] is not supported"),
        ({**TINY, "model_type": "deberta-v2", **DEBERTA, "pos_att_type": "c2c"}, r"pos_att_type \['c2c'\] is not supported"),
        ({**TINY, "model_type": "deberta-v2", **DEBERTA, "pos_att_type": "c2p", "share_att_key": False}, "share_att_key false"),
        ({**TINY, "model_type": "deberta-v2", **DEBERTA, "conv_kernel_size": 3}, "conv_kernel_size"),
        ({**TINY, "model_type": "deberta-v2", **DEBERTA, "pooler_hidden_size": 64}, "pooler_hidden_size 64"),
        ({"model_type": "distilbert", "n_heads": 5}, "5 attention heads cannot share 768"),
        ({**TINY, "model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({**TINY, "model_type": "bert", "is_decoder": True}, "is_decoder"),
        ({**TINY, "model_type": "bert", "hidden_act": "mish"}, "activation 'mish'"),
        ({**TINY, "model_type": "bert", "num_attention_heads": 5}, "5 attention heads cannot share 48"),
        ({**TINY, "model_type": "roberta", "max_position_embeddings": 2, "pad_token_id": 1}, "2 positions leave none for text"),
        ({**TINY, "model_type": "modernbert", "hidden_activation": "relu"}, "activation 'relu'"),
    ],
)
def test_what_is_not_supported_is_named(hf: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.build_encoder(read_spec(hf), load_kernels("reference"))


@pytest.mark.real
def test_the_real_minilm(minilm: Path) -> None:
    """Each line of a text of ours; the mean is what the model is used with."""
    oracle = transformers.AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    lines = [line for line in Path(models.__file__).with_name("encoder.py").read_text().splitlines() if line.strip()][:60]
    texts = [*tokenizer(lines)["input_ids"], tokenizer(" ".join(lines), truncation=True, max_length=256)["input_ids"]]
    expected = expected_of(oracle, texts)
    for dtype, int8, near, cosine in (("float32", None, 2e-5, 0.999999), ("bfloat16", None, 0.2, 0.999), ("bfloat16", "int8", 1.0, 0.98)):
        backend = usable("cpu")[0]
        chosen = with_int8(backend) if int8 else backend
        got = hidden_of(loaded(minilm, chosen, dtype=dtype, quantization=int8, max_model_len=256), texts)
        for one, right in zip(got, expected, strict=True):
            assert (one.float() - right).abs().max() < near
            assert torch.cosine_similarity(one.float().mean(0), right.mean(0), dim=0) > cosine
