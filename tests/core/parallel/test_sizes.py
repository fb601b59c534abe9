"""Sizes that ranks can share."""

from __future__ import annotations

import pytest

from infer.core.errors import ConfigError
from infer.core.parallel.sizes import check_size, fitting_sizes, kv_share, padded_share, share
from infer.core.spec.read import read_spec
from infer.core.spec.stack import Shares

SMOLLM2 = Shares(9, 3, 1536)
LLAMA_70B = Shares(64, 8, 28672)


def test_sizes_that_divide_heads_and_features() -> None:
    assert fitting_sizes([SMOLLM2]) == [1, 3]
    assert fitting_sizes([LLAMA_70B]) == [1, 2, 4, 8, 16, 32, 64]
    assert fitting_sizes([Shares(4, 4, 6)]) == [1, 2]
    assert fitting_sizes([LLAMA_70B, Shares(12, 4, 28672)]) == [1, 2, 4], "layers of other sizes are shared too"


def test_a_size_that_does_not_fit_is_refused_with_those_that_do() -> None:
    spec = read_spec(
        {"model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "hidden_size": 576}
    )
    check_size(spec, 3)
    with pytest.raises(ConfigError, match=r"9 attention heads, 3 key/value heads .* sizes that work: 1, 3$"):
        check_size(spec, 2)
    check_size(read_spec({"model_type": "helium"}), 1)
    with pytest.raises(ConfigError, match="helium models run through transformers' code, which ranks cannot share"):
        check_size(read_spec({"model_type": "helium"}), 2)


@pytest.mark.parametrize(("heads", "size"), [(8, 1), (8, 2), (8, 8), (2, 4), (2, 8), (1, 3), (3, 3)])
def test_every_head_is_held_and_neighbours_share(heads: int, size: int) -> None:
    held = [kv_share(heads, rank, size) for rank in range(size)]
    assert {h for first, count in held for h in range(first, first + count)} == set(range(heads))
    assert len({count for _, count in held}) == 1
    assert held == sorted(held)
    # Query heads of a rank are those that belong to its key/value heads.
    queries = 2 * max(heads, size)
    mine = share(queries, size)
    for rank, (first, count) in enumerate(held):
        assert {q * heads // queries for q in range(rank * mine, (rank + 1) * mine)} == set(range(first, first + count))


def test_a_vocabulary_is_padded() -> None:
    assert padded_share(49152, 3) == 16384
    assert padded_share(259, 4) == 65
