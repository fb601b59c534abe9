"""Workloads: what dice and files give, again and again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from infer.core.bench.workload import RandomLengths, Workload
from infer.core.errors import ConfigError


def records(workload: Workload) -> list[dict[str, object]]:
    return [record.fields for record in workload.reader()]


def test_random_lengths_are_exact_without_a_ratio() -> None:
    workload = Workload.of_random(RandomLengths(5, 12, 3), vocab_size=10, avoid={0, 4})
    found = records(workload)
    assert len(found) == 5
    for record in found:
        ids = record["prompt_token_ids"]
        assert isinstance(ids, list)
        assert len(ids) == 12
        assert set(ids) <= set(range(10)) - {0, 4}
        assert record["max_tokens"] == 3


def test_random_lengths_stay_in_their_range_and_reach_its_ends() -> None:
    lengths = RandomLengths(300, 10, 4, random_range_ratio=0.5)
    found = records(Workload.of_random(lengths, vocab_size=50))
    assert {len(r["prompt_token_ids"]) for r in found} == set(range(5, 16))  # type: ignore[arg-type]
    assert {r["max_tokens"] for r in found} == set(range(2, 7))
    assert lengths.most_tokens == 15 + 6


def test_no_length_is_zero() -> None:
    assert RandomLengths(1, 1, 1, random_range_ratio=0.9).most_tokens == 4
    assert all(records(Workload.of_random(RandomLengths(50, 1, 1, 0.9), vocab_size=9))[i]["prompt_token_ids"] for i in range(50))


def test_the_seed_decides() -> None:
    one, same, other = (Workload.of_random(RandomLengths(4, 8, 2), vocab_size=99, seed=seed) for seed in (1, 1, 2))
    assert one.data == same.data != other.data


def test_it_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt":"a"}\n\n{"prompt":"b"}'))
    workload = Workload.from_file(str(path))
    assert records(workload) == records(workload) == [{"prompt": "a"}, {"prompt": "b"}]
    assert records(Workload.from_file(str(path), num_prompts=1)) == [{"prompt": "a"}]


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="nothing to measure"):
        Workload("x", data)


def test_without_fields() -> None:
    batch = {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "p", "temperature": 1}}
    lines = [{"prompt": "p", "temperature": 0, "max_completion_tokens": 3, "top_p": 1}, batch]
    data = b"\n".join([*(json.dumps(line).encode() for line in lines), b"not json"])
    found = Workload("x", data).without(["temperature", "max_tokens"])
    assert found.data.split(b"\n") == [
        b'{"prompt":"p","top_p":1}',
        b'{"custom_id":"a","url":"/v1/completions","body":{"prompt":"p"}}',
        b"not json",
    ]
