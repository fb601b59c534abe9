"""`--resume`, whatever it finds: nothing, a finished output, an unfinished one, another job's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COUNT = 120
LINES: list[Any] = [
    b"bad" if i % 10 == 4 else {"prompt": f"Record {i}", "max_tokens": 20 + i % 9 + 100 * (i % 30 == 0), "ignore_eos": i % 3 > 0}
    for i in range(COUNT)
]


@pytest.fixture
def path(write_lines: Any) -> Path:
    made: Path = write_lines(*LINES)
    return made


@pytest.fixture
def begin(launch: Any, hold: Any, wait_for: Any, committed: Any, tiny: list[str]) -> Callable[..., None]:
    """begin(…, input, out): a run that is killed when it has answered so many records; more of them never came."""

    def run(*argv: Any, count: int = COUNT // 3) -> None:
        *_, path, out = argv
        gate = hold(path, count)
        child = launch("generate", *tiny, *argv)
        wait_for(lambda: committed(out) == count, child)
        child.kill()
        child.wait()
        gate.lift()

    return run


def there(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and time of change; not the lock's, which a dead run leaves and the next one takes away."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_nothing_there_is_a_fresh_run(call: Any, tiny: list[str], path: Path, tmp_path: Path) -> None:
    assert call("generate", *tiny, "--resume", path, tmp_path / "a").exit_code == 3
    assert call("generate", *tiny, path, tmp_path / "b").exit_code == 3
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_finished_output_is_left_alone(call: Any, tiny: list[str], write_lines: Any, tmp_path: Path, suffix: str) -> None:
    for name, lines, code in (("good", [{"prompt": "a"}], 0), ("mixed", [{"prompt": "a"}, b"bad"], 3)):
        out, path = tmp_path / f"{name}{suffix}", write_lines(*lines, name=f"{name}.jsonl")
        assert call("generate", *tiny, path, out).exit_code == code
        before = there(tmp_path)
        again = call("generate", *tiny, "--resume", path, out)
        assert again.exit_code == code, again.stderr
        assert "is finished already" in again.stderr
        assert there(tmp_path) == before


def test_what_is_no_file_cannot_be_resumed(call: Any, tiny: list[str], path: Path, tmp_path: Path) -> None:
    assert call("generate", *tiny, "--resume", path, "-").exit_code == 2
    os.mkfifo(tmp_path / "pipe")
    for more in (["--resume"], ["--resume-force"], ["--retry-errors"], ["--errors", tmp_path / "errors"]):
        refused = call("generate", *tiny, *more, path, tmp_path / "pipe")
        assert refused.exit_code == 2, refused.stderr
        assert "pipe" in refused.stderr
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert call("generate", *tiny, path, tmp_path / "pipe").exit_code == 3
    reader.join(60)
    assert read[0].count(b"\n") == COUNT
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "pipe"]


def test_an_unfinished_output_is_not_overwritten_unasked(begin: Any, call: Any, tiny: list[str], path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(path, out)
    before = there(tmp_path)
    refused = call("generate", *tiny, path, out)
    assert refused.exit_code == 2
    for said in ("--resume", "--overwrite", str(out)):
        assert said in refused.stderr
    assert re.search(r"holds \d+ records of a run that did not finish", refused.stderr)
    assert there(tmp_path) == before
    assert call("generate", *tiny, "--overwrite", path, out).exit_code == 3
    assert call("generate", *tiny, path, tmp_path / "whole").exit_code == 3
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert [path.name for path in tmp_path.glob("out.*")] == ["out.job.json"]


def test_a_job_that_is_not_the_same_is_refused(
    begin: Any, call: Any, tiny: list[str], tiny_llama: Path, write_lines: Any, path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin(path, out)
    done = int(re.findall(r"holds (\d+) records", call("generate", *tiny, path, out).stderr)[0])
    assert done == COUNT // 3

    changed_model = shutil.copytree(tiny_llama, tmp_path / "changed-model")
    config = json.loads((changed_model / "config.json").read_text())
    (changed_model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    changed_tokenizer = shutil.copytree(tiny_llama, tmp_path / "changed-tokenizer")
    tokenizer = json.loads((changed_tokenizer / "tokenizer_config.json").read_text())
    (changed_tokenizer / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "bos_token": "<|im_start|>"}))
    first = write_lines({**LINES[0], "prompt": "recorD 0"}, *LINES[1:], name="first.jsonl")
    short = write_lines(LINES[0], name="short.jsonl")

    before = there(tmp_path)
    cases: list[tuple[list[Any], str]] = [
        (["--temperature", "0.5", path], "temperature was 1.0, is 0.5"),
        (["--max-tokens", "5", path], "max_tokens was 16, is 5"),
        (["--seed", "5", path], "seed was 0, is 5"),
        (["--override-generation-config", '{"max_new_tokens": 7}', path], "max_tokens was 16, is 7"),
        (["--logit-bias", "5=-1", path], 'logit_bias was not set, is {"5":-1.0}'),
        (["--regex", "a", path], "structured_outputs was not set, is {"),
        (["--logprobs-mode", "processed_logprobs", path], 'logprobs_mode was "raw_logprobs", is "processed_logprobs"'),
        (["--dtype", "bfloat16", path], 'dtype was "float32", is "bfloat16"'),
        (["--model", changed_model, path], "model's config.json"),
        (["--model", changed_tokenizer, path], "tokenizer's tokenizer_config.json"),
        (["--limit", "1", path], "the input changed: 1 records of it are selected; the run that is resumed had answered 40"),
        (["--shard", "0/2", path], "shard"),
        (["--errors", tmp_path / "errors", path], "errors file"),
        (["--compression", "gzip", path], "compression"),
        (["--error-format", "flat", path], 'error_format was "object", is "flat"'),
        ([first], "the input changed"),
        ([short], "the input changed"),
    ]
    for argv, said in cases:
        refused = call("generate", *tiny, *argv, out, "--resume")
        assert refused.exit_code == 2, (argv, refused.stderr)
        assert said in refused.stderr, argv
        assert there(tmp_path) == before, argv

    grown = write_lines(*LINES, {"prompt": "one more"}, name="grown.jsonl")
    assert call("generate", *tiny, grown, tmp_path / "whole").exit_code == 3
    # what cannot change a byte may be other than it was, and lines may have been added
    result = call("generate", *tiny, "--max-num-seqs", "3", "--resume", grown, out)
    assert result.exit_code == 3, result.stderr
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_changed_weight_is_noticed_with_verify(
    begin: Any, call: Any, tiny: list[str], tiny_llama: Path, path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin("--verify", path, out)
    changed = shutil.copytree(tiny_llama, tmp_path / "changed")
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    refused = call("generate", *tiny, "--verify", "--model", changed, "--resume", path, out)
    assert refused.exit_code == 2, refused.stderr
    assert "model's weights" in refused.stderr


def test_resume_force_mixes_both(begin: Any, call: Any, tiny: list[str], path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(path, out)
    kept = out.with_name("out.partial").read_bytes()
    result = call("generate", *tiny, "--temperature", "0", "--resume-force", path, out)
    assert result.exit_code == 3, result.stderr
    assert out.read_bytes().startswith(kept)
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [row["index"] for row in rows] == list(range(COUNT))


def test_stats_are_of_all_attempts(begin: Any, call: Any, tiny: list[str], path: Path, tmp_path: Path) -> None:
    out, stats, whole = tmp_path / "out", tmp_path / "stats", tmp_path / "whole-stats"
    argv = ["--stats", stats, "--resume", path, out]
    begin(*argv)
    begin(*argv, count=COUNT // 2)
    result = call("generate", *tiny, *argv)
    assert result.exit_code == 3, result.stderr
    assert call("generate", *tiny, "--stats", whole, path, tmp_path / "whole").exit_code == 3
    told, expected = json.loads(stats.read_text()), json.loads(whole.read_text())
    assert told["attempts"] == 3
    assert told["records"].pop("from_earlier_attempts") > 0
    assert expected["records"].pop("from_earlier_attempts") == 0
    for name in ("exit_code", "records", "errors", "finish_reasons", "cut_by_default_max_tokens", "output_sha256", "settings", "sampling"):
        assert told[name] == expected[name], name
    for name in ("prompt", "output"):
        assert told["tokens"][name] == expected["tokens"][name]
    assert told["output_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["timing"]["run_all_attempts_s"] > told["timing"]["run_s"]
    assert f"{COUNT - COUNT // 10} of {COUNT} records answered" in result.stderr
