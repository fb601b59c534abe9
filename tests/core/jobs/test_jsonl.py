"""Lines of JSON: what is read, and what is written of odd values."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infer.core.errors import RecordError
from infer.core.jobs.jsonl import MAX_DEPTH, dumps, escape_for_terminal, loads

BAD = {
    "truncated": (b'{"a":', "invalid_json"),
    "trailing text": (b'{"a":1} x', "invalid_json"),
    "trailing comma": (b'{"a":1,}', "invalid_json"),
    "single quotes": (b"{'a':1}", "invalid_json"),
    "NaN": (b'{"a":NaN}', "invalid_json"),
    "Infinity": (b'{"a":-Infinity}', "invalid_json"),
    "number too large": (b'{"a":1e400}', "invalid_json"),
    "integer too large": (b'{"a":' + b"9" * 400 + b"}", "invalid_json"),
    "raw control character": (b'{"a":"\x01"}', "invalid_json"),
    "raw NUL": (b'{"a":"\x00"}', "invalid_json"),
    "BOM that is not at the start of the file": (b"\xef\xbb\xbf{}", "invalid_json"),
    "list": (b"[1,2]", "invalid_json"),
    "string": (b'"a"', "invalid_json"),
    "null": (b"null", "invalid_json"),
    "invalid UTF-8": (b'{"a":"\xff"}', "invalid_encoding"),
    "UTF-8 cut short": (b'{"a":"\xe2\x82"}', "invalid_encoding"),
    "surrogate in UTF-8": (b'{"a":"\xed\xa0\x80"}', "invalid_encoding"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "invalid_encoding"),
    "lone high surrogate": (b'{"a":"\\ud800"}', "invalid_encoding"),
    "lone low surrogate": (b'{"a":"x\\udc00y"}', "invalid_encoding"),
    "surrogates in the wrong order": (b'{"a":"\\udc00\\ud800"}', "invalid_encoding"),
    "lone surrogate in a key": (b'{"\\ud800":1}', "invalid_encoding"),
    "lone surrogate and NaN": (b'{"a":"\\ud800","b":NaN}', "invalid_json"),
    "too deep": (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep"),
    "too deep and never closed": (b"[" * 100_000, "too_deep"),
    "too deep in objects": (b'{"a":' * 201 + b"1" + b"}" * 201, "too_deep"),
}


@pytest.mark.parametrize(("line", "code"), BAD.values(), ids=BAD)
def test_bad_lines_have_their_code(line: bytes, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        loads(line)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
        b'{"a":"' + b"[" * 500 + b'"}',  # brackets in a string are text
        b'{"a":"' + b'\\"[' * 500 + b'"}',
        b'{"a":"\\\\","b":[' + b"[]," * 500 + b"[]]}",
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":"\\u0000"}',
        b' \t{"a":1}\r',
    ],
)
def test_odd_but_good_lines(line: bytes) -> None:
    assert loads(line) == json.loads(line)
    assert loads(dumps(loads(line))) == loads(line)


@pytest.mark.parametrize(
    "number", ["12345678901234567890123", "-9223372036854775809", "18446744073709551616", "18446744073709551615", "-0", "1e22"]
)
def test_integers_keep_their_value(number: str) -> None:
    row = loads(b'{"a":%s}' % number.encode())
    assert row == {"a": json.loads(number)}
    assert type(row["a"]) is type(json.loads(number))
    assert json.loads(dumps(row)) == row


def test_nan_is_never_written_as_null_by_the_fallback() -> None:
    with pytest.raises(ValueError):
        dumps({"a": 2**70, "b": float("nan")})
    with pytest.raises(ValueError):
        dumps({"a": 2**70, "b": np.float32([1, float("nan")])})


@pytest.mark.parametrize("more", [{}, {"id": 2**70}])
def test_numpy_arrays_are_lists_of_the_shortest_numbers(more: dict[str, int]) -> None:
    """Also where an integer is too long for orjson."""
    row = {"a": np.float32([0.1, 1e-8, -1 / 3, 3]), "b": np.int8([[1, -2], [3, 4]]), "c": np.float32([[1, 2], [3, 4]]).T, **more}
    line = dumps(row)
    assert json.loads(line) == {"a": [0.1, 1e-08, -0.33333334, 3.0], "b": [[1, -2], [3, 4]], "c": [[1, 3], [2, 4]], **more}
    assert b"-0.33333334," in line


def test_what_is_no_json_is_an_error_and_no_guess() -> None:
    for value in ({1, 2}, object(), np.complex64(1)):
        with pytest.raises(TypeError):
            dumps({"a": value})


def test_half_a_surrogate_pair_of_our_own_making_is_replaced() -> None:
    assert dumps({"message": "a\ud800b"}) == b'{"message":"a?b"}'


def test_terminal_escapes_keep_the_json() -> None:
    row = {"a": "esc \x1b bel \x07 del \x7f csi \x9b é 你"}
    escaped = escape_for_terminal(dumps(row))
    assert json.loads(escaped) == row
    assert all(c.isprintable() for c in escaped.decode())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
)


@settings(max_examples=50)  # large ones
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values), st.booleans())
def test_any_object_survives_a_round_trip(row: dict, ascii_only: bool) -> None:
    assert json.loads(dumps(loads(json.dumps(row, ensure_ascii=ascii_only).encode()))) == row


@given(st.binary(max_size=200))
@example(b'{"a":"\\ud83d\\u0041"}')
def test_any_bytes_are_an_object_or_a_record_error(line: bytes) -> None:
    try:
        good = isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        good = False
    if good:
        assert loads(line) == json.loads(line)
        return
    with pytest.raises(RecordError) as caught:
        loads(line)
    assert caught.value.code in ("invalid_json", "invalid_encoding", "too_deep")


def test_hostile_lines_cost_little_memory() -> None:
    lines = [b'"' * (1 << 22), b"\\" * (1 << 22), b'\\"' * (1 << 21), b"[]" * (1 << 21), b'"\\"[' * (1 << 20)]
    tracemalloc.start()
    for line in lines:
        with pytest.raises(RecordError):
            loads(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * (1 << 22)
