"""Memory is what the weights and the running records take, not what has ever gone through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20


def test_the_peak_is_weights_and_running_records_and_little_else(infer_program: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    """120 records of 192 tokens, each token with 64 KiB of keys and values, no more than 16 of them at a time."""
    layers, heads, head_dim, records, at_a_time, length, drawn = 8, 8, 128, 120, 16, 192, 12
    overrides = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": head_dim,
        "max_position_embeddings": 256,
    }
    lines = [{"prompt_token_ids": [3 + i % 50, 3 + i // 50] * ((length - drawn) // 2), "ignore_eos": True} for i in range(records)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [*infer_program, "generate", "--model", str(tiny_llama), "in.jsonl", "out.jsonl", "--stats", "stats.json"]
    command += ["--load-format", "dummy", "--dtype", "float32", "--hf-overrides", json.dumps(overrides)]
    command += ["--max-num-seqs", str(at_a_time), "--max-tokens", str(drawn), "--kv-cache-memory-bytes", "3GiB"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    peak = json.loads((tmp_path / "stats.json").read_text())["memory"]["peak_bytes"]
    bytes_per_token = 2 * layers * heads * head_dim * 4
    in_use, gone_through = at_a_time * length * bytes_per_token, records * length * bytes_per_token
    weights, rest = 20 * MIB, imported() + 380 * MIB  # 600 MiB where torch is a build for CPUs
    assert gone_through > in_use + rest, "or the test shows nothing"
    assert peak <= weights + in_use + rest, f"{peak / MIB:.0f} MiB"


def imported() -> int:
    """The peak, in bytes, of a process that does nothing but import torch: builds for GPUs bring large libraries."""
    code = "import torch; from infer.core.jobs.stats import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return int(done.stdout)
