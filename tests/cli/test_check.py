"""`infer check`: what it says of a file, and that no weights are loaded for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_the_report(call: Any, tiny_llama: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "abc"}, b"nope", b"", {"prompt": "x" * 600}, {"prompt": "abc", "max_tokens": 4}, {"prompt": 5})
    result = call("check", "-m", tiny_llama, "--device", "cpu", "--dtype", "float32", path)
    assert result.exit_code == 3
    lines = [re.sub(r"(not JSON: ).*( \(position 0\))", r"\1(the library's words)\2", line) for line in result.stdout.splitlines()]
    assert lines == [
        "5 records: 2 would be answered, 3 would fail, 1 blank line skipped",
        "",
        "errors",
        "  invalid_json     1  first on line 2: not JSON: (the library's words) (position 0)",
        "  prompt_too_long  1  first on line 4: the prompt has 600 tokens; with max_model_len 512 it can have 511",
        "  invalid_type     1  first on line 6: prompt must be a string or a list of token ids, not an integer",
        "  the longest prompt has 600 tokens; max_model_len is 512",
        "",
        "prompt tokens: 6 in 2 good records",
        "  min 3, median 3, mean 3.0, p90 3, p99 3, max 3",
        "          2-3  2  ########################################",
        "          4-7  0",
        "         8-15  0",
        "        16-31  0",
        "        32-63  0",
        "       64-127  0",
        "      128-255  0",
        "      256-511  0",
        "    512-1,023  1  ####################",
        "    (records that would fail are counted here too)",
        "  1 prompt repeats an earlier one (50.0%)",
        "",
        "output tokens: at most 20 in 2 outputs",
        "",
        "KV cache: 512 bytes a token (float32, blocks of 16)",
        "  largest record            32 tokens  0.0 MiB  line 1",
        "  2 median outputs at once  32 tokens  0.0 MiB",
        "",
        "time: unknown; --tokens-per-second N estimates it from the output speed that an earlier run's summary tells",
    ]


def test_numbers_for_programs(call: Any, tiny_llama: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "abc", "max_tokens": 100, "n": 2}, {"prompt": "x" * 20})
    argv = ["--device", "cpu", "--dtype", "bfloat16", "--json", "--tokens-per-second", "10", "--max-num-seqs", "2"]
    result = call("check", "-m", tiny_llama, *argv, path)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["records"] == {"total": 2, "good": 2, "failed": 0, "blank_lines": 0}
    assert told["errors"] == {}
    assert told["max_output_tokens"] == 216
    assert told["time_s"] == 21.6
    assert told["kv_cache"] == {
        "bytes_per_token": 256,
        "largest_record": {"line": 1, "tokens": 112, "bytes": 112 * 256},
        "typical_batch": {"sequences": 2, "tokens": 224, "bytes": 224 * 256},
        "given_tokens": None,
    }


def test_bytes_per_token_are_the_engines(tiny_llama: Path) -> None:
    import torch

    from infer.core.build.generating import DTYPES
    from infer.core.build.plan import make_plan
    from infer.core.memory.kv_cache import KVShape, kv_dtype
    from infer.core.models import build
    from infer.core.settings.args import EngineArgs
    from infer.kernels import load

    for dtype, kept in (("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "fp8"), ("bfloat16", "int8")):
        plan = make_plan(EngineArgs(model=str(tiny_llama), device="cpu", dtype=dtype, kv_cache_dtype=kept))
        model = build(plan.spec, load("reference"))
        assert plan.kv_bytes_per_token() == KVShape(model.caches, kv_dtype(plan.config, DTYPES[dtype])).bytes_per_token
        assert plan.limits().vocab_size == model.vocab_size
    assert torch.float32 in DTYPES.values()


def test_a_given_kv_cache_is_held_against_the_records(call: Any, tiny_llama: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "a", "max_tokens": 400}, {"prompt": "a"})
    result = call("check", "-m", tiny_llama, "--num-gpu-blocks-override", "10", "--json", path)
    assert result.exit_code == 3
    assert list(json.loads(result.stdout)["errors"]) == ["kv_capacity"]
    assert json.loads(result.stdout)["kv_cache"]["given_tokens"] == 160
    result = call("check", "-m", tiny_llama, "--num-gpu-blocks-override", "10", "--max-model-len", "512", path)
    assert result.exit_code == 2
    assert "does not fit the KV cache" in result.stderr


@pytest.mark.parametrize(
    ("first", "kind", "code"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, [], 0),
        ({"messages": [{"role": "user", "content": "hi"}]}, ["--task", "generate"], 3),
        ({"prompt": "a"}, [], 0),
        ({"prompt": "a"}, ["--task", "chat"], 3),
        ({"prompt": "a", "beam_width": 2}, [], 0),
        ({"prompt": "a", "beam_width": 99}, [], 3),
        ({"prompt": "a"}, ["--task", "beam", "--top-p", "0.5"], 0),
        ({"prompt": "a", "beam_width": 2}, ["--task", "generate"], 3),
    ],
)
def test_what_the_records_are_for(call: Any, tiny_llama: Path, write_lines: Any, first: dict[str, Any], kind: list[str], code: int) -> None:
    result = call("check", "-m", tiny_llama, *kind, write_lines(first))
    assert result.exit_code == code, result.output


def test_it_counts_what_a_run_counts(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    lines = [{"messages": [{"role": "user", "content": "y" * (7 * i)}], "max_tokens": 2} for i in range(1, 60)]
    path, stats = write_lines(*lines, b"bad"), tmp_path / "stats"
    assert call("chat", "-m", tiny_llama, "--system", "Be kind.", "--stats", stats, path, tmp_path / "out").exit_code == 3
    told = json.loads(call("check", "-m", tiny_llama, "--system", "Be kind.", "--json", path).stdout)
    run = json.loads(stats.read_text())
    assert told["prompt_tokens"]["total"] == run["tokens"]["prompt"]
    assert told["records"]["failed"] == run["records"]["failed"]
    assert set(told["errors"]) == set(run["errors"])


@pytest.mark.usefixtures("forked_ranks")
def test_it_refuses_the_constraints_that_a_run_refuses(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    """One door: what reads a constraint and what compiles it; with two engines, too."""
    loop = {"oneOf": [{"$ref": "#"}, {"type": "null"}]}
    specs: list[dict[str, Any]] = [
        {"json": {"type": "string", "format": []}},
        {"json": {"type": "integer", "multipleOf": 3, "minimum": 4, "maximum": 20}},
        {"json": loop},
        {"json": {"$ref": "#"}},
        {"json": {"type": "integer", "minimum": 3, "maximum": 2}},
        {"regex": "a(?=b)"},
        {"regex": "ab?"},
        {"grammar": "root ::= nowhere"},
        {"grammar": "start: @"},
        {"structural_tag": {"type": "structural_tag", "format": {"type": "nope"}}},
    ]
    path = write_lines(*({"prompt": "a", "max_tokens": 4, "structured_outputs": spec} for spec in specs))
    told = json.loads(call("check", "-m", tiny_llama, "--json", path).stdout)
    for engines in (1, 2):
        out = tmp_path / f"out{engines}"
        assert call("generate", "-m", tiny_llama, "--data-parallel-size", engines, path, out).exit_code == 3
        errors = [json.loads(line)["error"] for line in out.read_bytes().splitlines()]
        assert [error is None for error in errors] == [i in (1, 6) for i in range(len(specs))]
        codes = [error["code"] for error in errors if error is not None]
        assert {code: codes.count(code) for code in codes} == {code: one["count"] for code, one in told["errors"].items()}
        assert {one["message"] for one in told["errors"].values()} <= {error["message"] for error in errors if error is not None}


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_dry_run_answers_nothing(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, command: str) -> None:
    good = {"prompt": "abc"} if command == "generate" else {"messages": [{"role": "user", "content": "hi"}]}
    path = write_lines(good, b"bad")
    result = call(command, "--dry-run", "-m", tiny_llama, path, tmp_path / "out")
    assert result.exit_code == 3
    assert result.stdout == call("check", "-m", tiny_llama, path).stdout
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_parts_of_several_inputs(call: Any, tiny_llama: Path, write_lines: Any) -> None:
    a, b = write_lines({"prompt": "a"}, {"prompt": "b"}, name="a"), write_lines({"prompt": "c"}, b"bad", name="b")
    result = call("check", "-m", tiny_llama, "--input", a, "--input", b, "--offset", "1", "--json")
    assert json.loads(result.stdout)["records"]["total"] == 3
    assert json.loads(result.stdout)["errors"]["invalid_json"] | {"message": ""} == {"count": 1, "line": 2, "input": str(b), "message": ""}
    result = call("check", "-m", tiny_llama, "--input", a, "--input", b, "--shard", "0/2", "--limit", "3", "--json")
    assert json.loads(result.stdout)["records"]["total"] == 2


def test_refusals(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "a"})
    for argv, code in (
        ([path], 2),
        (["-m", tiny_llama, tmp_path / "none"], 2),
        (["-m", tiny_llama, path, path], 2),
        (["-m", tmp_path / "none", path], 1),
        (["-m", tiny_llama, "--tokens-per-second", "0", path], 2),
        (["-m", tiny_llama, "--prompt-field", "a", "--template", path, path], 2),
        (["-m", tiny_llama, "--temperature", "-1", path], 2),
    ):
        result = call("check", *argv)
        assert (result.exit_code, result.stdout) == (code, ""), argv


def test_no_torch_and_no_weights(tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_llama.iterdir():
        if file.suffix == ".json":
            (model / file.name).write_bytes(file.read_bytes())
    path = write_lines({"prompt": "a", "structured_outputs": {"json": {"type": "object"}}})
    code = f"""
import sys
from infer.cli.main import run
try:
    run(["check", "-m", {str(model)!r}, "--device", "cpu", {str(path)!r}])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "False"
    assert done.stdout.startswith("1 record: 1 would be answered")


def test_memory_is_flat(infer_program: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    # Not through ru_maxrss of a child of ours: that one starts at our own size.
    code = "import sys; from infer.cli.main import run; from infer.core.jobs.stats import peak_memory\n"
    code += "try: run()\nfinally: print(peak_memory(), file=sys.stderr)"
    peaks = []
    for megabytes in (10, 30):  # both with every table that many records bring
        path = tmp_path / f"in{megabytes}"
        with path.open("w") as file:
            for i in range(megabytes << 10):
                file.write(json.dumps({"prompt": f"{i} " + "lorem ipsum " * (i % 40), "id": i, "note": "x" * 700}) + "\n")
        argv = [sys.executable, "-c", code, "check", "--json", "-m", str(tiny_llama), "--device", "cpu", str(path)]
        done = subprocess.run(argv, capture_output=True, timeout=300, check=True)
        assert json.loads(done.stdout)["records"]["total"] == megabytes << 10
        peaks.append(int(done.stderr.splitlines()[-1]))
    assert peaks[1] < peaks[0] + (24 << 20), peaks


def test_progress(call: Any, tiny_llama: Path, write_lines: Any) -> None:
    path = write_lines(*({"prompt": f"{i}"} for i in range(3000)))
    result = call("check", "-m", tiny_llama, "--progress-interval", "0.0001", path)
    assert "records checked (" in result.stderr
    assert "would fail" in result.stderr
    assert call("check", "-q", "-m", tiny_llama, "--progress-interval", "0.0001", path).stderr == ""


def test_bad_words_and_a_shared_model_that_pools_are_refused_as_by_a_run(
    call: Any, tiny: list[str], tiny_bert: Path, tmp_path: Path, write_lines: Any, read_rows: Any
) -> None:
    lines = write_lines({"prompt": "a", "bad_words": ["x" * i for i in range(1, 200)]}, {"prompt": "a"})
    checked = json.loads(call("check", *tiny, "--json", lines).stdout)
    assert call("generate", *tiny, "--max-tokens", "1", lines, tmp_path / "out").exit_code == 3
    error = read_rows(tmp_path / "out")[0]["error"]
    assert checked["errors"] == {error["code"]: {"count": 1, "line": 1, "message": error["message"]}}
    texts = write_lines({"input": "a"}, name="texts.jsonl")
    for command in (["check", "--task", "embed"], ["embed"]):
        result = call(*command, "--model", tiny_bert, "--tensor-parallel-size", "2", texts)
        assert (result.exit_code, "models that pool are not shared" in result.output) == (2, True)
