"""Hostile media through the commands: one error each, neighbours unchanged, nothing opened or asked that was not allowed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..core.media.families import Maker, Tiny, picture, tiny_family
from ..core.media.test_images import HOSTILE, data_url
from ..core.media.test_places import Server, serving, to

__all__ = ["tiny_family"]  # a fixture

GREEDY = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def tiny(tiny_family: Maker) -> Tiny:
    return tiny_family("idefics3")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed, 50, 40).save(file, "PNG")
    return file.getvalue()


def line(url: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": content}], **GREEDY, **more}


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def options(tiny: Tiny, root: Path) -> list[str]:
    model = ["-q", "--model", str(tiny.folder), "--device", "cpu", "--dtype", "float32", "--max-model-len", "512"]
    return [*model, "--allowed-local-media-path", str(root), "--allowed-media-domains", "127.0.0.1", "--media-timeout", "20"]


def test_the_hostile_corpus(call: Any, tiny: Tiny, server: Server, tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (root / "good.png").write_bytes(png(1))
    (tmp_path / "secret.png").write_bytes(png(2))
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    base = f"http://127.0.0.1:{server.port}"
    bad: list[tuple[str, str]] = []
    for i, (data, code, _) in enumerate(HOSTILE.values()):
        (root / f"{i}.png").write_bytes(data)
        bad.append((f"{i}.png" if i % 2 else data_url(data), code))
    bad += [(url, "media_refused") for url in ("file:///etc/passwd", "/proc/self/environ", "../secret.png", "out.png", "ftp://h/a.png")]
    bad += [(f"{base}/{to(url)}", "media_refused") for url in (f"http://localhost:{server.port}/png", "file:///etc/passwd")]
    bad += [(f"http://localhost:{server.port}/png", "media_refused"), ("http://169.254.169.254/latest", "media_refused")]
    bad += [(f"{base}/{path}", "media_error") for path in ("html", "short", "status/500", "loop")]
    bad += [(f"{base}/said/99999999999", "media_refused"), ("nothing.png", "media_error")]
    good = line("good.png")
    lines: list[Any] = [good]
    for url, _ in bad:
        lines += [line(url), good]
    source = written(tmp_path / "in.jsonl", lines)
    assert call("chat", *options(tiny, root), "--keep-going", source, tmp_path / "out.jsonl").exit_code == 3
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(lines)))
    codes = [None if row["error"] is None else row["error"]["code"] for row in rows]
    assert codes == [None, *(code for _, wanted in bad for code in (wanted, None))]
    assert {json.dumps(row["choices"]) for row in rows[::2]} == {json.dumps(rows[0]["choices"])}
    assert all(row["error"]["param"] == "messages[0].content[1].image_url.url" for row in rows[1::2])
    asked = {path.partition("/")[2].partition("/")[0] for path in server.asked}
    assert asked == {"to", "html", "short", "status", "loop", "said"}  # no redirect led to /png

    checked = call("check", *options(tiny, root), "--task", "chat", "--json", source)
    found = json.loads(checked.stdout)
    assert (checked.exit_code, found["records"]["failed"]) == (3, len(bad))
    counts = {code: sum(code == one for _, one in bad) for code in {code for _, code in bad}}
    assert {code: told["count"] for code, told in found["errors"].items()} == counts


def test_fields_beside_messages_are_content_before_their_text(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    parts = [{"type": "image", "image": f"{i}.png"} for i in range(2)]
    before, after = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "It"}
    asked = {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}
    lines = [
        {"messages": [before, asked, after], **GREEDY},
        {"messages": [before, {"role": "user", "content": "What?"}, after], "images": ["0.png", {"url": "1.png"}], **GREEDY},
        {"messages": [before], "image": "nothing.png", **GREEDY},
        {"messages": [before], "audio": "0.wav", **GREEDY},
        {"messages": [before], "images": ["0.png"] * 3, **GREEDY},
    ]
    source = written(tmp_path / "in.jsonl", lines)
    limit = ["--limit-mm-per-prompt", '{"image": 2}', "--return-token-ids"]
    assert call("chat", *options(tiny, tmp_path), *limit, source, tmp_path / "out.jsonl").exit_code == 3
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[0]["choices"] == rows[1]["choices"]
    assert rows[0]["usage"] == rows[1]["usage"]
    errors = [(row["error"]["code"], row["error"]["param"]) for row in rows[2:]]
    assert errors == [("media_error", "image"), ("unsupported", "audio"), ("media_refused", "images[2]")]
    assert "extra" not in rows[1]


def test_limits_and_processor_options_are_of_the_job_and_places_are_not(call: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    source = written(tmp_path / "in.jsonl", [line("a.png"), line("http://127.0.0.1:1/a.png")])
    base, out = options(tiny, tmp_path), tmp_path / "out.jsonl"
    closed = base[: base.index("--allowed-local-media-path")]
    assert call("chat", *base, source, out).exit_code == 3
    before = out.read_bytes()
    (tmp_path / "a.png").unlink()  # what is answered is not looked at again
    assert call("chat", *base, "--resume", source, out).exit_code == 3
    assert call("chat", *closed, "--resume", source, out).exit_code == 3
    assert out.read_bytes() == before
    for more in (
        ["--max-image-pixels", "100"],
        ["--mm-processor-kwargs", '{"do_resize": false}'],
        ["--limit-mm-per-prompt", '{"image": 1}'],
    ):
        refused = call("chat", *base, *more, "--resume", source, out)
        assert (refused.exit_code, more[0][2:].replace("-", "_") in refused.stderr) == (2, True), refused.stderr


def test_a_model_of_text_alone_says_so(call: Any, tiny_llama: Path, tmp_path: Path) -> None:
    lines = [{"prompt": "a", "images": ["a.png"], **GREEDY}, {"prompt": "a", "multi_modal_data": {"image": "a.png"}, **GREEDY}]
    source = written(tmp_path / "in.jsonl", lines)
    assert call("generate", "-q", "--model", str(tiny_llama), "--keep-going", source, tmp_path / "out.jsonl").exit_code == 3
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error"]["code"] for row in rows] == ["unsupported"] * 2
