"""Noise: random numbers that belong to a place, not to a stream.

The uniform for a token is a hash of (key, output position); the key is a hash of (run seed, record index, choice), or
of (record's own seed + choice). Nothing is drawn in order, so no schedule, neighbour or restart can shift it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def noise_key(seed: int | None, run_seed: int, index: int, choice: int) -> int:
    """64-bit key of one choice. With its own `seed` a record's draws do not depend on where it stands."""
    place = f"own:{seed + choice}" if seed is not None else f"run:{run_seed}:{index}:{choice}"
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "little")


def as_keys(keys: SequenceOf[int]) -> NDArray[np.uint64]:
    """[R] their last 64 bits."""
    return np.array([k & _MASK for k in keys], dtype=np.uint64)


def uniforms(keys: SequenceOf[int] | NDArray[np.uint64], positions: SequenceOf[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [R] in [0, 1) with 53 random bits: SplitMix64 (Steele et al. 2014), finalized twice, of key + position * golden."""
    keys = keys if isinstance(keys, np.ndarray) else as_keys(keys)
    state = keys + np.asarray(positions).astype(np.uint64) * _GOLDEN
    return (_mix(_mix(state) + _GOLDEN) >> np.uint64(11)) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
