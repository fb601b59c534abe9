"""`infer report`: what is on the page, and what must not be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from infer.core.errors import ConfigError
from infer.core.review import summary

Call = Callable[..., Result]


def row(index: int, tokens: int, reason: str = "stop") -> dict[str, Any]:
    usage = {"prompt_tokens": 2 * tokens, "completion_tokens": tokens}
    return {"index": index, "choices": [{"index": 0, "text": "a secret answer", "finish_reason": reason}], "usage": usage, "error": None}


def failed(index: int, message: str) -> dict[str, Any]:
    return {"index": index, "error": {"code": "invalid_value", "message": message, "param": None, "retryable": False}}


def stats(**more: Any) -> dict[str, Any]:
    return {
        "command": "generate",
        "exit_code": 3,
        "records": {"total": 4, "failed": 2},
        "tokens": {"prompt": 6, "output": 3, "output_per_s": 1.5},
        "timing": {"run_all_attempts_s": 2.0},
        "settings": {"model": "tiny", "hf_token": "hf_abc", "nested": {"api_key": "k_abc", "max_num_seqs": 7}},
        "versions": {"infer": "1"},
        "output": "/data/shard-0.jsonl",
        **more,
    }


class Page(HTMLParser):
    """Elements that are open at the end, and everything that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")
        if tag in ("script", "link", "iframe", "object", "img"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag


@pytest.fixture
def made(call: Call, write_lines: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Result, str]]:
    """made(rows, *options): the result of a report of them, and its page."""

    def run(rows: list[Any], *argv: Any) -> tuple[Result, str]:
        page = tmp_path / "page.html"
        result = call("report", write_lines(*rows, name="out.jsonl"), *argv, "-o", page, "--overwrite")
        return result, page.read_text() if page.exists() else ""

    return run


class TestPage:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("matplotlib")

    def test_what_is_on_it(self, made: Callable[..., tuple[Result, str]], write_lines: Callable[..., Path]) -> None:
        rows = [row(0, 1), row(1, 2, "length"), failed(2, "<script>alert(1)</script> & more"), failed(3, "second")]
        told = [write_lines(stats(), name="s0.json"), write_lines(stats(output="/data/shard-1.jsonl"), name="s1.json")]
        lines = [
            {
                "t": i,
                "time": 100.0 + i,
                "prompt_tokens_per_s": 5.0,
                "output_tokens_per_s": 9.0 * i,
                "kv_usage": 0.5,
                "running": 3,
                "waiting": 1,
            }
            for i in range(4)
        ]
        trace = write_lines(*lines, b'{"t":9,"ti', name="trace.jsonl")
        result, page = made(rows, *told, "--trace", trace)
        assert result.exit_code == 0, result.stderr
        found = Page(page)
        assert (found.open, found.loads) == ([], [])
        assert set(re.findall(r"https?://[^\"<> ]*", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert page.count("<svg") == 6
        for text in (
            "Prompt lengths",
            "Output lengths",
            "Finish reasons",
            "Throughput",
            "KV cache",
            "Queues",
            "shard-0.jsonl",
            "shard-1.jsonl",
        ):
            assert text in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
        assert "max_num_seqs" in page
        for secret in ("a secret answer", "hf_abc", "k_abc", "/data/"):
            assert secret not in page
        assert len(page) < 500_000

    def test_many_shards(self, made: Callable[..., tuple[Result, str]], write_lines: Callable[..., Path]) -> None:
        folders = {"model": "/home/someone/models/llama-3", "lora": ["legal=/home/someone/legal"], "note": "a/b", "url": "https://x/y"}
        told = [
            write_lines(stats(output=f"/data/part-{i}.jsonl", exit_code=1 if i == 7 else 3, settings=folders), name=f"s{i}.json")
            for i in (10, 9, *range(9))
        ]
        line = {"t": 0, "time": 1.0, "output_tokens_per_s": 9.0, "running": 3, "waiting": 1}
        traces = [write_lines(line, {**line, "time": 2.0 + i}, name=f"trace-{i}.jsonl") for i in range(11)]
        result, page = made([row(0, 1)], *told, *(word for name in traces for word in ("--trace", name)))
        assert (result.exit_code, "Warning" in result.stderr) == (0, False)
        places = [page.index(f">part-{i}.jsonl<") for i in range(11)]
        assert places == sorted(places)
        assert page.index(">all 11<") < places[0]
        assert ">44<" in page  # their records
        assert page.count('class="bad"') == 1
        assert "1 failed" in page
        assert "someone" not in page
        for shown in ("…/llama-3", "legal=…/legal", "a/b", "https://x/y", "a line for each of 11 runs"):
            assert shown in page
        assert "trace-3" not in page

    def test_the_same_page_each_time(self, made: Callable[..., tuple[Result, str]]) -> None:
        assert made([row(0, 1), row(1, 5)])[1] == made([row(0, 1), row(1, 5)])[1] != ""

    def test_an_empty_output_and_one_of_vectors(self, made: Callable[..., tuple[Result, str]]) -> None:
        assert made([])[0].exit_code == 0
        vector = {"index": 0, "embedding": [0.5, 0.25], "usage": {"prompt_tokens": 3}, "error": None}
        assert "vectors of 2" in made([vector])[1]

    def test_nothing_is_written_over(self, call: Call, write_lines: Callable[..., Path], tmp_path: Path) -> None:
        out, page = write_lines(row(0, 1), name="out.jsonl"), tmp_path / "mine.html"
        page.write_text("mine")
        for argv in (["-o", page], ["-o", out, "--overwrite"]):
            assert call("report", out, *argv).exit_code == 2
        assert page.read_text() == "mine"
        assert call("report", write_lines(b"nope", name="bad.jsonl"), "-o", tmp_path / "new.html").exit_code == 2
        assert call("report", out, out, "-o", tmp_path / "new.html").exit_code == 2  # no file of --stats
        assert not (tmp_path / "new.html").exists()


def test_long_traces_become_means(tmp_path: Path) -> None:
    path, count = tmp_path / "trace.jsonl", 5 * summary.POINTS
    path.write_text("".join(json.dumps({"t": i, "time": i, "kv_usage": 0.25, "records": i}) + "\n" for i in range(count)))
    course = summary.read_trace(str(path))
    assert summary.POINTS <= len(course.seconds) <= 2 * summary.POINTS
    assert course.seconds == sorted(course.seconds)
    assert set(course.values["kv_usage"]) == {0.25}
    assert course.values["records"][0] == 1.5  # of 0 to 3
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ConfigError, match="not what --trace writes"):
        summary.read_trace(str(path))


def test_without_the_library_it_is_named(call: Call, write_lines: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = call("report", write_lines(row(0, 1)), "-o", "x.html")
    assert result.exit_code == 2
    assert "infer-jsonl[report]" in result.stderr


def test_lengths_in_the_summary(call: Call, tiny: list[str], write_lines: Callable[..., Path], tmp_path: Path) -> None:
    records = [{"prompt": "hello", "max_tokens": 3, "ignore_eos": True}] * 4
    result = call("generate", "-v", *tiny, write_lines(*records), tmp_path / "o.jsonl")
    assert "prompt tokens of a record: median 5, most 5\n    4-7  4  ####" in result.stderr
    assert "output tokens of a record: median 3, most 3\n    2-3  4  ####" in result.stderr
    assert "tokens of a record" not in call("generate", *tiny, write_lines(*records), tmp_path / "p.jsonl").stderr
