"""Vectors as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from infer.core.errors import RecordError
from infer.core.jobs.output.sinks.vectors import DTYPES, decoded_dtype, encode_vector, failed_vector, num_columns

some = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1000, 1000, width=32))


def decoded(values: np.ndarray, dtype: str) -> np.ndarray:
    return np.frombuffer(encode_vector(values, dtype), decoded_dtype(dtype))


@given(some)
def test_floats_are_what_they_were(values: np.ndarray) -> None:
    assert np.array_equal(decoded(values, "float32"), values)
    assert np.array_equal(decoded(values, "float16"), values.astype(np.float16))
    assert encode_vector(np.float32([1.0]), "float32") == b"\x00\x00\x80\x3f"  # little-endian, here and everywhere


@given(some)
def test_int8_is_the_direction(values: np.ndarray) -> None:
    got = decoded(values, "int8").astype(np.float64)
    largest = np.abs(values.astype(np.float64)).max(initial=0)
    if not largest:
        assert not got.any()
        return
    assert np.abs(got).max() == 127
    np.testing.assert_allclose(got, values.astype(np.float64) * 127 / largest, atol=0.5001)


def test_int8_of_a_known_vector() -> None:
    assert decoded(np.float32([1, -0.5, 0.25, 0, -2]), "int8").tolist() == [64, -32, 16, 0, -127]
    assert decoded(np.float32([2e38, -1e38]), "int8").tolist() == [127, -64]  # 127 times as much is no float32
    assert decoded(np.float32([1e-45, 0]), "int8").tolist() == [127, 0]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 24])
def test_binary_is_the_signs(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    values[0] = 0.0
    got = decoded(values, "binary")
    assert got.shape == ((size + 7) // 8,) == (num_columns(size, "binary"),)
    bits = [int(got[i // 8]) >> (7 - i % 8) & 1 for i in range(size)]
    assert bits == [int(value > 0) for value in values]
    assert not (int(got[-1]) & ((1 << (-size % 8)) - 1))  # nothing behind the last one


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_failed_vector_is_as_long_as_any(dtype: str) -> None:
    for size in (0, 1, 9, 384):
        failed = np.frombuffer(failed_vector(size, dtype), decoded_dtype(dtype))
        assert failed.nbytes == len(encode_vector(np.ones(size, np.float32), dtype))
        assert np.isnan(failed).all() if "float" in dtype else not failed.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_a_failed_vector_is_not_finite(dtype: str, bad: float) -> None:
    with pytest.raises(RecordError) as caught:
        encode_vector(np.float32([1, bad, 2]), dtype)
    assert caught.value.code == "non_finite_logits"


def test_what_float16_cannot_hold_is_an_error() -> None:
    assert np.isfinite(decoded(np.float32([65519.0, -65519.0]), "float16")).all()
    for value in (65520.0, -1e6):
        with pytest.raises(RecordError, match="float32") as caught:
            encode_vector(np.float32([value]), "float16")
        assert caught.value.code == "invalid_value"
