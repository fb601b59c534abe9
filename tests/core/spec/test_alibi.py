"""Slopes of ALiBi as their papers and the models' own code have them."""

from __future__ import annotations

import pytest

from infer.core.spec.alibi import mosaic_slopes, slopes


def test_of_a_power_of_two() -> None:
    assert slopes(8) == mosaic_slopes(8, 8) == tuple(2.0**-i for i in range(1, 9))
    assert mosaic_slopes(4, 16) == tuple(2.0 ** (-4 * i) for i in range(1, 5)), "the steepest is 2^-4, the flattest 2^-16"


@pytest.mark.parametrize("heads", [1, 3, 6, 12, 71])
def test_of_other_numbers(heads: int) -> None:
    """All are different, and between those of the powers of two around."""
    for found in (slopes(heads), mosaic_slopes(heads, 8)):
        assert len(set(found)) == heads
        assert all(2**-8 <= slope < 1 for slope in found)
    assert set(mosaic_slopes(heads, 8)) <= set(slopes(1 << (heads - 1).bit_length()))
