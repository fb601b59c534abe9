"""`infer transcribe` on a tiny Whisper with windows of a second, beside transformers' long-form generation."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from infer.core.engine.lifetimes import Lifetimes
from infer.core.engine.stats import EngineStats
from infer.core.types.outputs import RequestMetrics
from infer.core.types.request import Request

from ..core.models.whispers import FIRST_TIME, TOKEN, Whisper, as_read, sound, wav, whisper_of

#: No output is held to be bad.
EASY: dict[str, Any] = {
    "temperature": [0.0],
    "logprob_threshold": False,
    "compression_ratio_threshold": False,
    "no_speech_threshold": False,
}
SECONDS = (0.6, 3.3, 2.7)


@pytest.fixture(scope="module")
def whisper(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    made = whisper_of(tmp_path_factory.mktemp("whisper"), seed=1)
    (made.folder / "sounds").mkdir()
    for number, seconds in enumerate(SECONDS):
        (made.folder / "sounds" / f"{number}.wav").write_bytes(wav(sound(seconds, number)))
    return made


def path_of(whisper: Whisper, number: int) -> str:
    return str(whisper.folder / "sounds" / f"{number}.wav")


@pytest.fixture
def options(whisper: Whisper) -> list[Any]:
    allowed = ["--allowed-local-media-path", whisper.folder / "sounds"]
    return ["-q", "--model", whisper.folder, "--dtype", "float32", "--kv-cache-memory-bytes", "4M", *allowed]


@pytest.fixture
def lines(whisper: Whisper) -> list[dict[str, Any]]:
    long, other = path_of(whisper, 1), path_of(whisper, 2)
    return [
        {"audio": long, "language": "english", **EASY},
        {"audio": other, "task": "translate", "prompt": "abcd", "condition_on_prev_tokens": True, **EASY, "x": [1]},
        {"audio": other, "num_beams": 3, "language": "de", **EASY},
        {"audio": path_of(whisper, 0), "seed": 3, "no_speech_threshold": 0.9},
        {"audio": path_of(whisper, 0), "timestamps": False, "language": "fr", "response_format": "text", **EASY},
        {"audio": str(whisper.folder / "sounds" / "none.wav")},
        {
            "custom_id": "a",
            "url": "/v1/audio/transcriptions",
            "body": {"file_url": long, "language": "en", "response_format": "srt", "model": "whisper-1", **EASY},
        },
        {"audio": long, "timestamp_granularities": ["word"]},
    ]


def run(call: Callable[..., Result], options: list[Any], source: Path, out: Path, *more: Any) -> Result:
    return call("transcribe", *options, *more, source, out)


def test_transcripts_are_those_of_transformers_in_any_company_and_after_a_stop(
    whisper: Whisper,
    call: Callable[..., Result],
    write_lines: Any,
    read_rows: Any,
    tmp_path: Path,
    options: list[Any],
    lines: list[dict[str, Any]],
) -> None:
    source, out = write_lines(*lines), tmp_path / "out.jsonl"
    result = run(call, options, source, out)
    assert result.exit_code == 3, result.output
    rows = read_rows(out)
    prompt = whisper.tokenizer.encode(" abcd").ids
    theirs = [
        whisper.transcribe(as_read(sound(SECONDS[1], 1)), language="en"),
        whisper.transcribe(
            as_read(sound(SECONDS[2], 2)),
            task="translate",
            condition_on_prev_tokens=True,
            prompt_ids=np_ids([TOKEN["startofprev"], *prompt]),
        ),
        whisper.transcribe(as_read(sound(SECONDS[2], 2)), language="de", num_beams=3),
    ]
    for row, found in zip(rows, theirs, strict=False):
        assert row["error"] is None
        assert [one["tokens"] for one in row["segments"]] == [one["tokens"].tolist() for one in found["segments"]]
        assert row["text"] == found["text"]
        for mine, one in zip(row["segments"], found["segments"], strict=True):
            assert (mine["start"], mine["end"]) == (
                pytest.approx(float(one["start"]), abs=0.006),
                pytest.approx(float(one["end"]), abs=0.006),
            )
    assert len({one["seek"] for one in rows[0]["segments"]}) > 2, "several windows"
    assert rows[1]["extra"] == {"x": [1]}
    assert rows[1]["language"] in ("en", "de", "fr")
    assert 1 / 3 < rows[1]["language_probability"] <= 1
    assert rows[4].keys() == {"index", "text", "usage", "error"}
    assert [row["error"] and row["error"]["code"] for row in rows[3:6]] == [None, None, "media_error"]
    body = rows[6]["response"]["body"]
    assert body["text"].startswith("1\n00:00:0")
    assert rows[7]["error"]["param"] == "timestamp_granularities"
    chat = {"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "a"}]}}
    mixed = tmp_path / "mixed.jsonl"
    assert call("batch", *options, write_lines(lines[6], chat, name="both.jsonl"), mixed).exit_code == 3
    heard, refused = read_rows(mixed)
    assert heard["response"]["body"] == body
    assert "/v1/chat/completions cannot be answered" in refused["error"]["message"]
    # one at a time, with no cache of prefixes; by two engines, which ask for what they have not heard
    whole = out.read_bytes()
    for number, more in enumerate((["--max-num-seqs", "1", "--no-enable-prefix-caching"], ["--data-parallel-size", "2"])):
        begun = tmp_path / f"{number}.jsonl"
        assert run(call, options, source, begun, *more, "--limit", "4").exit_code == 0
        assert begun.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])


def np_ids(ids: list[int]) -> Any:
    import torch

    return torch.tensor(ids)


def riff(code: int, bits: int, body: bytes, *, rate: int = 16000, channels: int = 1, size: int | None = None) -> bytes:
    head = struct.pack("<HHIIHH", code, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8, bits)
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(body) if size is None else size) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_hostile_sounds_are_one_error_each_and_neighbours_are_equal(
    whisper: Whisper, call: Callable[..., Result], write_lines: Any, read_rows: Any, tmp_path: Path, options: list[Any]
) -> None:
    samples = (sound(0.2) * 32767).astype("<i2").tobytes()
    good = riff(1, 16, samples)
    hostile = {
        "truncated": good[: len(good) // 2],
        "no samples": good[:36],
        "a header alone": good[:20],
        "wrong header": b"RIFX" + good[4:],
        "zero bytes": b"",
        "zero length": riff(1, 16, b""),
        "0 Hz": riff(1, 16, samples, rate=0),
        "4 GHz": riff(1, 16, samples, rate=2**32 - 1),
        "200 channels": riff(1, 16, samples, channels=200),
        "no channels": riff(1, 16, samples, channels=0),
        "NaN": riff(3, 32, np.full(800, np.nan, "<f4").tobytes()),
        "infinite": riff(3, 32, np.full(800, np.inf, "<f4").tobytes()),
        "13 bits": riff(1, 13, samples),
        "huge size": riff(1, 16, samples, size=2**31),
        "text": b"<html>no sound</html>",
        "long": riff(1, 8, bytes(16000 * 4), rate=8000),
    }
    fine = {
        "8 bits": riff(1, 8, np.frombuffer(samples, "<i2").view(np.uint8)[1::2].tobytes()),
        "24 bits": riff(1, 24, b"".join(b"\0" + samples[i : i + 2] for i in range(0, len(samples), 2))),
        "tiny": riff(1, 16, samples[:2]),
        "good": good,
    }
    folder = whisper.folder / "sounds"
    for name, data in {**hostile, **fine}.items():
        (folder / f"{name}.x").write_bytes(data)
    asked = {"language": "en", "response_format": "json", **EASY}
    names = [*hostile]
    for place, name in enumerate(fine):
        names.insert(5 * place, name)
    many = [{"audio": str(folder / f"{name}.x"), "id": name, **asked} for name in names]
    many += [{"audio": {"data": "!!", "format": "wav"}, **asked}, {"audio": 3, **asked}, {"audio": "/etc/passwd", **asked}]
    many += [{"audio": "data:audio/wav;base64," + base64.b64encode(good).decode(), **asked}]
    out = tmp_path / "out.jsonl"
    result = run(call, options, write_lines(*many), out, "--max-audio-seconds", "5")
    assert result.exit_code == 3, result.output
    rows = read_rows(out)
    assert len(rows) == len(many)
    failed = {row["id"]: row["error"]["code"] for row in rows if row.get("id") and row["error"]}
    assert failed.keys() == hostile.keys(), {name: row for name, row in failed.items() if name in fine}
    assert set(failed.values()) <= {"media_error", "media_refused", "unsupported"}
    assert failed["long"] == "media_refused"
    assert [row["error"]["code"] for row in rows[-4:-1]] == ["media_error", "invalid_type", "media_refused"]
    assert [row["error"]["param"] for row in rows[-4:-1]] == ["audio"] * 3
    answered = [row for row in rows if row["error"] is None]
    assert rows[-1]["text"] == next(row["text"] for row in answered if row.get("id") == "good"), "the same sound"
    good_lines = [many[row["index"]] for row in answered]
    assert run(call, options, write_lines(*good_lines), out, "--max-audio-seconds", "5", "--overwrite").exit_code == 0
    assert read_rows(out) == [{**row, "index": i} for i, row in enumerate(answered)], "with no bad ones beside them"


def test_the_command_names_what_cannot_be(
    whisper: Whisper, call: Callable[..., Result], tiny: list[str], write_lines: Any, tmp_path: Path
) -> None:
    source = write_lines({"audio": "a.wav"})
    result = call("transcribe", *tiny, source, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "infer transcribe is for Whisper models" in result.output
    result = call("generate", "-q", "--model", whisper.folder, write_lines({"prompt": "hello"}), tmp_path / "text.jsonl")
    assert result.exit_code in (2, 3)
    assert "infer transcribe" in result.output + json.dumps(
        (tmp_path / "text.jsonl").read_text() if (tmp_path / "text.jsonl").exists() else ""
    )
    result = call("transcribe", "-q", "--model", whisper.folder, "--language", "klingon", source, tmp_path / "other.jsonl")
    assert result.exit_code == 2
    assert "klingon" in result.output


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    whisper: Whisper, call: Callable[..., Result], launch: Any, write_lines: Any, read_rows: Any, tmp_path: Path, options: list[Any]
) -> None:
    """Sounds of several windows, drawn for, each tried at several temperatures."""
    hot = {"temperature": [0.0, 0.7], "logprob_threshold": 0, "no_speech_threshold": False}
    source = write_lines(*({"audio": path_of(whisper, i % 3), "language": "en", **hot} for i in range(5)), {"audio": 1})
    assert run(call, options, source, tmp_path / "whole").exit_code == 3
    child = launch("transcribe", *options, source, tmp_path / "out", env={"INFER_FAULT": "committed"})
    child.communicate(timeout=300)
    assert child.returncode not in (0, 3)
    assert (tmp_path / "out.partial").exists()
    assert run(call, options, source, tmp_path / "out", "--resume").exit_code == 3
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    found = read_rows(tmp_path / "out")
    assert {one["temperature"] for row in found[:5] for one in row["segments"]} == {0.7}
    assert found[0]["text"] != found[3]["text"], "the place of a record counts where it has no seed"


def test_a_sound_that_was_begun_is_done_before_others_begin(
    whisper: Whisper, call: Callable[..., Result], write_lines: Any, tmp_path: Path, options: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a long job would have nothing done, and nothing to resume from, until the last has had its first window."""
    answered: list[str] = []

    def lifetimes_ended(self: Lifetimes, request: Request, stats: EngineStats) -> RequestMetrics:
        answered.append(request.request_id.split(".")[0])
        return ended(self, request, stats)

    ended = Lifetimes.ended
    monkeypatch.setattr(Lifetimes, "ended", lifetimes_ended)
    source = write_lines(*({"audio": path_of(whisper, 1), "language": "en", **EASY} for _ in range(4)))
    assert run(call, options, source, tmp_path / "out", "--max-num-seqs", 1).exit_code == 0
    assert len(answered) > 8, "sounds of several windows"
    assert [name for name, _ in groupby(answered)] == ["0", "1", "2", "3"]


def test_generate_and_beam_answer_one_window(
    whisper: Whisper, call: Callable[..., Result], write_lines: Any, read_rows: Any, tmp_path: Path, options: list[Any]
) -> None:
    one, common = path_of(whisper, 0), {"max_tokens": 8, "temperature": 0, "return_token_ids": True}
    url = "data:audio/wav;base64," + base64.b64encode(Path(one).read_bytes()).decode()
    begun = "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"
    lines: list[dict[str, Any]] = [
        {"audio": one, "target_language": "german", **common},
        {"audio": url, "decoder_prompt": begun, **common, "x": 1},
        {"audio": {"data": url.partition(",")[2], "format": "wav"}, "prompt": begun, **common},
        {"multi_modal_data": {"audio": one}, "prompt_token_ids": [TOKEN[name] for name in ("startoftranscript", "de")], **common},
        {"audio": one, **common, "n": 2, "best_of": 3, "temperature": 1, "seed": 3, "logprobs": 1},
        {"audio": path_of(whisper, 1), **common},
        {"prompt": begun, **common},
        {"x": 1},
    ]
    out = tmp_path / "out.jsonl"
    assert call("generate", *options, write_lines(*lines), out).exit_code == 3
    rows = read_rows(out)
    assert rows[0]["choices"] == rows[1]["choices"] == rows[2]["choices"]
    assert rows[0]["usage"]["prompt_tokens"] == len(rows[0]["prompt_token_ids"]) == 4
    assert rows[1]["extra"] == {"x": 1}
    assert rows[3]["choices"][0]["token_ids"][0] >= FIRST_TIME, "times are not turned off"
    assert len(rows[4]["choices"]) == 2
    assert [row["error"] and (row["error"]["code"], row["error"]["param"]) for row in rows[3:]] == [
        None,
        None,
        ("prompt_too_long", "audio"),
        ("missing_field", "audio"),
        ("missing_field", "audio"),
    ]
    assert "infer transcribe" in rows[5]["error"]["message"]
    given = ["--target-language", "de", "--overwrite"]
    searched = write_lines({"audio": one, "beam_width": 2, "max_tokens": 8, "return_token_ids": True})
    assert call("beam", *options, *given, searched, out).exit_code == 0
    (row,) = read_rows(out)
    assert row["prompt_token_ids"] == rows[0]["prompt_token_ids"]
    assert row["choices"][0]["score"] >= row["choices"][1]["score"]
