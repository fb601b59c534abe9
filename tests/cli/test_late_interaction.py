"""`infer embed` and `infer score` with models of late interaction (ColBERT), as Stanford's code and PyLate store them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ..conftest import bert_config, word_pieces

QUERIES = ["the cat sat, on a mat?", "rain"]
DOCUMENTS = ["a dog, a cat: on the mat.", "the sun and the rain! " * 3, "..."]
QUERY_LENGTH, DOCUMENT_LENGTH = 14, 48
Vectors = Callable[[str, str], NDArray[np.float32]]


class Colbert:
    """A random model in a folder of one layout, and what it has to say, by transformers' BERT and the rules of arXiv 2112.01488."""

    def __init__(self, folder: Path, layout: str) -> None:
        from transformers import BertModel

        folder.mkdir()
        self.folder, size = folder, word_pieces(folder)
        markers = ["[unused0]", "[unused1]"] if layout == "stanford" else ["[Q] ", "[D] "]
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        for number, marker in enumerate(markers):
            added = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            tokenizer["added_tokens"].append({"id": size + number, "content": marker, "special": False, **added})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        torch.manual_seed(3)
        self.model = BertModel(bert_config(size + 2)).eval()  # type: ignore[arg-type]
        self.model.save_pretrained(folder)
        self.weights = [torch.randn(16, 32)] if layout == "stanford" else [torch.randn(24, 32), torch.randn(24, 32), torch.randn(16, 24)]
        self.markers = dict(zip(("query", "document"), (size, size + 1), strict=True))
        (self._stanford if layout == "stanford" else self._pylate)(markers)

    def _stanford(self, markers: list[str]) -> None:
        tensors = {f"bert.{name}": tensor for name, tensor in load_file(self.folder / "model.safetensors").items()}
        save_file({**tensors, "linear.weight": self.weights[0]}, self.folder / "model.safetensors")
        config = json.loads((self.folder / "config.json").read_bytes())
        (self.folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
        made = {"query_token_id": markers[0], "doc_token_id": markers[1], "mask_punctuation": True, "attend_to_mask_tokens": False}
        lengths = {"query_maxlen": QUERY_LENGTH, "doc_maxlen": DOCUMENT_LENGTH, "dim": 16}
        (self.folder / "artifact.metadata").write_text(json.dumps({**made, **lengths}))

    def _pylate(self, markers: list[str]) -> None:
        kinds = [("", "sentence_transformers.models.Transformer"), *((f"{i}_Dense", "pylate.models.Dense.Dense") for i in (1, 2))]
        listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)]
        (self.folder / "modules.json").write_text(json.dumps(listed))
        first, residual, last = self.weights
        for path, weights in (("1_Dense", {"linear.weight": first, "residual.weight": residual}), ("2_Dense", {"linear.weight": last})):
            (self.folder / path).mkdir()
            out, size = weights["linear.weight"].shape
            made = {"in_features": size, "out_features": out, "bias": False, "use_residual": "residual.weight" in weights}
            made["activation_function"] = "torch.nn.modules.linear.Identity"
            (self.folder / path / "config.json").write_text(json.dumps(made))
            save_file(weights, self.folder / path / "model.safetensors")
        said: dict[str, Any] = {"query_prefix": markers[0], "document_prefix": markers[1], "attend_to_expansion_tokens": False}
        said |= {"query_length": QUERY_LENGTH, "document_length": DOCUMENT_LENGTH, "skiplist_words": list(".,:!?")}
        (self.folder / "config_sentence_transformers.json").write_text(json.dumps({**said, "similarity_fn_name": "MaxSim"}))

    @torch.inference_mode()
    def vectors(self, text: str, side: str) -> NDArray[np.float32]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        ids = tokenizer.encode(text).ids
        ids.insert(1, self.markers[side])
        seen, kept = [1] * len(ids), [tokenizer.id_to_token(token) not in [*".,:!?"] for token in ids]
        if side == "query":
            missing = QUERY_LENGTH - len(ids)
            ids, seen, kept = ids + [4] * missing, seen + [0] * missing, [True] * QUERY_LENGTH
        states = self.model(torch.tensor([ids]), attention_mask=torch.tensor([seen])).last_hidden_state[0]
        if len(self.weights) > 1:
            states = states @ self.weights[0].T + states @ self.weights[1].T
        return F.normalize(states @ self.weights[-1].T, dim=1)[torch.tensor(kept)].numpy()


@pytest.fixture(scope="module", params=["stanford", "pylate"])
def colbert(request: pytest.FixtureRequest, compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Colbert:
    return Colbert(tmp_path_factory.mktemp("late") / "model", request.param)


def flags(colbert: Colbert) -> list[Any]:
    return ["--model", colbert.folder, "--dtype", "float32", "--device", "cpu", "--overwrite"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_vectors_and_scores(colbert: Colbert, call: Any, write_lines: Any, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"input": text, "prompt_name": "query"} for text in QUERIES]
    lines += [{"input": DOCUMENTS}, {"input": DOCUMENTS[0], "encoding_format": "base64", "use_activation": True}]
    lines += [{"input": "the cat " * 9, "prompt_name": "query"}]
    done = call("embed", *flags(colbert), write_lines(*lines), tmp_path / "out")
    assert done.exit_code == 3, done.stderr
    rows = rows_of(tmp_path / "out")
    assert rows[-1]["error"]["code"] == "prompt_too_long"
    queries = [np.array(row["embedding"], dtype=np.float32) for row in rows[:2]]
    documents = [np.array(one, dtype=np.float32) for one in rows[2]["embeddings"]]
    for text, found in zip(QUERIES, queries, strict=True):
        np.testing.assert_allclose(found, colbert.vectors(text, "query"), atol=2e-5)
    for text, found in zip(DOCUMENTS, documents, strict=True):
        np.testing.assert_allclose(found, colbert.vectors(text, "document"), atol=2e-5)
    packed = [np.frombuffer(base64.b64decode(one), np.float32) for one in rows[3]["embedding"]]
    assert np.array_equal(packed, documents[0])
    # Alone, as the only text of its step, and with the sums of MaxSim beside it.
    pairs = [{"query": QUERIES[0], "documents": DOCUMENTS}, {"text_1": QUERIES[1], "text_2": DOCUMENTS[1]}]
    done = call("score", *flags(colbert), "--max-num-seqs", "1", write_lines(*pairs), tmp_path / "scores")
    assert done.exit_code == 0, done.stderr
    first, second = rows_of(tmp_path / "scores")
    expected = [float((queries[0].astype(np.float64) @ one.T.astype(np.float64)).max(1).sum()) for one in documents]
    assert first["scores"] == pytest.approx(expected, abs=1e-6)
    assert second["score"] == pytest.approx(float((queries[1] @ documents[1].T).max(1).sum()), abs=1e-5)


def test_a_matrix_has_no_place_for_them(colbert: Colbert, call: Any, write_lines: Any, tmp_path: Path) -> None:
    done = call("embed", *flags(colbert), write_lines({"input": "a"}), tmp_path / "out.npy")
    assert done.exit_code == 2
    assert "one vector a record" in done.stderr


def test_any_model_gives_vectors_of_tokens(call: Any, tiny_bert: Path, write_lines: Any, tmp_path: Path) -> None:
    model = ["--model", tiny_bert, "--dtype", "float32", "--device", "cpu", "--no-normalize", "--overwrite"]
    source = write_lines({"input": "the cat sat"})
    assert call("embed", *model, "--pooling", "all", source, tmp_path / "each").exit_code == 0
    assert call("embed", *model, source, tmp_path / "mean").exit_code == 0
    each, mean = (np.array(rows_of(tmp_path / name)[0]["embedding"]) for name in ("each", "mean"))
    assert each.shape == (5, 32)
    np.testing.assert_allclose(each.mean(0), mean, atol=1e-5)
