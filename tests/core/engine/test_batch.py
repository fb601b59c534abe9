"""Row counts come in few sizes, each a multiple of what the kernels ask for."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from infer.core.engine.batch import ROW_MULTIPLE, Batch, padded_rows
from infer.core.parallel.wire import pack_arrays, unpack_arrays

from .stacks import step


def test_padded_rows() -> None:
    sizes = [padded_rows(n) for n in range(1, 8193)]
    assert all(size >= n and size % ROW_MULTIPLE == 0 for n, size in enumerate(sizes, start=1))
    assert all(size - n < max(ROW_MULTIPLE, n / 15) for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 100
    assert [padded_rows(n) for n in (0, 1, 16, 17, 256, 257, 1025, 2048)] == [0, 16, 16, 32, 256, 272, 1088, 2048]


def test_a_batch_comes_to_other_ranks_as_it_was() -> None:
    embeds = np.array([[0.1, -np.float32(3e38)], [1e-30, 0]], dtype=np.float32)
    for batch in (step(([5, 6], 0, [1])), replace(step(([0, 0, 6], 0, [1])), virtual_rows=np.array([0, 1]), embeds=embeds)):
        got = Batch.from_arrays(unpack_arrays(pack_arrays(batch.arrays())))
        for field in fields(Batch):
            assert np.array_equal(getattr(got, field.name), getattr(batch, field.name)), field.name
