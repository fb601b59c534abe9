"""`infer score` from the command line to the bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

BAD: list[tuple[bytes, str]] = [
    (b"nope", "invalid_json"),
    (b'{"query": "a"}', "missing_field"),
    (b'{"query": "a", "documents": "b"}', "invalid_type"),
    (b'{"query": "a", "documents": []}', "invalid_value"),
    (b'{"query": "a", "documents": ["b", 5]}', "invalid_type"),
    (b'{"text_1": "a", "text_2": "\\ud800"}', "invalid_encoding"),
    (b'{"text_1": "a", "text_2": "' + b"a " * 80 + b'"}', "prompt_too_long"),
    (b'{"input": "a"}', "unsupported"),
]
GOOD: list[dict[str, Any]] = [
    {"id": "a", "query": "the cat", "documents": ["a dog", "the rain", "the cat"]},
    {"text_1": "the cat", "text_2": "a dog"},
    {"text_1": "", "text_2": ""},
    {"text_1": "the cat sat on the mat", "text_2": ["a dog", "xyz, abc"], "note": 1},
    {"text_1": ["the cat", "the sun"], "text_2": ["a dog", "the rain"]},
    {"custom_id": "b", "url": "/v1/rerank", "body": {"query": "the cat", "documents": ["a dog", "the cat"], "top_n": 1}},
]
Score = Callable[..., list[dict[str, Any]]]


@pytest.fixture(params=["embedder", "ranker"])
def model(request: pytest.FixtureRequest, tiny_bert: Path, tiny_ranker: Path) -> list[str]:
    folder = tiny_bert if request.param == "embedder" else tiny_ranker
    return ["--model", str(folder), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def score(call: Any, write_lines: Any, tmp_path: Path) -> Score:
    """score(model, lines, "--flag", ..., code=0): the rows."""

    def run(model: list[str], lines: list[Any], *flags: Any, code: int = 0) -> list[dict[str, Any]]:
        done = call("score", *model, *flags, "--overwrite", write_lines(*lines), tmp_path / "out")
        assert done.exit_code == code, done.stderr
        return [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]

    return run


def test_shapes(score: Score, model: list[str]) -> None:
    rows = score(model, GOOD)
    assert [len(row.get("scores", [])) for row in rows] == [3, 0, 0, 2, 2, 0]
    assert isinstance(rows[1]["score"], float)
    assert rows[3]["extra"] == {"note": 1}
    (best,) = rows[5]["response"]["body"]["results"]
    assert best["relevance_score"] == max(rows[0]["scores"][0], rows[0]["scores"][2])
    assert rows[4]["scores"][0] == rows[1]["score"]


def test_an_embedders_scores_are_cosines(score: Score, call: Any, tiny_bert: Path, write_lines: Any, tmp_path: Path) -> None:
    model = ["--model", str(tiny_bert), "--dtype", "float32", "--device", "cpu"]
    texts = write_lines({"input": ["query: the cat", "passage: a dog", "the cat", "a dog"]}, name="texts")
    assert call("embed", *model, texts, tmp_path / "v").exit_code == 0
    query, passage, cat, dog = np.array(json.loads((tmp_path / "v").read_bytes())["embeddings"])
    rows = score(model, [{"query": "the cat", "documents": ["a dog"]}, {"text_1": "the cat", "text_2": "a dog"}])
    assert rows[0]["scores"] == [pytest.approx(query @ passage, abs=1e-6)]
    assert rows[1]["score"] == pytest.approx(cat @ dog, abs=1e-6)
    (same,) = score(model, [{"text_1": "the cat", "text_2": "the cat"}], "--query-prefix", "", "--document-prefix", "")
    assert same["score"] == 1
    (other,) = score(model, [{"query": "the cat", "documents": ["a dog"]}], "--query-prefix", "", "--document-prefix", "")
    assert other["scores"] == [rows[1]["score"]]


def test_a_cross_encoders_scores_are_those_of_transformers(score: Score, tiny_ranker: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertForSequenceClassification

    reference = BertForSequenceClassification.from_pretrained(tiny_ranker).eval()
    tokenizer = Tokenizer.from_file(str(tiny_ranker / "tokenizer.json"))
    documents = ["a dog", "the rain in the sun", "", "xyz."]
    (row,) = score(["--model", str(tiny_ranker), "--dtype", "float32", "--device", "cpu"], [{"query": "the cat", "documents": documents}])
    for document, given in zip(documents, row["scores"], strict=True):
        both = tokenizer.encode("the cat", document)
        with torch.no_grad():
            logit = reference(torch.tensor([both.ids]), token_type_ids=torch.tensor([both.type_ids])).logits[0, 0]
        assert given == pytest.approx(float(torch.sigmoid(logit)), abs=1e-5)


def test_every_bad_line_fails_alone(score: Score, model: list[str], tmp_path: Path) -> None:
    score(model, GOOD)
    clean = [line.split(b",", 1)[1] for line in (tmp_path / "out").read_bytes().splitlines()[:5]]
    mixed = [line for i, (bad, _) in enumerate(BAD) for line in ([GOOD[i], bad] if i < 5 else [bad])]
    rows = score(model, mixed, code=3)
    raw = (tmp_path / "out").read_bytes().splitlines()
    assert [line.split(b",", 1)[1] for line, row in zip(raw, rows, strict=True) if not row["error"]] == clean
    assert [row["error"]["code"] for row in rows if row["error"]] == [code for _, code in BAD]


def test_bytes_do_not_depend_on_the_batch(score: Score, model: list[str], tmp_path: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "xyz"]
    lines = [{"text_1": " ".join(words[: i % 8]), "text_2": " ".join(words[i % 3 : 4] * (1 + i % 5))} for i in range(40)]
    score(model, lines)
    whole = (tmp_path / "out").read_bytes()
    for flags in (["--max-num-batched-tokens", "64"], ["--max-num-seqs", "1"]):
        score(model, lines, *flags)
        assert (tmp_path / "out").read_bytes() == whole
    score(model, lines[::-1])
    turned = (tmp_path / "out").read_bytes().splitlines()[::-1]
    assert [line.split(b",", 1)[1] for line in turned] == [line.split(b",", 1)[1] for line in whole.splitlines()]


def test_resume_gives_the_same_bytes(call: Any, launch: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    path = write_lines(*GOOD * 12, b"bad", *GOOD * 12)
    flags = ["--max-num-batched-tokens", "64", "--fsync", "always"]
    assert call("score", *model, *flags, path, tmp_path / "whole").exit_code == 3
    child = launch("score", *model, *flags, path, tmp_path / "broken", env={"INFER_FAULT": "committed:2"})
    said = child.communicate(timeout=300)[1].decode()
    assert child.returncode == -signal.SIGKILL, said
    done = call("score", *model, *flags, "--resume", path, tmp_path / "broken")
    assert done.exit_code == 3, done.stderr
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()


def test_truncation_and_stats(call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    path = write_lines({"text_1": "the cat " * 60, "text_2": "a dog"})
    done = call("score", *model, "--truncate", "right", "--stats", tmp_path / "stats", path, tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    assert "1 text had too many tokens and was cut off" in done.stderr
    stats = json.loads((tmp_path / "stats").read_bytes())
    assert stats["texts"]["truncated"] == 1
    assert stats["scoring"]["by"] in ("cosine", "cross-encoder")


def test_a_model_of_several_labels_is_refused(call: Any, tiny_ranker: Path, write_lines: Any, tmp_path: Path) -> None:
    labels = json.dumps({"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2})
    done = call("score", "--model", tiny_ranker, "--hf-overrides", labels, write_lines(GOOD[1]), tmp_path / "o")
    assert done.exit_code in (1, 2)
    assert "2 labels" in done.stderr


@pytest.mark.parametrize("flag", [["check"], ["check", "--task", "score"]])
def test_a_check_finds_what_a_run_would(call: Any, model: list[str], write_lines: Any, flag: list[str]) -> None:
    command, *more = flag
    done = call(command, *model, *more, "--json", write_lines(GOOD[0], *(line for line, _ in BAD), *GOOD[1:]))
    assert done.exit_code == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["records"] == {"total": len(GOOD) + len(BAD), "good": len(GOOD), "failed": len(BAD), "blank_lines": 0}
    codes = [code for _, code in BAD]
    assert {code: error["count"] for code, error in told["errors"].items()} == {code: codes.count(code) for code in codes}


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_paraphrases_score_above_the_unrelated(call: Any, minilm: Path, tmp_path: Path, dtype: str) -> None:
    lines = [json.loads(line) for line in (ROOT / "sample_data/score.jsonl").read_text().splitlines()]
    done = call("score", "--model", minilm, "--dtype", dtype, ROOT / "sample_data/score.jsonl", tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "o").read_bytes().splitlines()]
    pairs = [(row["extra"]["paraphrase"], row["score"]) for row in rows if "score" in row]
    assert len(pairs) == sum("paraphrase" in line for line in lines) >= 12
    assert min(s for alike, s in pairs if alike) > 0.25 + max(s for alike, s in pairs if not alike)
    (search,) = (row["scores"] for row in rows if "scores" in row)
    assert search == sorted(search, reverse=True)
