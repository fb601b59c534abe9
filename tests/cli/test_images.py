"""Lines with images through the commands, on tiny models that read them."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ..core.media.families import FAMILIES, Maker, Tiny, picture, tiny_family

__all__ = ["tiny_family"]  # a fixture

GREEDY = {"max_tokens": 5, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_url(image: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def job(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def tiny(tiny_family: Maker) -> Tiny:
    return tiny_family("idefics3")


@pytest.fixture
def options(tiny: Tiny, tmp_path: Path) -> list[str]:
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(picture(i, 50 + 20 * i, 40)))
    allowed = ["--allowed-local-media-path", str(tmp_path / "images")]
    return ["-q", "--model", str(tiny.folder), "--device", "cpu", "--dtype", "float32", "--max-model-len", "512", *allowed]


def asked(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def at_url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_parts_of_messages_are_what_transformers_makes_of_them(call: Any, tiny: Tiny, options: list[str], tmp_path: Path) -> None:
    images = [picture(i, 50 + 20 * i, 40) for i in range(3)]
    path = tmp_path / "images" / "2.png"
    lines = [
        {"messages": asked(text("What is it?"), at_url(data_url(images[0])))},
        {"messages": asked(at_url(f"file://{path}"), text(" or "), {"type": "image", "image": "1.png"})},
        {"messages": asked("Only words.")},
        {"messages": asked(at_url("file:///etc/passwd"))},
        {"messages": asked(text("What is it?"), at_url(data_url(images[1])))},
    ]
    source = job(tmp_path / "in", [{**line, **GREEDY} for line in lines])
    assert call("chat", *options, source, tmp_path / "out").exit_code == 3
    found = rows(tmp_path / "out")
    at = tiny.placeholder
    wanted = [(f"What is it?{at}", [images[0]]), (f"{at} or {at}", images[2:0:-1]), ("Only words.", []), (f"What is it?{at}", [images[1]])]
    for row, (said, given) in zip([*found[:3], found[4]], wanted, strict=True):
        prompt = f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
        ids, written, _ = tiny.writes(prompt, given, 5)
        assert row["error"] is None
        assert row["usage"]["prompt_tokens"] == len(ids)
        assert row["choices"][0]["token_ids"] == written
    assert found[3]["error"]["code"] == "media_refused"


def test_native_lines_have_images_beside_their_prompt(call: Any, tiny: Tiny, options: list[str], tmp_path: Path) -> None:
    at = tiny.placeholder
    lines = [
        {"prompt": f"{at} is", "images": ["0.png"]},
        {"prompt": f"{at} and {at}", "images": ["0.png", "1.png"]},
        {"prompt": "nothing", "images": []},
        {"prompt": f"{at} is", "images": ["0.png", "1.png"]},
        {"prompt": ["a", "b"], "image": "0.png"},
        {"prompt": f"{at} is", "images": ["0.png"], "mm_processor_kwargs": {"do_image_splitting": False}},
        {"prompt": f"{at} is", "audio": "0.wav"},
    ]
    source = job(tmp_path / "in", [{**line, **GREEDY} for line in lines])
    assert call("generate", *options, source, tmp_path / "out").exit_code == 3
    found = rows(tmp_path / "out")
    assert [row["error"] and row["error"]["code"] for row in found] == [
        None,
        None,
        None,
        "invalid_value",
        "unsupported",
        None,
        "unsupported",
    ]
    _, written, _ = tiny.writes(f"{at} and {at}", [picture(0, 50, 40), picture(1, 70, 40)], 5)
    assert found[1]["choices"][0]["token_ids"] == written
    assert "1 place for an image (<image>), and 2 are given" in found[3]["error"]["message"]
    assert found[5]["usage"]["prompt_tokens"] < found[0]["usage"]["prompt_tokens"]


#: Spans that see themselves both ways, and positions of three parts.
KILLED = ("gemma3", "qwen3_vl")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "gemma3" else pytest.mark.slow if kind in KILLED else pytest.mark.grid) for kind in FAMILIES],
)
def test_a_job_that_is_killed_and_goes_on(
    call: Any, launch: Any, tiny_family: Maker, kind: str, options: list[str], tmp_path: Path
) -> None:
    """All three attempts would be processes, but for the time that takes: what kills one is not known to the others."""
    tiny = tiny_family(kind)
    options = [str(tiny.folder) if previous == "--model" else one for previous, one in zip(["", *options], options, strict=False)]
    lines: list[dict[str, Any]] = [{"messages": asked(f"{i}: ", at_url(f"{i % 3}.png")), **GREEDY, "temperature": 1} for i in range(12)]
    lines[4] = {"messages": asked("text alone"), **GREEDY}
    lines[7] = {"messages": asked(at_url("none.png"))}
    if FAMILIES[kind].video:
        lines[9] = {"messages": asked(text("seen: ")), "video": [["0.png", "0.png", "0.png"]], **GREEDY}
    source = job(tmp_path / "in", lines)
    assert call("chat", *options, source, tmp_path / "whole").exit_code == 3
    child = launch("chat", *options, source, tmp_path / "out", env={"INFER_FAULT": "committed"})
    child.communicate(timeout=300)
    assert child.returncode not in (0, 3)
    assert (tmp_path / "out.partial").exists()
    assert call("chat", *options, "--resume", source, tmp_path / "out").exit_code == 3
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert [row["error"] and row["error"]["code"] for row in rows(tmp_path / "out")] == [None] * 7 + ["media_error"] + [None] * 4
    codes = Counter(row["error"] and row["error"]["code"] for row in rows(tmp_path / "out"))
    assert codes == {None: 11, "media_error": 1}


def test_the_tower_runs_once_for_each_image(call: Any, options: list[str], tmp_path: Path) -> None:
    lines = [{"messages": asked(f"{i}: ", at_url(f"{i % 3}.png")), "max_tokens": 1} for i in range(40)]
    stats = tmp_path / "stats"
    assert call("chat", *options, "--stats", stats, job(tmp_path / "in", lines), tmp_path / "out").exit_code == 0
    assert json.loads(stats.read_text())["engine"]["media_encoded"] == 3


@pytest.mark.usefixtures("forked_ranks")
def test_engines_and_ranks_answer_as_one(call: Any, tiny_family: Maker, options: list[str], tmp_path: Path) -> None:
    tiny = tiny_family("qwen3_vl")  # its positions have three parts, and its images embeddings for later layers too
    options = [*options, "--model", str(tiny.folder)]
    lines: list[dict[str, Any]] = [{"messages": asked(f"{i}: ", at_url(f"{i % 3}.png")), **GREEDY, "temperature": 1} for i in range(9)]
    lines[2] = {"messages": asked("two ", at_url(data_url(picture(7, 30, 60))), at_url("1.png")), **GREEDY, "logprobs": True}
    lines[4] = {"messages": asked("text alone"), **GREEDY}
    lines[7] = {"messages": asked(at_url("none.png"))}
    source, stats = job(tmp_path / "in", lines), tmp_path / "stats"

    def answered(*flags: str) -> bytes:
        assert call("chat", *options, *flags, "--stats", stats, "--overwrite", source, tmp_path / "out").exit_code == 3
        return (tmp_path / "out").read_bytes()

    alone = answered()
    # Three layers, of which the first two take something of the images: each stage has one of them.
    stages = answered("--pipeline-parallel-size", "2", "--data-parallel-size", "2", "--max-num-batched-tokens", "32", "--max-num-seqs", "4")
    assert stages == alone
    assert 4 <= json.loads(stats.read_text())["engine"]["media_encoded"] <= 8  # at most once in each of the two
    ranks = answered("--tensor-parallel-size", "2")
    found, wanted = ([json.loads(line) for line in lines.splitlines()] for lines in (ranks, alone))
    assert [row.get("usage") for row in found] == [row.get("usage") for row in wanted]
    assert found[2]["choices"][0]["token_ids"] == wanted[2]["choices"][0]["token_ids"]
    assert answered("--tensor-parallel-size", "2", "--data-parallel-size", "2") == ranks
