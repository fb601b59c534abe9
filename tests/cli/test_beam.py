"""`infer beam` from the command line to the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def run(program: Any, tiny_llama: Path, lines: list[dict[str, Any]], *flags: str, status: int = 0) -> list[dict[str, Any]]:
    data = "".join(json.dumps(line) + "\n" for line in lines)
    words = ["beam", "-q", "--model", str(tiny_llama), "--dtype", "float32", "--kv-cache-memory-bytes", "16MiB", *flags]
    done = program(*words, input=data, text=True)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_choices_are_best_first_and_records_win(program: Any, tiny_llama: Path) -> None:
    lines = [
        {"id": "a", "prompt": "hello"},
        {"id": "b", "prompt": "hello", "beam_width": 6, "num_return": 3, "max_tokens": 4, "note": 1},
        {"id": "c", "prompt": "hello", "beam_width": 0},
        {"id": "d", "prompt_token_ids": [70, 71], "scoring": "hf", "early_stopping": True, "logprobs": 2},
    ]
    flags = ["--width", "3", "--num-return", "2", "--max-tokens", "7", "--length-penalty", "0.5", "--ignore-eos"]
    rows = run(program, tiny_llama, lines, *flags, status=3)
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert [len(row.get("choices", [])) for row in rows] == [2, 3, 0, 2]
    assert rows[2]["error"]["param"] == "beam_width"
    assert rows[1]["extra"] == {"note": 1}
    assert rows[1]["usage"]["completion_tokens"] == 12
    for row in (rows[0], rows[1], rows[3]):
        scores = [choice["score"] for choice in row["choices"]]
        assert scores == sorted(scores, reverse=True)
        for choice in row["choices"]:
            length = row["usage"]["completion_tokens"] // len(row["choices"]) + (0 if row["id"] == "d" else row["usage"]["prompt_tokens"])
            assert abs(choice["score"] - choice["cumulative_logprob"] / length**0.5) < 1e-9
    assert all(sum(c["logprobs"]["token_logprobs"]) - c["cumulative_logprob"] < 1e-4 for c in rows[3]["choices"])


def test_the_bytes_do_not_depend_on_the_schedule(program: Any, tiny_llama: Path) -> None:
    lines = [{"prompt": "hello"[: 1 + i % 5] * (1 + i), "beam_width": 1 + i % 5, "max_tokens": 3 + i} for i in range(12)]
    usual = run(program, tiny_llama, lines, "--ignore-eos")
    assert usual == run(program, tiny_llama, lines, "--ignore-eos", "--max-num-seqs", "5", "--max-num-batched-tokens", "7")
    assert usual == run(program, tiny_llama, lines, "--ignore-eos", "--num-gpu-blocks-override", "40")


def test_a_part_is_a_beginning_of_the_whole(program: Any, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(30)))
    words = ["beam", "-q", "-m", str(tiny_llama), "--dtype", "float32", "--max-tokens", "6", "in.jsonl"]
    for more in (["whole.jsonl"], ["half.jsonl", "--limit", "10"]):
        assert program(*words, *more, cwd=tmp_path).returncode == 0
    assert (tmp_path / "whole.jsonl").read_bytes().startswith((tmp_path / "half.jsonl").read_bytes())


def test_wrong_flags_are_usage_errors(program: Any, tiny_llama: Path) -> None:
    for flags in (["--width", "65"], ["--num-return", "9"], ["--max-tokens", "none"], ["--min-tokens", "99"]):
        done = program("beam", "--model", str(tiny_llama), *flags, input="", text=True)
        assert done.returncode == 2, flags
        assert "Error" in done.stderr
