"""Identity of jobs: when two runs are one job, and the message when they are not."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from infer.core.errors import ConfigError
from infer.core.jobs.fingerprint import VERIFIED
from infer.core.jobs.identity import Identity, digest
from infer.core.jobs.input.selection import Selection, Shard


def made(fingerprint: dict[str, Any] | None = None, *, format: str = "jsonl", compression: str = "none", **how: Any) -> Identity:
    errors = how.pop("errors", False)
    return Identity.of(fingerprint or {}, Selection(**how), output_format=format, compression=compression, errors=errors)


def test_differences_are_named() -> None:
    before = {"seed": 0, "temperature": 1.0, "model's weights": "a", "template": None, "same": 1}
    with pytest.raises(ConfigError) as caught:
        made(before).refuse(made({**before, "temperature": 0.5, "template": "x" * 100, "top_p": 0.9}))
    text = str(caught.value)
    assert "temperature was 1.0, is 0.5" in text
    assert 'template was not set, is "xxx' in text
    assert "top_p was not set, is 0.9" in text
    assert "seed" not in text
    for way_out in ("--overwrite", "another output", "--resume-force"):
        assert way_out in text
    assert len(text) < 450
    made(before).refuse(made(dict(before)))


def test_many_differences_are_counted() -> None:
    with pytest.raises(ConfigError, match="and 3 more"):
        made({f"s{i}": 0 for i in range(8)}).refuse(made({f"s{i}": 1 for i in range(8)}))


def test_digest_is_of_the_contents() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_closer_look_at_the_weights_is_no_other_job() -> None:
    plain, verified = {"model's weights": "a"}, {"model's weights": "a", VERIFIED: "b"}
    assert digest(plain) == digest(verified)
    assert made(plain).differences(made(verified)) == made(verified).differences(made(plain)) == []
    assert made(verified).differences(made({**verified, VERIFIED: "c"})) == [f'{VERIFIED} was "b", is "c"']


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"limit": 3}, []),
        ({"limit": 3}, {}, []),
        ({}, {"offset": 2}, ["offset was 0, is 2"]),
        ({}, {"shard": Shard(0, 1)}, []),
        ({"shard": Shard(0, 2)}, {"shard": Shard(1, 2)}, ['shard was "0/2", is "1/2"']),
        ({}, {"format": "npy"}, ['output format was "jsonl", is "npy"']),
        ({"compression": "gzip"}, {"compression": "zstd"}, ['compression was "gzip", is "zstd"']),
        ({}, {"errors": True}, []),
    ],
)
def test_what_is_the_same_place_and_file(before: dict[str, Any], now: dict[str, Any], said: list[str]) -> None:
    assert made(**before).differences(made(**now)) == said


def test_frames_count_as_long_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(compression="gzip")
    monkeypatch.setattr(zlib, "ZLIB_RUNTIME_VERSION", "0")
    now = made(compression="gzip")
    before.refuse(now)
    with pytest.raises(ConfigError, match="version of zlib"):
        before.refuse(now, unfinished=True)
    with pytest.raises(ConfigError, match="errors file was false, is true"):
        made().refuse(made(errors=True), unfinished=True)
    made().refuse(made(), unfinished=True)


def test_it_comes_back_from_json() -> None:
    one = made({"a": 1}, offset=3, shard=Shard(1, 2), compression="zstd", errors=True)
    assert Identity.from_json(one.to_json()) == one
    for value in ({}, {**one.to_json(), "place": 3}):
        with pytest.raises(ValueError, match="no "):
            Identity.from_json(value)
