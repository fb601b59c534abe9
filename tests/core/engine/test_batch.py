"""Row counts come in few sizes, each a multiple of what the kernels ask for."""

from __future__ import annotations

from infer.core.engine.batch import ROW_MULTIPLE, padded_rows


def test_padded_rows() -> None:
    sizes = [padded_rows(n) for n in range(1, 8193)]
    assert all(size >= n and size % ROW_MULTIPLE == 0 for n, size in enumerate(sizes, start=1))
    assert all(size - n < max(ROW_MULTIPLE, n / 15) for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 100
    assert [padded_rows(n) for n in (0, 1, 16, 17, 256, 257, 1025, 2048)] == [0, 16, 16, 32, 256, 272, 1088, 2048]
