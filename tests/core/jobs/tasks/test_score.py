"""`infer score`: what a record asks for, and the row of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks.pending import PendingTexts
from infer.core.jobs.tasks.score import ScoreOptions, ScoreTask
from infer.core.pooling.recipe import Recipe
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.pooling_request import Pooled

EMBEDDER = Recipe("embed", "mean", False, 2)
RANKER = Recipe("classify", "cls", False, 2, labels=("LABEL_0",), activation="sigmoid")
CLS, SEP = 2, 3
Make = Callable[..., ScoreTask]


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    def task(recipe: Recipe = EMBEDDER, **options: Any) -> ScoreTask:
        return ScoreTask(ScoreOptions(**options), tokenizer, recipe, max_model_len=16)

    return task


def prepare(task: ScoreTask, **fields: Any) -> PendingTexts:
    (pending,) = task.prepare([Record.parse(0, 1, 1, dumps(fields))])
    if pending.error:
        raise pending.error
    return pending


def answer(task: ScoreTask, values: list[list[float]], **fields: Any) -> dict[str, Any]:
    """The line of an answer, as it is written."""
    pending = prepare(task, **fields)
    assert len(pending.prompt) == len(values)
    row: dict[str, Any] = json.loads(dumps(task.to_row(pending, Pooled("0", [np.array(v, np.float32) for v in values], num_tokens=9))))
    return row


def test_a_cross_encoder_reads_pairs(make: Make, tokenizer: Tokenizer) -> None:
    cat, dog, sun = (tokenizer.encode(text, add_special_tokens=False) for text in ("the cat", "a dog", "sun"))
    pending = prepare(make(RANKER), query="the cat", documents=["a dog", "sun"])
    assert pending.to_request().kind == "classify"
    assert [list(text.ids) for text in pending.prompt] == [[CLS, *cat, SEP, *dog, SEP], [CLS, *cat, SEP, *sun, SEP]]
    assert [list(text.types) for text in pending.prompt] == [[0] * 4 + [1] * 3, [0] * 4 + [1] * 2]
    row = answer(make(RANKER), [[0.25], [0.1]], id="a", query="the cat", documents=["a dog", "sun"], note=1)
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    assert row == {"index": 0, "id": "a", "scores": [0.25, 0.1], "usage": usage, "error": None, "extra": {"note": 1}}
    row = answer(make(RANKER), [[0.1]], text_1="the cat", text_2="a dog")
    assert (row["score"], "scores" in row) == (0.1, False)
    assert answer(make(RANKER), [[0.1]], text_1="the cat", text_2=["a dog"])["scores"] == [0.1]
    both = prepare(make(RANKER), text_1=["the cat", "a dog"], text_2=["sun", "sun"]).prompt
    assert [list(text.ids) for text in both] == [[CLS, *cat, SEP, *sun, SEP], [CLS, *dog, SEP, *sun, SEP]]


def test_an_embedder_reads_each_text(make: Make, tokenizer: Tokenizer) -> None:
    cat, dog = (tokenizer.encode(text, add_special_tokens=False) for text in ("the cat", "a dog"))
    pending = prepare(make(), query="the cat", documents=["a dog", "a dog"])
    assert pending.to_request().kind == "embed"
    assert [list(text.ids) for text in pending.prompt] == [[CLS, *cat, SEP], [CLS, *dog, SEP], [CLS, *dog, SEP]]
    row = answer(make(), [[3, 4], [4, 3], [-3, -4]], query="a", documents=["b", "c"])
    assert row["scores"] == [0.96, -1.0]
    assert answer(make(), [[3, 4], [4, 3]], text_1="a", text_2="b")["score"] == 0.96
    assert answer(make(), [[1, 0], [0, 1], [1, 0], [1, 0]], text_1=["a", "b"], text_2=["c", "d"])["scores"] == [1, 0]
    assert answer(make(), [[0, 0], [4, 3]], text_1="a", text_2="b")["score"] == 0


@pytest.mark.parametrize(("measure", "expected"), [("dot", 24), ("euclidean", -(2**0.5)), ("manhattan", -2)])
def test_the_recipe_says_how_vectors_are_compared(make: Make, measure: str, expected: float) -> None:
    recipe = Recipe("embed", "mean", False, 2, similarity=measure)
    score = answer(make(recipe), [[3, 4], [4, 3]], text_1="a", text_2="b")["score"]
    assert np.float32(score) == np.float32(expected)


def test_prompts_of_queries_and_documents(make: Make, tokenizer: Tokenizer) -> None:
    prompts = {"query": "query: ", "corpus": "on ", "passage": "passage: ", "other": "rain "}
    recipe = Recipe("embed", "mean", False, 2, prompts=prompts, default_prompt_name="other")

    def texts(task: ScoreTask, **fields: Any) -> list[str]:
        tokens = [[tokenizer.token_text(i) for i in text.ids[1:-1]] for text in prepare(task, **fields).prompt]
        return ["".join(one) for one in tokens]

    line = {"query": "cat", "documents": ["dog"]}
    assert texts(make(recipe), **line) == ["query:cat", "passage:dog"]
    assert texts(make(recipe), text_1="cat", text_2="dog") == ["raincat", "raindog"]
    assert texts(make(recipe, query_prefix="", document_prefix="of "), **line) == ["cat", "ofdog"]
    assert texts(make(recipe, document_prefix="of "), text_1="cat", text_2="dog") == ["raincat", "ofdog"]
    assert texts(make(), **line) == ["cat", "dog"]
    ranker = make(RANKER, query_prefix="to ", document_prefix="of ")
    assert texts(ranker, **line) == ["tocat[SEP]ofdog"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_field", "query"),
        ({"query": "a"}, "missing_field", "documents"),
        ({"documents": ["a"]}, "missing_field", "query"),
        ({"text_1": "a"}, "missing_field", "text_2"),
        ({"text_1": "a", "documents": ["b"]}, "invalid_value", "text_1"),
        ({"query": "a", "documents": ["b"], "text_1": "c", "text_2": "d"}, "invalid_value", "text_2"),
        ({"query": "a", "documents": []}, "invalid_value", "documents"),
        ({"query": "a", "documents": "b"}, "invalid_type", "documents"),
        ({"query": "a", "documents": ["b", 5]}, "invalid_type", "documents"),
        ({"query": ["a"], "documents": ["b"]}, "invalid_type", "query"),
        ({"text_1": 5, "text_2": "b"}, "invalid_type", "text_1"),
        ({"text_1": "a", "text_2": []}, "invalid_value", "text_2"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "invalid_value", "text_2"),
        ({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "invalid_value", "text_2"),
        ({"input": "a"}, "unsupported", "input"),
        ({"text": "a"}, "unsupported", "text"),
        ({"prompt": "a"}, "unsupported", "prompt"),
        ({"messages": []}, "unsupported", "messages"),
        ({"text_1": "a", "text_2": "b", "truncate": 1}, "invalid_value", "truncate"),
        ({"text_1": "a", "text_2": "x" * 70_000}, "prompt_too_long", "input"),
    ],
)
@pytest.mark.parametrize("recipe", [EMBEDDER, RANKER], ids=["embedder", "ranker"])
def test_what_is_wrong_is_told(make: Make, recipe: Recipe, fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RecordError) as caught:
        prepare(make(recipe), **fields)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("recipe", [EMBEDDER, RANKER], ids=["embedder", "ranker"])
def test_one_bad_text_fails_alone(make: Make, recipe: Recipe) -> None:
    lines = [b'{"text_1":"a","text_2":"b"}', b'{"text_1":"a","text_2":"\\udc00"}', b"7", b'{"query":"a","documents":["b",null]}']
    pendings = make(recipe).prepare([Record.parse(i, i + 1, 9, line) for i, line in enumerate([*lines, lines[0]])])
    codes = [p.error.code if p.error else None for p in pendings]
    assert codes == [None, "invalid_encoding", "invalid_json", "invalid_type", None]


def test_truncation(make: Make) -> None:
    long = "the cat sat on the mat and the dog sat in the rain of the sun"
    (pair,) = prepare(make(RANKER, truncate="right"), text_1=long, text_2="dog").prompt
    assert len(pair.ids) == 16
    assert pair.types[-2:] == (1, 1)  # the short text is whole
    pending = prepare(make(truncate="left"), query=long, documents=["dog", long])
    assert [len(text.ids) for text in pending.prompt] == [16, 3, 16]
    assert pending.num_cut == 2
    assert make().tally(pending, Pooled("0", [np.zeros(2, np.float32)] * 3, num_tokens=35)).num_truncated == 2


def test_what_is_not_finite_is_no_null(make: Make) -> None:
    for task, values in ((make(RANKER), [[float("nan")]]), (make(), [[float("inf"), 1], [1, 1]])):
        with pytest.raises(RecordError) as caught:
            answer(task, values, text_1="a", text_2="b")
        assert caught.value.code == "non_finite_logits"


def test_a_classifier_of_several_labels_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"2 labels \(no, yes\)"):
        make(Recipe("classify", "cls", False, 2, labels=("no", "yes")))


def test_openai_like_batch_lines(make: Make) -> None:
    task = make(RANKER, fingerprint="0123456789abcdef", model="tiny")
    name, usage = "infer-0123456789ab-0", {"prompt_tokens": 9, "total_tokens": 9}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/score", "body": {"text_1": "a", "text_2": ["b", "c"]}}
    body = answer(task, [[0.25], [0.5]], **line)["response"]["body"]
    data = [{"index": 0, "object": "score", "score": 0.25}, {"index": 1, "object": "score", "score": 0.5}]
    assert body == {"id": name, "object": "list", "created": 0, "model": "tiny", "data": data, "usage": usage}

    asked: dict[str, Any] = {"query": "q", "documents": ["b", {"text": "c"}, "d"]}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/rerank", "body": asked}
    body = answer(task, [[0.25], [0.5], [0.25]], **line)["response"]["body"]
    results = [
        {"index": 1, "document": {"text": "c"}, "relevance_score": 0.5},
        {"index": 0, "document": {"text": "b"}, "relevance_score": 0.25},
        {"index": 2, "document": {"text": "d"}, "relevance_score": 0.25},
    ]
    assert body == {"id": name, "model": "tiny", "usage": usage, "results": results}
    body = answer(task, [[0.25], [0.5], [0.25]], **{**line, "body": {**asked, "top_n": 2}})["response"]["body"]
    assert body["results"] == results[:2]
    for bad, param in (
        ({**asked, "top_n": "2"}, "top_n"),
        ({**asked, "top_n": -1}, "top_n"),
        ({"text_1": "a", "text_2": "b"}, "documents"),
    ):
        with pytest.raises(RecordError) as caught:
            prepare(task, **{**line, "body": bad})
        assert caught.value.param == param


def test_documents_come_best_first_where_that_is_asked(make: Make) -> None:
    asked: dict[str, Any] = {"query": "q", "documents": ["b", "c", "d"]}
    values = [[0.25], [0.5], [0.25]]
    row = answer(make(RANKER), values, **asked, top_n=2)
    assert row["results"] == [{"index": 1, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.25}]
    assert "scores" not in row
    row = answer(make(RANKER), values, **asked, return_documents=True)
    assert [(one["index"], one["document"]["text"]) for one in row["results"]] == [(1, "c"), (0, "b"), (2, "d")]
    for url in ("/rerank", "/v2/rerank"):
        line = {"custom_id": "c", "method": "POST", "url": url, "body": {**asked, "return_documents": False, "top_n": 0}}
        body = answer(make(RANKER, batch_only=True), values, **line)["response"]["body"]
        assert body["results"] == [{"index": i, "relevance_score": values[i][0]} for i in (1, 0, 2)]
    for bad in ({"top_n": "2"}, {"top_n": -1}, {"return_documents": "yes"}):
        with pytest.raises(RecordError) as caught:
            prepare(make(RANKER), **asked, **bad)
        assert caught.value.param == next(iter(bad))


@pytest.mark.parametrize("sides", [("queries", "documents"), ("data_1", "data_2")])
def test_names_that_vllm_has_for_the_sides(make: Make, sides: tuple[str, str]) -> None:
    one, several = {sides[0]: "a", sides[1]: ["b", "c"]}, {sides[0]: ["a", "b"], sides[1]: ["c", "d"]}
    same = [{"text_1": "a", "text_2": ["b", "c"]}, {"text_1": ["a", "b"], "text_2": ["c", "d"]}]
    for fields, plain in zip((one, several), same, strict=True):
        assert prepare(make(RANKER), **fields).prompt == prepare(make(RANKER), **plain).prompt
    assert answer(make(RANKER), [[0.5]], **{sides[0]: "a", sides[1]: "b"})["score"] == 0.5
    with pytest.raises(RecordError, match=f"{sides[0]} has 2 texts and {sides[1]} 3") as caught:
        prepare(make(), **{sides[0]: ["a", "b"], sides[1]: ["c", "d", "e"]})
    assert caught.value.param == sides[1]


def test_top_n_where_nothing_is_ranked_is_told(make: Make) -> None:
    said: list[str] = []
    prepare(make(warn=said.append), text_1="a", text_2=["b"], top_n=1)
    assert "no effect" in said[0]
    with pytest.raises(RecordError) as caught:
        prepare(make(strict=True), text_1="a", text_2=["b"], top_n=1)
    assert (caught.value.code, caught.value.param) == ("unknown_field", "top_n")
