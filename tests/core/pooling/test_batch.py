"""Texts as flat arrays."""

from __future__ import annotations

import numpy as np

from infer.core.pooling.batch import bags, pack, single_rows
from infer.core.types.pooling_request import TextIds
from infer.kernels.ops import ROW_MULTIPLE

TEXTS = [TextIds((5, 6, 7)), TextIds((8,), (1,)), TextIds((9, 10), skip=1), TextIds((11, 12), (0, 1), skip=5)]


def test_texts_lie_one_behind_the_other() -> None:
    batch = pack(TEXTS)
    assert len(batch.tokens) == len(batch.positions) == ROW_MULTIPLE
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, *[0] * 8]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 1, *[0] * 8]
    assert batch.types is not None
    assert batch.types.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, *[0] * 8]
    assert batch.starts.tolist() == [0, 3, 4, 6, 8]
    assert (batch.tokens.dtype, batch.positions.dtype, batch.types.dtype, batch.starts.dtype) == (*[np.int64] * 3, np.int32)
    assert pack(TEXTS[:1]).types is None


def test_rows_of_one_token_a_text() -> None:
    batch = pack(TEXTS)
    assert single_rows(batch, "cls").tolist() == [0, 3, 4, 6, *[0] * 12]
    assert single_rows(batch, "last").tolist() == [2, 3, 5, 7, *[0] * 12]


def test_rows_that_are_averaged() -> None:
    which = bags(TEXTS, pack(TEXTS))
    assert which.rows.tolist() == [0, 1, 2, 3, 5]  # of the last text all are left out
    assert which.offsets.tolist() == [0, 3, 4, 5, *[5] * 12]
    assert which.counts[:, 0].tolist() == [3, 1, 1, 0, *[0] * 12]
    plain = bags(TEXTS[:2], pack(TEXTS[:2]))
    assert plain.rows.tolist() == [0, 1, 2, 3]
    assert plain.offsets.tolist() == [0, 3, *[4] * 14]
    middle = [TEXTS[2], TEXTS[3], TEXTS[0]]
    assert bags(middle, pack(middle)).rows.tolist() == [1, 4, 5, 6]


def test_many_texts_are_padded_to_few_sizes() -> None:
    many = [TextIds((1,))] * 300
    assert len(pack(many).tokens) % ROW_MULTIPLE == 0
    assert len(bags(many, pack(many)).offsets) == len(single_rows(pack(many), "cls")) == len(pack(many).tokens) == 304
