"""Resampling of sound: a windowed sinc (Kaiser window), evaluated at the times of the new samples."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

#: Zero crossings of the sinc on either side, the share of the lower rate's band that passes whole, and the window's shape: what is
#: folded back lies about 100 dB below.
_ZEROS, _ROLLOFF, _BETA = 64, 0.945, 10.0
#: New samples that are made at a time, and different filters that are kept rather than made anew.
_BLOCK, _MOST_PHASES = 1 << 14, 4096


def resampled(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Samples [n] at `rate` a second as ceil(n * wanted / rate) samples at `wanted` a second. What is before and after is silence."""
    if rate == wanted or not len(samples):
        return samples
    divisor = gcd(rate, wanted)
    up, down = wanted // divisor, rate // divisor
    count = -(-len(samples) * up // down)
    cutoff = _ROLLOFF * min(1.0, up / down)  # of the old band
    reach = int(np.ceil(_ZEROS / cutoff))
    padded = np.concatenate([np.zeros(reach, np.float32), samples, np.zeros(reach + 1, np.float32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach)
    table = _filters(np.arange(up) / up, reach, cutoff) if up <= _MOST_PHASES else None
    made = np.empty(count, np.float32)
    for start in range(0, count, _BLOCK):
        at = np.arange(start, min(start + _BLOCK, count), dtype=np.int64) * down  # in parts of an old sample, `up` of them
        whole, phase = at // up, at % up
        if table is not None:
            # New samples whose times lie alike between old ones have one filter: as many at a time.
            for one in np.unique(phase):
                rows = np.flatnonzero(phase == one)
                made[start + rows] = windows[whole[rows] + 1] @ table[one]
        else:
            made[start : start + len(at)] = np.einsum("ij,ij->i", windows[whole + 1], _filters(phase / up, reach, cutoff))
    return made


def _filters(shift: NDArray[np.float64], reach: int, cutoff: float) -> NDArray[np.float32]:
    """float32 [len(shift), 2 * reach]: weights of the old samples from 1 - reach to reach places after the one before a new sample, which
    is `shift` of the way to the next."""
    time = np.arange(1 - reach, reach + 1)[None, :] - shift[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (time / reach) ** 2, 0, None))) / np.i0(_BETA)
    weights = cutoff * np.sinc(cutoff * time) * window
    weights /= weights.sum(axis=1, keepdims=True)  # a constant stays what it is
    return weights.astype(np.float32)
