"""`infer embed` from the command line to the bytes."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: A line that fails -> the code of its error.
BAD: list[tuple[bytes, str]] = [
    (b"nope", "invalid_json"),
    (b"[1]", "invalid_json"),
    (b'{"input": NaN}', "invalid_json"),
    (b'{"input": "a"', "invalid_json"),
    (b'{"input": "\\ud800"}', "invalid_encoding"),
    (b'{"input": "\xff"}', "invalid_encoding"),
    (b'{"input": ' + b"[" * 300 + b"]" * 300 + b"}", "too_deep"),
    (b'{"input": 5}', "invalid_type"),
    (b'{"other": 1}', "missing_field"),
    (b'{"input": []}', "invalid_value"),
    (b'{"input": ["a", [1, "b"]]}', "invalid_type"),
    (b'{"input": [7, 99999]}', "invalid_value"),
    (b'{"input": [-1]}', "invalid_value"),
    (b'{"input": [1234567890123456789012]}', "invalid_value"),
    (b'{"input": "' + b"a " * 48 + b'"}', "prompt_too_long"),
    (b'{"input": ["a", "' + b"a " * 48 + b'"]}', "prompt_too_long"),
    (b'{"input": "a", "dimensions": 33}', "invalid_value"),
    (b'{"input": "a", "dimensions": 9}', "invalid_value"),
    (b'{"input": "a", "id": 36028797018963968}', "invalid_value"),
    (b'{"prompt": "a"}', "unsupported"),
    (b'{"custom_id": "x", "url": "/v1/chat/completions", "body": {"messages": []}}', "unsupported"),
    (b'{"url": "/v1/embeddings", "body": {"input": "a"}}', "missing_field"),
]
GOOD: list[dict[str, Any]] = [
    {"id": "fox", "input": "The quick brown fox."},
    {"text": "the cat sat on the mat", "note": 1},
    {"input": ["a dog", [7, 8], ""]},
    {"input": [5, 6, 7]},
    {"input": "the rain", "dimensions": 8, "encoding_format": "base64"},
    {"input": "the sun", "prompt_name": "query", "normalize": False},
    {"custom_id": "b", "method": "POST", "url": "/v1/embeddings", "body": {"input": "the dog", "model": "x"}},
    {"input": "the cat sat on the mat"},
]


@pytest.fixture
def model(tiny_bert: Path) -> list[str]:
    return ["--model", str(tiny_bert), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def embed(call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """embed(lines, "--flag", ..., code=0): the rows."""

    def run(lines: list[Any], *flags: Any, code: int = 0) -> list[dict[str, Any]]:
        done = call("embed", *model, *flags, "--overwrite", write_lines(*lines), tmp_path / "out")
        assert done.exit_code == code, done.stderr
        return [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]

    return run


def many(count: int) -> list[dict[str, Any]]:
    """Records of all lengths; some twice."""
    words = ["the", "cat", "sat", "on", "a", "mat", "xyz"]
    return [{"id": i, "input": " ".join(words[(i * j) % 7] for j in range(1 + i * 5 % 40))} for i in range(count)]


def test_order_and_shapes(embed: Any) -> None:
    rows = embed(GOOD)
    assert [row["index"] for row in rows if "index" in row] == [0, 1, 2, 3, 4, 5, 7]
    fox, cat, three, _, packed, query, batch, again = rows
    assert (fox["id"], len(fox["embedding"])) == ("fox", 32)
    assert np.linalg.norm(fox["embedding"]) == pytest.approx(1, abs=1e-6)
    assert cat["extra"] == {"note": 1}
    assert cat["embedding"] == again["embedding"]
    assert [len(vector) for vector in three["embeddings"]] == [32, 32, 32]
    assert three["usage"]["prompt_tokens"] == sum(row["usage"]["prompt_tokens"] for row in embed([{"input": "a dog"}, {"input": ""}])) + 2
    assert len(base64.b64decode(packed["embedding"])) == 8 * 4
    assert np.linalg.norm(query["embedding"]) != pytest.approx(1, abs=1e-3)
    assert len(batch["response"]["body"]["data"][0]["embedding"]) == 32


def test_vectors_are_those_of_transformers(embed: Any, tiny_bert: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    reference = BertModel.from_pretrained(tiny_bert).eval()
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    lines = many(12)
    for line, row in zip(lines, embed(lines), strict=True):
        with torch.no_grad():
            hidden = reference(torch.tensor([tokenizer.encode(line["input"]).ids])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        assert np.abs(expected.numpy() - np.array(row["embedding"])).max() < 1e-5


def test_every_bad_line_fails_alone(embed: Any, tmp_path: Path) -> None:
    embed(GOOD)
    clean = (tmp_path / "out").read_bytes().splitlines()
    for start in range(0, len(BAD), len(GOOD)):
        bad = BAD[start : start + len(GOOD)]
        mixed = [line for i, good in enumerate(GOOD) for line in (good, *([bad[i][0]] if i < len(bad) else []))]
        rows = embed(mixed, code=3)
        raw = (tmp_path / "out").read_bytes().splitlines()
        assert len(rows) == len(mixed)
        at = 0
        for i in range(len(GOOD)):
            assert vectors_of(raw[at]) == vectors_of(clean[i])
            at += 1
            if i < len(bad):
                error = rows[at].get("error") or rows[at]["response"]["body"]["error"]
                assert error["code"] == bad[i][1], bad[i]
                at += 1


def vectors_of(line: bytes) -> bytes:
    """A row's bytes without its place in the input."""
    if line.startswith(b'{"index"'):
        return line.split(b",", 1)[1]
    return line[line.index(b'"body"') :]


def test_bytes_do_not_depend_on_the_batch(embed: Any, tmp_path: Path) -> None:
    lines = many(60)
    embed(lines)
    alone = (tmp_path / "out").read_bytes()
    for flags in (["--max-num-batched-tokens", "64"], ["--max-num-batched-tokens", "4096"], ["--max-num-seqs", "1"]):
        embed(lines, *flags)
        assert (tmp_path / "out").read_bytes() == alone
    embed(lines[::-1])
    turned = (tmp_path / "out").read_bytes().splitlines()[::-1]
    assert [vectors_of(line) for line in turned] == [vectors_of(line) for line in alone.splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "npy", "safetensors", "parquet"])
def test_resume_gives_the_same_bytes(call: Any, launch: Any, model: list[str], write_lines: Any, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    path = write_lines(*many(60), b"bad", *many(60))
    flags = ["--output-format", form, "--max-num-batched-tokens", "64", "--fsync", "always"]
    assert call("embed", *model, *flags, path, tmp_path / "whole").exit_code == 3
    child = launch("embed", *model, *flags, path, tmp_path / "broken", env={"INFER_FAULT": "committed:2"})
    said = child.communicate(timeout=300)[1].decode()
    assert child.returncode == -signal.SIGKILL, said
    assert not (tmp_path / "broken").exists()
    done = call("embed", *model, *flags, "--resume", "--stats", tmp_path / "stats", path, tmp_path / "broken")
    assert done.exit_code == 3, done.stderr
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()
    if form != "jsonl":
        assert (tmp_path / "broken.ids.jsonl").read_bytes() == (tmp_path / "whole.ids.jsonl").read_bytes()
    stats = json.loads((tmp_path / "stats").read_bytes())
    assert stats["attempts"] == 2
    assert stats["records"]["from_earlier_attempts"] > 0
    assert stats["texts"]["total"] == 120


def test_another_job_is_not_resumed(call: Any, launch: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    path = write_lines(*many(120))
    launch("embed", *model, path, tmp_path / "out", env={"INFER_FAULT": "committed:1"}).communicate(timeout=300)
    for flags, name in ((["--prefix", "x"], "prefix"), (["--no-normalize"], "normalize"), (["--encoding", "base64"], "encoding")):
        done = call("embed", *model, *flags, "--resume", path, tmp_path / "out")
        assert done.exit_code == 2
        assert name in done.stderr


def test_matrices_hold_the_vectors_of_the_lines(embed: Any, call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    lines: list[Any] = [{"id": "a", "input": "the cat"}, b"bad", {"input": ["the", "cat"]}, {"input": "a dog"}]
    expected = [row.get("embedding") for row in embed(lines, code=3)]
    flags = ["--output-format", "npy", "--overwrite"]
    assert call("embed", *model, *flags, write_lines(*lines), tmp_path / "v.npy").exit_code == 3
    matrix = np.load(tmp_path / "v.npy")
    assert matrix.shape == (4, 32)
    assert matrix.dtype == np.float32
    assert matrix[0].tolist() == np.array(expected[0], np.float32).tolist()
    assert matrix[3].tolist() == np.array(expected[3], np.float32).tolist()
    assert np.isnan(matrix[1:3]).all()
    rows = [json.loads(line) for line in (tmp_path / "v.npy.ids.jsonl").read_bytes().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "invalid_json", "invalid_value", None]
    assert rows[0]["id"] == "a"


@pytest.mark.parametrize(("dtype", "shape"), [("float16", (2, 32)), ("int8", (2, 32)), ("binary", (2, 4))])
def test_smaller_types(
    embed: Any, call: Any, model: list[str], write_lines: Any, tmp_path: Path, dtype: str, shape: tuple[int, int]
) -> None:
    lines = many(2)
    rows = embed(lines, "--embedding-dtype", dtype)
    packed = embed(lines, "--embedding-dtype", dtype, "--encoding", "base64")
    out = tmp_path / "v.npy"
    assert call("embed", *model, "--output-format", "npy", "--embedding-dtype", dtype, write_lines(*lines), out).exit_code == 0
    matrix = np.load(out)
    assert matrix.shape == shape
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), matrix.astype(np.float32))
    assert [base64.b64decode(row["embedding"]) for row in packed] == [one.tobytes() for one in matrix]


def test_flags(embed: Any) -> None:
    line = {"input": "the cat"}
    (plain,) = embed([line])
    (raw,) = embed([line], "--no-normalize")
    assert np.allclose(np.array(raw["embedding"]) / np.linalg.norm(raw["embedding"]), plain["embedding"], atol=1e-6)
    vectors = {json.dumps(embed([line], "--pooling", name)[0]["embedding"]) for name in ("cls", "mean", "last")}
    assert len(vectors) == 3
    assert json.dumps(plain["embedding"]) in vectors
    (short,) = embed([line], "--dimensions", "16")
    assert len(short["embedding"]) == 16
    assert np.linalg.norm(short["embedding"]) == pytest.approx(1, abs=1e-6)
    assert np.allclose(short["embedding"], np.array(raw["embedding"])[:16] / np.linalg.norm(raw["embedding"][:16]), atol=1e-6)
    query = embed([{"input": "query: the cat"}])[0]["embedding"]
    assert embed([line], "--prompt-name", "query")[0]["embedding"] == query
    assert embed([line], "--prefix", "query: ")[0]["embedding"] == query
    assert embed([{"body": "the cat", "input": 1}], "--prompt-field", "body")[0]["embedding"] == plain["embedding"]


def test_a_template_makes_the_text(embed: Any, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("{{ a }} {{ b }}")
    assert embed([{"a": "the", "b": "cat"}], "--template", tmp_path / "t")[0]["embedding"] == embed([{"input": "the cat"}])[0]["embedding"]


def test_truncation_is_counted(embed: Any, call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    text = "the cat sat on the mat " * 20
    right, left = (embed([{"input": text}], "--truncate", side)[0] for side in ("right", "left"))
    assert right["usage"]["prompt_tokens"] == left["usage"]["prompt_tokens"] == 48
    assert right["embedding"] == embed([{"input": " ".join(text.split()[:46])}])[0]["embedding"]
    assert left["embedding"] == embed([{"input": " ".join(text.split()[-46:])}])[0]["embedding"]
    path = write_lines({"input": text}, {"input": ["a", text]}, {"input": "a"})
    done = call("embed", *model, "--truncate", "right", "--stats", tmp_path / "stats", path, tmp_path / "o")
    assert done.exit_code == 0
    assert "2 texts had too many tokens and were cut off" in done.stderr
    stats = json.loads((tmp_path / "stats").read_bytes())
    assert stats["texts"]["total"] == 4
    assert stats["texts"]["truncated"] == 2
    assert (stats["embedding"]["truncate"], stats["embedding"]["truncated"]) == ("right", 2)


@pytest.mark.parametrize(("flags", "empty"), [([], []), (["--encoding", "base64"], "")])
def test_rows_of_one_shape(
    call: Any, model: list[str], write_lines: Any, read_rows: Any, tmp_path: Path, flags: list[str], empty: Any
) -> None:
    done = call("embed", *model, "--error-format", "flat", *flags, write_lines({"input": 5}, {"input": "the cat"}), tmp_path / "o")
    assert done.exit_code == 3, done.stderr
    failed, good = read_rows(tmp_path / "o")
    assert list(failed) == list(good)
    assert (failed["embedding"], failed["error_code"], failed["usage"]) == (empty, "invalid_type", {"prompt_tokens": 0, "total_tokens": 0})
    assert (good["error_code"], good["error_message"], good["error_param"], good["error_retryable"]) == ("", "", "", False)


def test_what_is_said_at_the_end(call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    done = call("embed", *model, "--prompt-name", "query", "--stats", tmp_path / "stats", write_lines(*many(5)), tmp_path / "o")
    assert "5 of 5 records answered" in done.stderr
    assert "5 texts, " in done.stderr
    assert "texts/s" in done.stderr
    assert "output" not in done.stderr
    stats = json.loads((tmp_path / "stats").read_bytes())
    assert stats["command"] == "embed"
    made = {"size": 32, "dtype": "float32", "pooling": "mean", "normalized": True, "prefix": "query: ", "similarity": "cosine"}
    assert stats["embedding"] == {**made, "truncate": None, "format": "jsonl", "encoding": "float", "truncated": 0}
    assert set(stats["tokens"]) == {"prompt", "repeated", "prompt_per_s"}
    assert stats["tokens"]["prompt"] > 0
    assert "finish_reasons" not in stats
    assert stats["timing"]["first_vector_s"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt-name", "nope"], "query, passage"),
        (["--prompt-name", "query", "--prefix", "x"], "give one"),
        (["--prompt-field", "a", "--template", "b"], "give one"),
        (["--dimensions", "33"], "32"),
        (["--dimensions", "9"], "8, 16"),
        (["--redo", "finish_reason=length"], "--redo"),
        (["--report-cache"], "--report-cache"),
        (["--output-format", "npy"], "file"),
        (["--runner", "generate"], "generate"),
    ],
)
def test_wrong_flags_are_found_before_the_run(call: Any, model: list[str], write_lines: Any, flags: list[str], message: str) -> None:
    done = call("embed", *model, *flags, write_lines({"input": "a"}), "-")
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_other_commands_name_this_one(call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    for command in ("generate", "chat", "beam"):
        done = call(command, *model, write_lines({"prompt": "a"}), tmp_path / "o")
        assert done.exit_code == 2
        assert "infer embed" in done.stderr
    done = call("embed", *model, "--task", "generate", write_lines({"input": "a"}), tmp_path / "o")
    assert done.exit_code == 2


def test_a_decoder_embeds(call: Any, tiny_llama: Path, write_lines: Any, tmp_path: Path) -> None:
    done = call("embed", "--model", tiny_llama, "--dtype", "float32", "--device", "cpu", write_lines(*many(3)), tmp_path / "o")
    assert done.exit_code == 0, done.stderr
    assert [len(json.loads(line)["embedding"]) for line in (tmp_path / "o").read_bytes().splitlines()] == [64] * 3


def test_nothing_to_do(call: Any, model: list[str], write_lines: Any, tmp_path: Path) -> None:
    done = call("embed", *model, "--stats", tmp_path / "stats", write_lines(b"", b"  "), tmp_path / "o")
    assert done.exit_code == 0
    assert (tmp_path / "o").read_bytes() == b""
    assert json.loads((tmp_path / "stats").read_bytes())["embedding"]["truncated"] == 0


@pytest.mark.parametrize("flag", [["check"], ["check", "--task", "embed"], ["embed", "--dry-run"]])
def test_a_check_finds_what_a_run_would(call: Any, embed: Any, model: list[str], write_lines: Any, flag: list[str]) -> None:
    lines = [GOOD[0], *(line for line, _ in BAD), *GOOD[1:]]
    path = write_lines(*lines)
    rows = embed(lines, code=3)
    expected = sorted(
        (row.get("error") or row["response"]["body"]["error"])["code"]
        for row in rows
        if row["error"] or row.get("response", {}).get("status_code") == 400
    )
    command, *more = flag
    done = call(command, *model, *more, *([] if command == "embed" else ["--json"]), path)
    assert done.exit_code == 3, done.stderr
    if command == "embed":
        assert f"{len(GOOD)} would be answered, {len(BAD)} would fail" in done.stdout
        assert "KV cache" not in done.stdout
        return
    told = json.loads(done.stdout)
    assert sorted(code for code, error in told["errors"].items() for _ in range(error["count"])) == expected
    assert told["kv_cache"] is None
    assert told["prompt_tokens"]["total"] == sum(r.get("usage", {}).get("prompt_tokens", 0) for r in rows) + 4


def test_a_check_knows_what_a_matrix_cannot_hold(call: Any, model: list[str], write_lines: Any) -> None:
    done = call("check", *model, "--output-format", "npy", "--json", write_lines({"input": ["a"]}, {"input": "a"}))
    assert (done.exit_code, json.loads(done.stdout)["errors"]["invalid_value"]["count"]) == (3, 1)
