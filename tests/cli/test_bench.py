"""`infer bench` on a tiny random model: what is told adds up. How fast anything is, no test says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

#: Prompts of 1 to 19 tokens (a byte each), outputs of exactly 1 to 5.
RECORDS = [{"prompt": "The quick brown fox"[: i % 19 + 1], "max_tokens": i % 5 + 1, "ignore_eos": True} for i in range(30)]
PARTS = [
    "read",
    "tokenize",
    "admit",
    "schedule",
    "batch",
    "attention",
    "linear",
    "lm_head",
    "row_wise",
    "model_rest",
    "sample",
    "commit",
    "detokenize",
    "step_rest",
    "write",
]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls of each operation will do, and small ones for what the machine can do at best."""
    monkeypatch.setattr("infer.core.bench.kernels.SECONDS", 0.0)
    monkeypatch.setattr("infer.core.bench.peaks.SECONDS", 0.0)
    monkeypatch.setattr("infer.core.bench.peaks.GEMM", (64, 128, 256))
    monkeypatch.setattr("infer.core.bench.peaks.READ_BYTES", 1 << 20)


def told(result: Any) -> dict[str, Any]:
    """The content of the one line on stdout."""
    lines = result.stdout.splitlines()
    assert len(lines) == 1, result.stdout
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_a_file(call: Any, tiny: list[str], write_lines: Any) -> None:
    result = call("bench", *tiny, "--warmup", "1", "--repeat", "3", write_lines(*RECORDS))
    assert result.exit_code == 0, result.stderr
    found = told(result)
    assert (found["bench"], found["records"], found["failed"]) == ("throughput", 30, 0)
    assert found["tokens"]["prompt"] == sum(len(r["prompt"]) for r in RECORDS)
    assert found["tokens"]["output"] == sum(r["max_tokens"] for r in RECORDS)
    assert (found["warmup"], found["repeat"]) == (1, 3)
    assert found["same_output"]
    for name in ("run_s", "requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s", "total_tokens_per_s", "first_token_s", "step_ms"):
        assert 0 < found[name]["min"] <= found[name]["median"] <= found[name]["max"], name
    assert found["steps"] > 0
    assert 0 < found["load_s"] < found["startup_s"]
    assert 0 < found["memory"]["end_bytes"] <= found["memory"]["peak_bytes"]
    assert found["memory"]["kv_in_use_bytes"] > 0
    assert found["settings"]["max_num_seqs"] == 8
    said = ["warm-up 1 of 1: ", "pass 3 of 3: ", "breakdown: ", "output tokens/s", "where the time goes", "linear layers", "GB/s"]
    assert [text for text in said if text not in result.stderr] == []


def test_the_parts_are_the_whole(call: Any, tiny: list[str], write_lines: Any) -> None:
    found = told(call("bench", *tiny, "--warmup", "0", "--repeat", "1", write_lines(*RECORDS)))
    breakdown = found["breakdown"]
    assert [part["name"] for part in breakdown["parts"]] == PARTS
    assert all(part["seconds"] >= 0 for part in breakdown["parts"])
    # The first records are read and tokenized before the pass begins, which is when the first is admitted.
    assert sum(part["seconds"] for part in breakdown["parts"] if part["name"] not in ("read", "tokenize")) <= breakdown["run_s"] * 1.001
    assert sum(part["share"] for part in breakdown["parts"]) > 0.95
    assert breakdown["steps"] == found["steps"]
    for name in ("attention", "linear", "lm_head", "row_wise", "sample", "schedule", "write"):
        assert next(part for part in breakdown["parts"] if part["name"] == name)["seconds"] > 0, name

    ops = {(op["name"], tuple(op["features"] or ())): op for op in breakdown["ops"]}
    gate_up = ("linear_gated", (64, 256)) if ("linear_gated", (64, 256)) in ops else ("linear", (64, 256))  # as the dtype has kernels
    for op in (("linear", (64, 128)), ("linear", (64, 64)), gate_up, ("linear", (128, 64))):  # of two layers
        assert ops[op]["calls"] == 2 * found["steps"]
    assert ops["attention", ()]["calls"] == 2 * found["steps"]
    assert ops["linear", (64, 259)]["calls"] <= found["steps"]
    for name in ("linear", "lm_head", "attention"):
        assert all(value > 0 for value in breakdown["achieved"][name].values()), name
    assert set(breakdown["peaks"]["gemm_gflops_per_s"]) >= {"float32", "bfloat16"}


def test_passes_do_not_profit_from_each_other(call: Any, tiny: list[str], write_lines: Any) -> None:
    """Long prompts alike in their first 64 tokens, one at a time: all but the first find 64 tokens, in every pass."""
    records = [{"prompt": "x" * 64 + "abcdef"[i], "max_tokens": 2, "ignore_eos": True} for i in range(6)]
    argv = ["bench", *tiny, "--max-num-seqs", "1", "--no-breakdown", "--repeat", "2", "--warmup", "1"]
    found = told(call(*argv, write_lines(*records)))
    assert found["tokens"]["cached"] == 5 * 64
    assert found["breakdown"] is None


def test_what_it_answers_is_what_generate_answers(call: Any, tiny: list[str], write_lines: Any, tmp_path: Path) -> None:
    path, out, stats = write_lines(*RECORDS), tmp_path / "out.jsonl", tmp_path / "stats.json"
    found = told(call("bench", *tiny, "--no-breakdown", "--warmup", "0", "--repeat", "1", path))
    assert call("generate", *tiny, "--temperature", "0", "--stats", stats, path, out).exit_code == 0
    assert found["output_sha256"] == json.loads(stats.read_text())["output_sha256"]


def test_random_lengths(call: Any, tiny: list[str]) -> None:
    argv = ["bench", "throughput", *tiny, "--num-prompts", "7", "--input-len", "20", "--output-len", "4", "--no-breakdown", "--repeat", "1"]
    found = told(call(*argv))
    assert (found["records"], found["tokens"]["prompt"], found["tokens"]["output"]) == (7, 140, 28)
    spread = told(call(*argv, "--random-range-ratio", "0.5"))
    assert 7 * 10 <= spread["tokens"]["prompt"] <= 7 * 30
    assert 7 * 2 <= spread["tokens"]["output"] <= 7 * 6
    assert spread["tokens"]["prompt"] != 140
    assert spread["output_sha256"] == told(call(*argv, "--random-range-ratio", "0.5"))["output_sha256"]
    assert spread["output_sha256"] != told(call(*argv, "--random-range-ratio", "0.5", "--seed", "1"))["output_sha256"]


def test_sampling(call: Any, tiny: list[str], write_lines: Any) -> None:
    path = write_lines(*({**record, "temperature": 0} for record in RECORDS))
    argv = ["bench", *tiny, "--no-breakdown", "--warmup", "0", "--repeat", "1"]
    greedy = told(call(*argv, path))["output_sha256"]
    sampled = ["--temperature", "0.9", "--top-p", "0.9"]
    assert told(call(*argv, *sampled, path))["output_sha256"] == greedy  # a record's own fields win
    assert told(call(*argv, *sampled, "--force-sampling", path))["output_sha256"] != greedy
    shorter = told(call(*argv, "--max-tokens", "1", "--force-sampling", path))
    assert shorter["tokens"]["output"] == 30


def test_the_first_records_of_stdin(program: Any, tiny: list[str]) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    argv = ["bench", *tiny, "-q", "--num-prompts", "4", "--no-breakdown", "--warmup", "0", "--repeat", "1", "-"]
    done = program(*argv, input=lines.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert (found["records"], found["tokens"]["output"]) == (4, 1 + 2 + 3 + 4)


def test_some_records_fail(call: Any, tiny: list[str], write_lines: Any) -> None:
    result = call("bench", *tiny, "--no-breakdown", "--repeat", "1", write_lines(b"nope", *RECORDS[:2]))
    assert result.exit_code == 3
    assert (told(result)["records"], told(result)["failed"]) == (3, 1)
    assert "1 failed" in result.stderr


def test_all_records_fail(call: Any, tiny: list[str], write_lines: Any) -> None:
    result = call("bench", *tiny, write_lines({"messages": []}))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing to measure: line 1: a line with messages belongs to infer chat" in result.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--input-len", "3", "IN"], "--input-len is about random records"),
        (["--repeat", "0"], "--repeat"),
        (["--warmup", "-1"], "--warmup"),
        (["--random-range-ratio", "1"], "--random-range-ratio"),
        (["--max-tokens", "5"], "--output-len"),
        (["--prompt-field", "q"], "--prompt-field"),
        (["--prompt-field", "q", "--template", "t", "IN"], "give one"),
        (["--force-sampling", "IN"], "--force-sampling needs"),
        (["--force-sampling", "--temperature", "1"], "--force-sampling needs"),
        (["--temperature", "-1"], "temperature"),
        (["--input-len", "500", "--output-len", "13"], "513 tokens, and max_model_len is 512"),
        (["missing.jsonl"], "does not exist"),
        (["EMPTY"], "nothing to measure"),
        (["IN", "OUT"], "unexpected extra argument"),
        (["--data-parallel-size", "2", "--num-prompts", "2"], "measures one engine"),
    ],
)
def test_refused(call: Any, tiny: list[str], write_lines: Any, argv: list[str], why: str) -> None:
    paths = {"IN": write_lines(*RECORDS), "EMPTY": write_lines(b"", b" ", name="empty.jsonl")}
    result = call("bench", *tiny, *(paths.get(word, word) for word in argv))
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr


def test_no_model(call: Any) -> None:
    result = call("bench")
    assert result.exit_code == 2
    assert "Missing option '--model'" in result.stderr


class TestSuite:
    def test_works_of_two_models_in_one_table(self, call: Any, tiny: list[str], tiny_bert: Path) -> None:
        argv = ["bench", "--suite", "--quick", *tiny, "--embed-model", tiny_bert]
        works = ["few4", "prefix", "long", "embed"]
        result = call(*argv, *(word for name in works for word in ("--work", name)))
        assert result.exit_code == 0, result.stderr
        found = told(result)
        one = {work["name"]: work for work in found["works"]}
        assert list(one) == ["few4", "prefix", "embed"]
        assert [work["name"] for work in found["skipped"]] == ["long"]
        assert "max_model_len is 512" in found["skipped"][0]["why"]
        assert (one["few4"]["records"], one["few4"]["tokens"]["prompt"], one["few4"]["tokens"]["output"]) == (4, 4 * 72, 4 * 48)
        assert (one["prefix"]["records"], one["prefix"]["tokens"]["prompt"]) == (32, 32 * 140)
        assert one["prefix"]["tokens"]["cached"] > 10 * 112
        assert (one["embed"]["texts"], one["embed"]["tokens"]["output"], found["failed"]) == (250, 0, 0)
        for work in one.values():
            shares = work["breakdown"]["shares"]
            assert list(shares) == ["linear", "lm_head", "attention", "other"]
            assert all(0 <= share <= 1 for share in shares.values())
            assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
            assert work["breakdown"]["achieved"]["linear"]["share_of_gemm_peak"] > 0
        lines = result.stderr.splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in works] == [
            "few4",
            "prefix",
            "embed",
            "long",
        ]
        assert len([line for line in lines if "limits with" in line]) == 2

    def test_the_same_records_each_time(self, call: Any, tiny: list[str]) -> None:
        argv = ["bench", "suite", "-q", "--quick", "--no-breakdown", "--work", "few1", *tiny]
        first, again = told(call(*argv)), told(call(*argv, "--repeat", "2"))
        assert first["works"][0]["output_sha256"] == again["works"][0]["output_sha256"]
        assert again["works"][0]["same_output"]
        assert "breakdown" not in first["works"][0]

    def test_what_the_model_cannot_do_is_left_out(self, call: Any, tiny: list[str], tiny_bert: Path) -> None:
        result = call("bench", "--suite", "--quick", "--no-breakdown", *tiny, "--work", "embed")
        assert (result.exit_code, told(result)["works"]) == (0, [])
        assert "embed was left out: no model for it: name one with --embed-model" in result.stderr
        result = call("bench", "--suite", "--quick", "--no-breakdown", "--model", tiny_bert, "--work", "mixed")
        assert "mixed was left out: " in result.stderr
        assert " does not generate" in result.stderr


class TestKernels:
    def test_of_a_model(self, call: Any, tiny_llama: Path) -> None:
        result = call("bench", "kernels", "-m", tiny_llama, "--dtype", "float32", "--rows", "3", "--rows", "512", "--kernels", "reference")
        assert result.exit_code == 0, result.stderr
        found = told(result)
        assert (found["bench"], found["kernels"], found["dtype"]) == ("kernels", "reference", "float32")
        ops = {(op["name"], op["rows"]): op for op in found["ops"]}
        assert {rows for _, rows in ops} == {16, 512}
        for name in ("linear qkv", "linear down", "add_rms_norm", "gated_activation", "rope_and_store", "attention, prompt of 512"):
            assert ops[name, 512]["us"] > 0
        assert ops["linear down", 512]["gflops_per_s"] > 0
        assert ops["rms_norm", 512]["gflops_per_s"] is None
        assert ops["rms_norm", 512]["gb_per_s"] > 0
        assert ("sample, greedy", 16) in ops
        assert ("sample, greedy", 512) not in ops  # nobody draws for so many rows
        assert all(op["speedup"] is None for op in found["ops"])  # it is the reference
        assert "attention, prompt of 16" in result.stderr
        assert "large operations reach float32" in result.stderr

    def test_of_experts(self, call: Any, tmp_path: Path) -> None:
        sizes = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
        raw = {"model_type": "mixtral", "vocab_size": 64, **sizes, "num_local_experts": 40, "num_experts_per_tok": 2}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        result = call("bench", "kernels", "-q", "-m", tmp_path, "--dtype", "float32", "--rows", "16", "--kernels", "reference")
        assert result.exit_code == 0, result.stderr
        names = {op["name"] for op in told(result)["ops"] if op["gflops_per_s"]}
        for kind in (
            "linear_experts gate_up, 2 of 32",
            "linear_experts_int8 down, 2 of 32",
            "linear_experts_grouped down, 2 of 32, 4 bits",
        ):
            assert kind in names

    def test_beside_the_reference(self, call: Any, tiny_llama: Path) -> None:
        pytest.importorskip("infer.kernels.cpu")
        found = told(call("bench", "kernels", "-q", "-m", tiny_llama, "--dtype", "float32", "--rows", "16", "--kernels", "cpu"))
        assert found["kernels"] == "cpu"
        assert all(op["speedup"] > 0 for op in found["ops"])

    def test_refused(self, call: Any) -> None:
        assert call("bench", "kernels", "--rows", "0").exit_code == 2
        assert call("bench", "kernels", "in.jsonl").exit_code == 2


def test_the_host_alone(call: Any) -> None:
    result = call("bench", "host", "--sequences", "1", "--sequences", "20", "--steps", "2")
    assert result.exit_code == 0, result.stderr
    found = told(result)
    assert [(one["sequences"], one["draws"], one["joining"]) for one in found["steps"]] == [
        (n, *kind) for n, joining in ((1, 1), (20, 2)) for kind in (("greedy", 0), ("sampled", 0), ("greedy", joining))
    ]
    assert all(0 < one["least_ms"] <= one["ms"] for one in found["steps"])
    assert "ms a step" in result.stderr
    assert call("bench", "host", "--sequences", "0").exit_code == 2


def test_help_is_of_the_group(call: Any) -> None:
    text = call("bench", "--help").stdout
    assert "throughput" in text
    assert "kernels" in text
