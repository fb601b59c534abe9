"""`infer embed`: what a record asks for, and the row of its answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.row_format import MatrixRows
from infer.core.jobs.tasks.embed import EmbedOptions, EmbedTask
from infer.core.jobs.tasks.pending import PendingTexts
from infer.core.jobs.tasks.rows import error_row
from infer.core.pooling.recipe import Recipe
from infer.core.text.templates.template import RecordTemplate
from infer.core.text.tokenizer import Tokenizer
from infer.core.types.pooling_request import Pooled

RECIPE = Recipe("embed", "mean", True, 4, prompts={"query": "query: ", "passage": "passage: "}, matryoshka=True)
CLS, SEP = 2, 3
Make = Callable[..., EmbedTask]


@pytest.fixture
def make(tokenizer: Tokenizer) -> Make:
    """make(prefix="x", ...): a task; `recipe`, `tokenizer` and `max_model_len` are not options."""

    def task(**options: Any) -> EmbedTask:
        recipe, length = options.pop("recipe", RECIPE), options.pop("max_model_len", 16)
        return EmbedTask(EmbedOptions(**options), options.pop("tokenizer", tokenizer), recipe, max_model_len=length)

    return task


def prepare(task: EmbedTask, **fields: Any) -> PendingTexts:
    (pending,) = task.prepare([Record.parse(0, 1, 1, dumps(fields))])
    if pending.error:
        raise pending.error
    return pending


def ids(task: EmbedTask, **fields: Any) -> list[list[int]]:
    return [list(text.ids) for text in prepare(task, **fields).prompt]


def words(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def row_of(task: EmbedTask, vectors: list[list[float]], **fields: Any) -> dict[str, Any]:
    """The line of an answer, as it is written."""
    pending = prepare(task, **fields)
    output = Pooled("0", [np.array(v, np.float32) for v in vectors], num_tokens=sum(len(text.ids) for text in pending.prompt))
    row: dict[str, Any] = json.loads(dumps(task.to_row(pending, output)))
    return row


def test_a_text_that_spells_the_beginning_is_told_of(make: Make) -> None:
    said: list[str] = []
    task = make(warn=said.append, truncate="left", max_model_len=4)
    assert ids(task, input="the cat")[0][0] == CLS
    assert said == []
    assert ids(task, input="[CLS] a")[0][:2] == [CLS, CLS]
    assert ids(task, input=[CLS, 7, 8, 9, SEP]) == [[7, 8, 9, SEP]]
    assert [message.split(":")[0].split(",")[0] for message in said] == [
        "a prompt begins with [CLS]",
        "truncation on the left cuts off [CLS]",
    ]


def test_texts_and_token_ids(make: Make, tokenizer: Tokenizer) -> None:
    cat = words(tokenizer, "the cat")
    assert ids(make(), input="the cat") == [[CLS, *cat, SEP]]
    assert ids(make(), text="the cat") == ids(make(), input="the cat", text=None)
    assert ids(make(), input="") == [[CLS, SEP]]
    assert ids(make(), input=[7, 8]) == [[7, 8]]
    assert ids(make(), input=["the cat", [9], ""]) == [[CLS, *cat, SEP], [9], [CLS, SEP]]
    assert ids(make(prompt_field="body"), body="the cat", input=5) == [[CLS, *cat, SEP]]
    assert ids(make(prompt_field="body"), body=["the cat", "the cat"]) == [[CLS, *cat, SEP]] * 2
    assert ids(make(template=RecordTemplate.load("{{ a }} {{ b }}")), a="the", b="cat") == [[CLS, *cat, SEP]]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_field", "input"),
        ({"input": None}, "missing_field", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": True}, "invalid_type", "input"),
        ({"input": {"a": 1}}, "invalid_type", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [[]]}, "invalid_value", "input"),
        ({"input": [1, "a"]}, "invalid_type", "input"),
        ({"input": ["a", 1]}, "invalid_type", "input"),
        ({"input": [1, True]}, "invalid_type", "input"),
        ({"input": [1.5]}, "invalid_type", "input"),
        ({"input": ["a", None]}, "invalid_type", "input"),
        ({"text": 5}, "invalid_type", "text"),
        ({"input": "a", "text": "b"}, "invalid_value", "text"),
        ({"messages": []}, "unsupported", "messages"),
        ({"prompt": "a"}, "unsupported", "prompt"),
        ({"query": "a", "documents": ["b"]}, "unsupported", "documents"),
        ({"text_1": "a", "text_2": "b"}, "unsupported", "text_1"),
        ({"input": "a", "dimensions": "4"}, "invalid_type", "dimensions"),
        ({"input": "a", "dimensions": True}, "invalid_type", "dimensions"),
        ({"input": "a", "dimensions": 0}, "invalid_value", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ({"input": "a", "encoding_format": 1}, "invalid_value", "encoding_format"),
        ({"input": "a", "encoding_format": ["float"]}, "invalid_value", "encoding_format"),
        ({"input": "a", "prompt_name": "qurey"}, "invalid_value", "prompt_name"),
        ({"input": "a", "prompt_name": 1}, "invalid_type", "prompt_name"),
        ({"input": "a", "truncate": "middle"}, "invalid_value", "truncate"),
        ({"input": "a", "truncate": True}, "invalid_value", "truncate"),
        ({"input": "a", "truncate": {"x": 1}}, "invalid_value", "truncate"),
        ({"input": "a", "truncation_side": "up"}, "invalid_value", "truncation_side"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "invalid_value", "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": True}, "invalid_type", "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 5, "truncate": "left"}, "invalid_value", "truncate_prompt_tokens"),
        ({"input": "a", "normalize": 1}, "invalid_type", "normalize"),
        ({"input": "a", "activation": False}, "unsupported", "activation"),
        ({"input": "a", "softmax": True}, "unsupported", "softmax"),
        ({"input": "a", "use_activation": "x"}, "invalid_type", "use_activation"),
        ({"input": "a", "use_activation": True, "normalize": True}, "invalid_value", "normalize"),
        ({"input": "a", "add_special_tokens": False}, "unsupported", "add_special_tokens"),
        ({"input": "a", "stream": True}, "unsupported", "stream"),
        ({"input": "a", "images": ["x"]}, "unsupported", "images"),
        ({"input": "a", "mm_processor_kwargs": {"x": 1}}, "unsupported", "mm_processor_kwargs"),
        ({"input": "a", "cache_salt": "x"}, "unsupported", "cache_salt"),
        ({"input": "a", "embed_dtype": "float16"}, "unsupported", "embed_dtype"),
        ({"input": "a", "tools": [{}]}, "unsupported", "tools"),
        ({"input": "a", "id": 1.5}, "invalid_type", "id"),
        ({"input": "x" * 70_000}, "prompt_too_long", "input"),
        ({"input": ["a", "x" * 70_000]}, "prompt_too_long", "input"),
    ],
)
def test_what_is_wrong_is_told(make: Make, fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RecordError) as caught:
        prepare(make(), **fields)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_misspelled_prompt_names_those_there_are(make: Make) -> None:
    with pytest.raises(RecordError, match=r"did you mean 'query'\?; its prompts: query, passage"):
        prepare(make(), input="a", prompt_name="qurey")
    with pytest.raises(ConfigError, match="query, passage"):
        make(prompt_name="nope")
    with pytest.raises(ConfigError, match="a prefix can be given"):
        make(prompt_name="query", recipe=Recipe("embed", "cls", False, 4))


def test_one_bad_text_fails_alone(make: Make) -> None:
    lines = [
        b'{"input":"the"}',
        b'{"input":"\\ud800"}',
        b"nope",
        b'{"input":["a",5]}',
        b'{"input":"cat","dimensions":-1}',
        b'{"input":"cat"}',
    ]
    pendings = make().prepare([Record.parse(i, i + 1, len(line), line) for i, line in enumerate(lines)])
    assert [p.error.code if p.error else None for p in pendings] == [
        None,
        "invalid_encoding",
        "invalid_json",
        "invalid_type",
        "invalid_value",
        None,
    ]
    assert error_row(pendings[4], pendings[4].error)["index"] == 4  # type: ignore[arg-type]


def test_parameters_of_other_commands_are_told_once_and_travel(make: Make) -> None:
    said: list[str] = []
    task = make(warn=said.append)
    for _ in range(3):
        pending = prepare(task, input="a", temperature=0.5, max_tokens=None, response_format={}, user="u", model="m", note=1)
        assert pending.extra == {"temperature": 0.5, "max_tokens": None, "response_format": {}, "note": 1}
    assert len(said) == 2
    assert all("infer generate" in text for text in said)
    with pytest.raises(RecordError) as caught:
        prepare(make(strict=True), input="a", temperature=0.5)
    assert (caught.value.code, caught.value.param) == ("unknown_field", "temperature")


def test_misspellings(make: Make) -> None:
    said: list[str] = []
    prepare(make(warn=said.append), input="a", dimension=4, colour=1)
    assert len(said) == 1
    assert "'dimensions'" in said[0]
    with pytest.raises(RecordError) as caught:
        prepare(make(strict=True), input="a", encoding_fromat="base64")
    assert (caught.value.code, caught.value.param) == ("unknown_field", "encoding_fromat")


def test_what_is_put_before_texts(make: Make, tokenizer: Tokenizer) -> None:
    def with_prefix(prefix: str) -> list[list[int]]:
        return [[CLS, *words(tokenizer, f"{prefix}cat"), SEP]]

    default = Recipe("embed", "mean", True, 4, prompts=RECIPE.prompts, default_prompt_name="passage")
    assert ids(make(), input="cat") == with_prefix("")
    assert ids(make(recipe=default), input="cat") == with_prefix("passage: ")
    assert ids(make(recipe=default, prefix=""), input="cat") == with_prefix("")
    assert ids(make(prefix="on "), input="cat") == with_prefix("on ")
    assert ids(make(prompt_name="query"), input="cat") == with_prefix("query: ")
    assert ids(make(prefix="on "), input="cat", prompt_name="query") == with_prefix("query: ")
    assert ids(make(prefix="on "), input=[7], prompt_name="query") == [[7]]
    lower = Recipe("embed", "mean", True, 4, lower_case=True)
    assert ids(make(recipe=lower, prefix="ON "), input="CAT") == with_prefix("on ")


def test_a_prompt_that_is_not_pooled_is_skipped(make: Make, tokenizer: Tokenizer) -> None:
    recipe = Recipe("embed", "mean", True, 4, prompts=RECIPE.prompts, include_prompt=False)
    (text,) = prepare(make(recipe=recipe, prompt_name="query"), input="cat").prompt
    assert text.skip == 1 + len(words(tokenizer, "query: "))
    assert prepare(make(recipe=recipe), input="cat").prompt[0].skip == 0


def test_special_tokens_in_text(make: Make) -> None:
    (meant,), (literal,) = ids(make(), input="[SEP]"), ids(make(literal_special_tokens=True), input="[SEP]")
    assert meant == [CLS, SEP, SEP]
    assert literal[0] == CLS
    assert literal.count(SEP) == 1
    (prefixed,) = ids(make(literal_special_tokens=True, prefix="[MASK]"), input="[MASK]")
    assert prefixed.count(4) == 1


def test_truncation_keeps_the_special_tokens(make: Make, tokenizer: Tokenizer) -> None:
    text = "the cat sat on the mat and the dog sat in the rain of the sun"
    whole = words(tokenizer, text)
    assert len(whole) > 14
    assert ids(make(), input=text) == [[CLS, *whole, SEP]]  # for the engine to refuse
    assert ids(make(truncate="right"), input=text) == [[CLS, *whole[:14], SEP]]
    assert ids(make(truncate="left"), input=text) == [[CLS, *whole[-14:], SEP]]
    assert ids(make(truncate="left"), input=text, truncate="right") == [[CLS, *whole[:14], SEP]]
    assert ids(make(truncate="left"), input=text, truncate="error") == [[CLS, *whole, SEP]]
    assert ids(make(), input=text, truncate_prompt_tokens=-1) == [[CLS, *whole[:14], SEP]]
    assert ids(make(), input=text, truncate_prompt_tokens=5, truncation_side="left") == [[CLS, *whole[-3:], SEP]]
    assert ids(make(truncate="right"), input=list(range(5, 30))) == [list(range(5, 21))]
    pending = prepare(make(truncate="right"), input=[text, "cat", text])
    assert pending.num_cut == 2
    tally = make().tally(pending, Pooled("0", [np.zeros(4, np.float32)] * 3, num_tokens=35))
    assert (tally.num_texts, tally.num_truncated, tally.prompt_tokens, tally.output_tokens) == (3, 2, 35, 0)
    assert ids(make(truncate="left"), input="x " * 100_000 + text) == [[CLS, *whole[-14:], SEP]]


def test_without_a_tokenizer(make: Make) -> None:
    task = EmbedTask(EmbedOptions(), None, RECIPE, max_model_len=16)
    assert ids(task, input=[[7, 8], [9]]) == [[7, 8], [9]]
    with pytest.raises(RecordError) as caught:
        prepare(task, input="a")
    assert caught.value.code == "unsupported"


def test_what_the_engine_is_asked(make: Make) -> None:
    request = prepare(make(), input=["a", "cat"], dimensions=2, normalize=False).to_request()
    assert (request.request_id, request.index, request.kind, len(request.texts)) == ("0", 0, "embed", 2)
    assert (request.params.dimensions, request.params.use_activation) == (2, False)


def test_rows(make: Make) -> None:
    row = row_of(make(), [[0.1, -2.0, 1 / 3, 1e-8]], id="a", input="cat", note=1)
    assert row == {
        "index": 0,
        "id": "a",
        "embedding": [0.1, -2.0, 0.33333334, 1e-8],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "error": None,
        "extra": {"note": 1},
    }
    assert list(row) == ["index", "id", "embedding", "usage", "error", "extra"]
    row = row_of(make(), [[1, 0, 0, 0], [0, 1, 0, 0]], input=["cat", [7]])
    assert row["embeddings"] == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert "embedding" not in row
    assert row_of(make(), [[1, 0, 0, 0]], input=["cat"])["embeddings"] == [[1, 0, 0, 0]]


def test_an_integer_over_64_bits_beside_a_vector_costs_no_digit(make: Make) -> None:
    row = row_of(make(), [[0.1, 1 / 3, 0, 0]], input="cat", big=2**70)
    assert row["embedding"] == [0.1, 0.33333334, 0, 0]
    assert row["extra"] == {"big": 2**70}


def test_base64_is_the_same_floats(make: Make) -> None:
    vector = [0.1, -2.0, 1 / 3, 1e-8]
    for row in (row_of(make(encoding="base64"), [vector], input="a"), row_of(make(), [vector], input="a", encoding_format="base64")):
        assert np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() == np.array(vector, np.float32).tolist()
    assert row_of(make(encoding="base64"), [vector], input="a", encoding_format="float")["embedding"][0] == 0.1


def test_smaller_types(make: Make) -> None:
    vector = [0.1, -2.0, 1 / 3, 0.0]
    assert row_of(make(embedding_dtype="float16"), [vector], input="a")["embedding"] == [0.099975586, -2.0, 0.33325195, 0.0]
    assert row_of(make(embedding_dtype="int8"), [vector], input="a")["embedding"] == [6, -127, 21, 0]
    assert row_of(make(embedding_dtype="binary"), [vector], input="a")["embedding"] == [0b10100000]
    packed = row_of(make(embedding_dtype="int8", encoding="base64"), [vector], input="a")["embedding"]
    assert base64.b64decode(packed) == bytes([6, 129, 21, 0])


def test_what_is_not_finite_is_no_null(make: Make) -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(RecordError) as caught:
            row_of(make(), [[1, bad, 0, 0]], input="a")
        assert caught.value.code == "non_finite_logits"


def test_openai_batch_lines(make: Make) -> None:
    task = make(fingerprint="0123456789abcdef" * 2, model="tiny")
    line = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["a", "cat"], "model": "m", "user": "u"}}
    row = row_of(task, [[1, 0, 0, 0], [0.1, 0, 0, 0]], **line)
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(([1, 0, 0, 0], [0.1, 0, 0, 0]))]
    body = {"object": "list", "data": data, "model": "tiny", "usage": {"prompt_tokens": 6, "total_tokens": 6}}
    name = "infer-0123456789ab-0"
    assert row == {"id": name, "custom_id": "c", "response": {"status_code": 200, "request_id": name, "body": body}, "error": None}
    assert list(row["response"]["body"]) == ["object", "data", "model", "usage"]
    one = row_of(task, [[1, 0, 0, 0]], **{**line, "body": {"input": "a"}})
    assert one["response"]["body"]["data"][0]["embedding"] == [1, 0, 0, 0]
    for url, command in (("/v1/completions", "generate"), ("/v1/chat/completions", "chat"), ("/v1/rerank", "score")):
        with pytest.raises(RecordError, match=f"infer {command}"):
            prepare(task, **{**line, "url": url})
    said: list[str] = []
    prepare(make(warn=said.append), dimensions=4, **line)
    assert "put it into body" in said[0]


def test_rows_of_a_matrix(make: Make) -> None:
    task = make(matrix=True, embedding_dtype="float16")
    assert isinstance(task.rows, MatrixRows)
    pending = prepare(task, id="a", input="cat", note=1)
    encoded = task.rows.answer(task, pending, Pooled("0", [np.array([1, 2, 3, 4], np.float32)], num_tokens=3))
    assert np.frombuffer(encoded.data, "<f2").tolist() == [1, 2, 3, 4]
    assert encoded.side is not None
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    assert json.loads(encoded.side) == {"index": 0, "id": "a", "usage": usage, "error": None, "extra": {"note": 1}}
    assert prepare(task, input="a", dimensions=4).error is None
    for fields, param in (({"input": ["a"]}, "input"), ({"input": "a", "dimensions": 2}, "dimensions"), ({"text": ["a"]}, "text")):
        with pytest.raises(RecordError) as caught:
            prepare(task, **fields)
        assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    batch = prepare(task, custom_id="c", url="/v1/embeddings", body={"input": "cat"})
    side = task.ids_row(batch, Pooled("0", [np.zeros(4, np.float32)], num_tokens=3))
    assert side == {"index": 0, "custom_id": "c", "usage": usage, "error": None}
