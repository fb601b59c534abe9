"""`infer generate` on a tiny random model: files, streams, refusals, exit codes."""

from __future__ import annotations

import itertools
import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

PROMPTS = [{"prompt": "The quick brown fox"[: i % 19 + 1], "id": f"r{i}", "max_tokens": i % 7 + 1} for i in range(40)]


def test_file_to_file(program: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    out, stats = tmp_path / "out.jsonl", tmp_path / "stats.json"
    done = program("generate", "-m", tiny_llama, "--stats", stats, write_lines(*PROMPTS), out)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    rows = read_rows(out)
    assert [row["index"] for row in rows] == list(range(40))
    assert [row["id"] for row in rows] == [p["id"] for p in PROMPTS]
    assert all(row["usage"]["completion_tokens"] <= p["max_tokens"] for row, p in zip(rows, PROMPTS, strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.job.json", "stats.json"]
    text = done.stderr.decode()
    for said in ("40 of 40 records answered", "finish reasons: ", "tokens: ", "first token ", "peak memory "):
        assert said in text
    told = json.loads(stats.read_text())
    assert told["records"] == {"total": 40, "answered": 40, "failed": 0, "blank_lines": 0, "from_earlier_attempts": 0}
    assert told["tokens"]["output"] == sum(row["usage"]["completion_tokens"] for row in rows)
    assert told["tokens"]["prompt"] == sum(row["usage"]["prompt_tokens"] for row in rows)
    assert 0 < told["timing"]["startup_s"] < told["timing"]["first_token_s"] < told["timing"]["total_s"]
    assert told["timing"]["run_s"] > 0
    assert told["settings"]["model"] == str(tiny_llama)
    assert told["settings"]["max_num_seqs"] == 256
    assert told["sampling"]["temperature"] == 1.0


def test_stdin_to_stdout(program: Any, tiny_llama: Path, read_rows: Any) -> None:
    done = program("generate", "-m", tiny_llama, input=b'{"prompt":"a"}\n\n{"prompt":"b"}')
    assert done.returncode == 0, done.stderr.decode()
    assert [row["index"] for row in read_rows(done.stdout)] == [0, 1]
    assert b"1 blank line skipped" in done.stderr


def test_some_records_failed(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    lines = [b"nope", {"prompt": "a"}, {"prompt": "b" * 600}, {"prompt": [999]}, {"messages": []}, {"prompt": "a", "temperature": -1}]
    result = call("generate", "-m", tiny_llama, write_lines(*lines), tmp_path / "out")
    assert result.exit_code == 3
    codes = [row["error"] and row["error"]["code"] for row in read_rows(tmp_path / "out")]
    assert codes == ["invalid_json", None, "prompt_too_long", "invalid_value", "unsupported", "invalid_value"]
    assert "1 of 6 records answered" in result.stderr
    assert "invalid_value: 2 (first on line 4: " in result.stderr


def test_a_record_that_can_never_fit_the_kv_cache(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    lines = [{"prompt": "a", "max_tokens": 400}, {"prompt": "a"}]
    result = call("generate", "-m", tiny_llama, "--num-gpu-blocks-override", "10", write_lines(*lines), tmp_path / "out")
    assert result.exit_code == 3
    assert [row["error"] and row["error"]["code"] for row in read_rows(tmp_path / "out")] == ["kv_capacity", None]


SCHEDULES = [
    ["--max-num-seqs", "1"],
    ["--max-num-seqs", "7"],
    ["--max-num-batched-tokens", "64"],
    ["--no-enable-prefix-caching"],
    ["--num-gpu-blocks-override", "40"],
]


@pytest.mark.parametrize(("temperature", "dtype"), [("0", "bfloat16"), ("0.8", "float32")])
def test_the_schedule_does_not_change_a_byte(
    call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, dtype: str, temperature: str
) -> None:
    shared = "A long beginning that many prompts share, so that the prefix cache has something to find. "
    lines: list[Any] = [
        {"prompt": shared * (i % 4) + "x" * i, "max_tokens": 5 + i * 7 % 23, "n": 1 + (i % 5 == 0 and temperature != "0")}
        for i in range(48)
    ]
    lines.insert(7, b"bad")
    path = write_lines(*lines)

    def run(*more: str) -> bytes:
        out = tmp_path / "out"
        result = call("generate", "-m", tiny_llama, "--dtype", dtype, "--temperature", temperature, "--overwrite", *more, path, out)
        assert result.exit_code == 3, result.stderr
        return out.read_bytes()

    whole = run()
    for settings in SCHEDULES:
        assert run(*settings) == whole, settings


def test_options_and_fields_mean_the_same(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    asked = {"max_tokens": 9, "temperature": 0, "stop": ["e"], "logprobs": 2, "return_token_ids": True}
    a = write_lines({"prompt": "abc", **asked}, name="a.jsonl")
    b = write_lines({"prompt": "abc"}, name="b.jsonl")
    flags = ["--max-tokens", "9", "--temperature", "0", "--stop", "e", "--logprobs", "2", "--return-token-ids"]
    assert call("generate", "-m", tiny_llama, a, tmp_path / "a.out").exit_code == 0
    assert call("generate", "-m", tiny_llama, *flags, b, tmp_path / "b.out").exit_code == 0
    assert (tmp_path / "a.out").read_bytes() == (tmp_path / "b.out").read_bytes()


def test_prompt_field_and_template(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("Q: {{ question }}\nA:")
    path = write_lines({"question": "why", "n": 1}, {"other": 1})
    plain = write_lines({"prompt": "Q: why\nA:"}, name="plain.jsonl")
    for name, argv in {"t": ["--template", template, path], "f": ["--prompt-field", "question", path], "p": [plain]}.items():
        call("generate", "-m", tiny_llama, "--temperature", "0", *argv, tmp_path / name)
    (rendered, missing), (field, absent), (direct,) = (read_rows(tmp_path / name) for name in "tfp")
    assert rendered["choices"] == direct["choices"]
    assert rendered["extra"] == {"question": "why"}
    assert missing["error"]["code"] == "template_error"
    assert field["usage"]["prompt_tokens"] == 3
    assert absent["error"]["code"] == "missing_field"


def test_refusals_come_before_the_model_is_touched(call: Any, tmp_path: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "a"})
    (tmp_path / "there").write_text("precious")
    model = ["-m", tmp_path / "no-such-model"]
    cases: list[tuple[list[Any], str]] = [
        ([*model, path, tmp_path / "there"], "--overwrite"),
        ([*model, path, path, "--overwrite"], "same file"),
        ([*model, tmp_path / "none", tmp_path / "out"], "does not exist"),
        ([*model, path, tmp_path / "no" / "out"], "cannot be created"),
        ([*model, path, tmp_path], "is a folder"),
        ([*model, "--stats", tmp_path / "no" / "s", path, tmp_path / "out"], "--stats"),
        ([*model, "--stats", path, path, tmp_path / "out"], "--stats"),
        ([*model, "--template", tmp_path / "none", path, tmp_path / "out"], "--template"),
        ([*model, "--template", path, "--prompt-field", "q", path, tmp_path / "out"], "--prompt-field"),
        ([*model, "--temperature", "-1", path, tmp_path / "out"], "temperature"),
        ([path, tmp_path / "out"], "--model"),
    ]
    for argv, said in cases:
        result = call("generate", *argv)
        assert result.exit_code == 2, (argv, result.stderr)
        assert said in result.stderr
    result = call("generate", *model, path, tmp_path / "out")
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "there"]
    assert (tmp_path / "there").read_text() == "precious"


def test_an_empty_input_has_an_empty_output(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    result = call("generate", "-m", tiny_llama, write_lines(), tmp_path / "out", "--stats", tmp_path / "stats")
    assert result.exit_code == 0
    assert (tmp_path / "out").read_bytes() == b""
    assert json.loads((tmp_path / "stats").read_text())["records"]["total"] == 0


def test_the_default_max_tokens_is_told_when_it_cuts(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    path = write_lines({"prompt": "a", "ignore_eos": True})
    result = call("generate", "-m", tiny_llama, path, tmp_path / "a")
    assert "1 output ended at the default of 16 tokens" in result.stderr
    result = call("generate", "-m", tiny_llama, "--max-tokens", "16", path, tmp_path / "b")
    assert "default" not in result.stderr


def test_misspelled_fields(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    path = write_lines({"prompt": "a", "max_token": 3}, {"prompt": "a", "max_token": 3})
    result = call("generate", "-m", tiny_llama, path, tmp_path / "a")
    assert result.exit_code == 0
    assert result.stderr.count("'max_token'") == 1
    assert read_rows(tmp_path / "a")[0]["extra"] == {"max_token": 3}
    result = call("generate", "-m", tiny_llama, "--strict", path, tmp_path / "b")
    assert result.exit_code == 3
    assert [row["error"]["code"] for row in read_rows(tmp_path / "b")] == ["unknown_field"] * 2


def test_quiet_says_no_more_than_that_records_failed(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    result = call("generate", "-m", tiny_llama, "-q", write_lines({"prompt": "a"}, b"x"), tmp_path / "out")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "1 of 2 records failed (invalid_json 1); exit status 3\n"
    result = call("generate", "-m", tiny_llama, "-q", write_lines({"prompt": "a"}), tmp_path / "other")
    assert (result.exit_code, result.stderr, result.stdout) == (0, "", "")


def test_a_reader_that_leaves_ends_it_quietly(infer_program: list[str], tiny_llama: Path) -> None:
    """many | infer generate | head -1"""
    script = 'many() { while :; do echo "{\\"prompt\\":\\"a\\"}"; done; }; many 2>&- | "$@" | head -1; echo "${PIPESTATUS[1]}" >&2'
    command = ["bash", "-c", script, "bash", *infer_program, "generate", "-q", "-m", str(tiny_llama), "-", "-"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert json.loads(done.stdout)["index"] == 0
    assert done.stderr == b"141\n"


def test_answers_come_while_the_input_is_still_open(infer_program: list[str], tiny_llama: Path) -> None:
    command = [*infer_program, "generate", "-q", "-m", str(tiny_llama), "--max-tokens", "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        for i in range(3):
            child.stdin.write(b'{"prompt":"a"}\n')
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["index"] == i
        child.stdin.close()
        assert child.stdout.read() == b""
        assert child.wait(60) == 0


def test_a_terminal_sees_progress_and_a_clean_end(infer_program: list[str], tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    path = write_lines(*({"prompt": f"{i}", "id": "\x9b31m\x1b]0;x\x07", "max_tokens": 12, "ignore_eos": True} for i in range(2000)))
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    env.pop("CI", None)
    env.pop("NO_COLOR", None)
    shown = bytearray()

    def watch() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                return
            if not data:
                return
            shown.extend(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [*infer_program, "generate", "-m", str(tiny_llama), str(path), str(tmp_path / "out")]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=slave, env=env, timeout=300, check=False).returncode
    os.close(slave)
    watcher.join()
    os.close(master)
    text = shown.decode()
    assert code == 0, text
    assert "tok/s" in text
    assert "ETA" in text
    assert "2,000 of 2,000 records answered" in text
    assert text.rindex("\x1b[?25h") > text.rindex("ETA")  # the cursor is back after the last refresh
    assert "\x9b" not in text
    assert "\x1b]0;x" not in text


@pytest.mark.slow
def test_26_000_records_in_flat_memory(infer_program: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    # float32: for bfloat16 oneDNN keeps a kernel for each new number of rows, which takes some 10,000 records to level off.
    model = ["-m", tiny_llama, "--load-format", "dummy", "--dtype", "float32", "--kv-cache-memory-bytes", "16MiB"]
    peaks = []
    for count in (10_000, 26_000):  # the first is more than the window of records in flight holds
        path, stats = tmp_path / f"in{count}", tmp_path / f"stats{count}"
        path.write_text("".join(f'{{"prompt":"p{i}","id":{i}}}\n' for i in range(count)))
        argv = ["generate", "-q", *model, "--max-tokens", "2", "--stats", stats, path, tmp_path / f"out{count}"]
        command = [*infer_program, *map(str, argv)]
        subprocess.run(command, check=True, timeout=300)
        peaks.append(json.loads(stats.read_text())["memory"]["peak_bytes"])
        with (tmp_path / f"out{count}").open("rb") as out:
            assert all(json.loads(line)["id"] == i for i, line in zip(itertools.count(), out, strict=False))
    assert peaks[1] < peaks[0] + (32 << 20), peaks


def test_csv_in(call: Any, tiny_llama: Path, tmp_path: Path, read_rows: Any, write_lines: Any) -> None:
    """The same answers as of the same records in JSON lines, and a run that goes on."""
    (tmp_path / "in.csv").write_text("prompt,id,note\n" + "".join(f"text {i},{i},n{i}\n" for i in range(6)))
    lines = write_lines(*({"prompt": f"text {i}", "id": str(i), "note": f"n{i}"} for i in range(6)))
    assert call("generate", "-m", tiny_llama, "--max-tokens", "3", tmp_path / "in.csv", tmp_path / "a").exit_code == 0
    assert call("generate", "-m", tiny_llama, "--max-tokens", "3", lines, tmp_path / "b").exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with (tmp_path / "in.csv").open("a") as file:
        file.write("one more,6,n6\n")
    assert call("generate", "-m", tiny_llama, "--max-tokens", "3", "--resume", tmp_path / "in.csv", tmp_path / "a").exit_code == 0
    assert len(read_rows(tmp_path / "a")) == 7
    (tmp_path / "in.jsonl").write_bytes((tmp_path / "in.csv").read_bytes())
    result = call("generate", "-m", "no such model", tmp_path / "in.jsonl", tmp_path / "c")
    assert result.exit_code == 2
    assert "--input-format csv" in result.stderr
