"""`infer batch` from the command line to the bytes: lines of several urls, with each kind of model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MESSAGES = [{"role": "user", "content": "the cat"}]
Batch = Callable[..., list[Any]]


def line(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


@pytest.fixture
def batch(call: Any, write_lines: Any, tmp_path: Path) -> Batch:
    """batch(folder, lines, "--flag", ..., code=0): the rows."""

    def run(folder: Path, lines: list[Any], *flags: Any, code: int = 0, command: str = "batch") -> list[Any]:
        out = tmp_path / f"{command}.out"
        again = [] if "--redo" in flags else ["--overwrite"]
        done = call(command, "--model", folder, "--dtype", "float32", "--device", "cpu", *flags, *again, write_lines(*lines), out)
        assert done.exit_code == code, done.stderr
        return [json.loads(row) for row in out.read_bytes().splitlines()]

    return run


def body(row: Any) -> Any:
    return row["response"]["body"]


def test_a_model_that_writes(batch: Batch, call: Any, tiny_llama: Path, write_lines: Any) -> None:
    """Each answer is that of the url's own command, and `infer check` finds the same errors."""
    greedy = {"temperature": 0, "max_tokens": 4}
    lines = [
        line("a", "/v1/completions", prompt=["ab", "cd"], **greedy),
        line("b", "/v1/chat/completions", messages=MESSAGES, **greedy),
        line("c", "/v1/responses", input="the cat", temperature=0, max_output_tokens=4),
        line("d", "/v1/classify", prompt="the", labels=["cat", "dog"]),
        line("e", "/v1/embeddings", input="a"),
    ]
    rows = batch(tiny_llama, lines, code=3)
    assert [row["custom_id"] for row in rows] == list("abcde")
    for place, command in ((0, "generate"), (1, "chat"), (3, "classify")):
        alone = batch(tiny_llama, [lines[place]], command=command)[0]
        told = {name: value for name, value in body(rows[place]).items() if name != "id"}
        assert told == {name: value for name, value in body(alone).items() if name != "id"}
    (message,) = body(rows[2])["output"]
    assert message["content"][0]["text"] == body(rows[1])["choices"][0]["message"]["content"]
    assert body(rows[3])["data"][0]["num_classes"] == 2
    assert rows[4]["error"]["code"] == "unsupported"
    for flags in ([], ["--task", "batch"]):
        checked = call("check", "--json", *flags, "--model", tiny_llama, "--dtype", "float32", "--device", "cpu", write_lines(*lines))
        assert checked.exit_code == 3
        assert {code: one["count"] for code, one in json.loads(checked.stdout)["errors"].items()} == {"unsupported": 1}
    again = batch(tiny_llama, lines, "--redo", "finish_reason=length", code=3)
    assert again == rows


def test_conversations_are_embedded_as_the_template_writes_them(batch: Batch, tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_llama).apply_chat_template(MESSAGES, return_dict=False)
    lines = [line("a", "/v1/embeddings", messages=MESSAGES), line("b", "/v1/embeddings", input=list(ids))]
    asked, same = (body(row) for row in batch(tiny_llama, lines, "--task", "embed"))
    assert asked["data"] == same["data"]
    assert asked["usage"]["prompt_tokens"] == len(ids)
    (wrong,) = batch(tiny_llama, [line("a", "/v1/embeddings", messages=MESSAGES, input="a")], "--task", "embed", code=3)
    assert wrong["error"]["message"] == "give input or messages, not both"


def test_a_model_that_embeds(batch: Batch, tiny_bert: Path) -> None:
    lines = [
        line("a", "/v1/embeddings", input=["the cat", "a dog"]),
        line("b", "/score", queries="the cat", documents=["a dog", "the cat"]),
        line("c", "/v2/rerank", query="the cat", documents=["a dog", "the cat"], top_n=1),
        line("d", "/v1/completions", prompt="a"),
        line("e", "/v1/embeddings", messages=MESSAGES),
    ]
    rows = batch(tiny_bert, lines, code=3)
    assert [len(body(rows[i])["data"]) for i in (0, 1)] == [2, 2]
    (best,) = body(rows[2])["results"]
    assert best["relevance_score"] == max(one["score"] for one in body(rows[1])["data"])
    assert [row["error"]["code"] for row in rows[3:]] == ["unsupported", "unsupported"]


def test_a_cross_encoder(batch: Batch, tiny_ranker: Path) -> None:
    lines = [
        line("a", "/v1/score", data_1="the cat", data_2="a dog"),
        line("b", "/rerank", query="the cat", documents=["a dog"]),
        line("c", "/classify", text_1="the cat", text_2="a dog"),
        line("d", "/v1/embeddings", input="a"),
    ]
    score, rank, label, wrong = batch(tiny_ranker, lines, code=3)
    told = [body(score)["data"][0]["score"], body(rank)["results"][0]["relevance_score"], body(label)["data"][0]["probs"][0]]
    assert told == [told[0]] * 3
    assert wrong["error"]["code"] == "unsupported"


@pytest.mark.parametrize(("writes", "flag"), [(True, "--normalize"), (False, "--max-tokens=5"), (False, "--system=x")])
def test_an_option_for_the_other_kind_of_model_is_refused(
    call: Any, tiny_llama: Path, tiny_bert: Path, write_lines: Any, writes: bool, flag: str
) -> None:
    done = call("batch", "--model", tiny_llama if writes else tiny_bert, "--device", "cpu", flag, write_lines({"a": 1}))
    assert done.exit_code == 2
    assert f"{flag.partition('=')[0]} means nothing here" in done.stderr
