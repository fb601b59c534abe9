"""Slopes of ALiBi (arXiv 2108.12409): a score falls by a head's slope with each position between query and key."""

from __future__ import annotations

import math


def slopes(heads: int) -> tuple[float, ...]:
    """The paper's: powers of one base; where the heads are no power of two, every second one of twice as many fills up."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-8 * i / (2 * power)) for i in range(1, 2 * power, 2)]
    return tuple(first + between[: heads - power])


def mosaic_slopes(heads: int, most: float) -> tuple[float, ...]:
    """MPT's: powers of 2 down to -most; where the heads are no power of two, every second one goes first.

    transformers has 8 for `most` whatever config.json says; here, as in the model's own code, it says so.
    """
    power = 2 ** math.ceil(math.log2(heads))
    every = [2 ** (-most * i / power) for i in range(1, power + 1)]
    return tuple(every if power == heads else [*every[1::2], *every[::2]][:heads])
