"""Drawn edits of the input, the settings and the output, over every way of going on, against a plain model of "same job".

The model knows records by their lines and settings by their values; it keeps a row only for the record and the settings that it
was made for. What the program accepts must be what a run from the start writes; what the model calls another job must be refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infer.core.errors import ConfigError, EngineError, RecordError
from infer.core.jobs.input.selection import Shard
from infer.core.jobs.merge import merge
from infer.core.jobs.output import output as output_module
from infer.core.jobs.output.opening import open_output
from infer.core.jobs.shards import open_shards

#: Settings as a fingerprint has them, and what can be said that changes no byte of a row.
JOB = {"temperature": 0.0, "model's config.json": "a", "version of torch": "2"}
FREE: dict[str, list[Any]] = {"max_errors": [None, 50], "fsync": ["interval", "never"]}
SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}


def record(number: int, *, bad: bool = False, named: bool = True) -> bytes:
    if bad:
        return b"no record %d" % number
    return json.dumps({"prompt": f"p{number}", **({"id": f"r{number}"} if named else {}), "max_tokens": 1 + number % 4}).encode()


#: (what is done to the lines, given which one, out of those and new ones)
EDITS: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "nothing": lambda lines, at: lines,
    "append": lambda lines, at: [*lines, *(record(100 + i) for i in range(at % 3 + 1))],
    "truncate": lambda lines, at: lines[:-1],
    "edit": lambda lines, at: [*lines[:at], lines[at].replace(b"p", b"q", 1).replace(b"no", b"now", 1), *lines[at + 1 :]],
    "swap": lambda lines, at: [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]],
    "insert": lambda lines, at: [*lines[:at], record(200), *lines[at:]],
    "blank": lambda lines, at: [*lines[:at], b"  ", *lines[at:]],
}

cases = st.fixed_dictionaries(
    {
        "kinds": st.lists(st.sampled_from(["good", "bad", "fails"]), min_size=2, max_size=9),
        "named": st.booleans(),
        "edit": st.sampled_from(sorted(EDITS)),
        "at": st.integers(0, 8),
        "changed": st.sampled_from([None, None, None, *JOB]),
        "free": st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FREE.items()}),
        "compression": st.sampled_from(sorted(SUFFIXES)),
        "limits": st.tuples(st.sampled_from([None, 2, 4, 20]), st.sampled_from([None, None, 1, 4, 20])),
        "offsets": st.sampled_from([(0, 0), (0, 0), (1, 1), (0, 1)]),
        "unfinished": st.booleans(),
        "again": st.sampled_from([{}, {}, {"retry_errors": True}, {"redo": "length"}, {"redo": "changed"}]),
        "shards": st.sampled_from([1, 1, 2, 3]),
    }
)


def selected(lines: list[bytes], offset: int, limit: int | None, shard: Shard) -> list[tuple[int, bytes]]:
    """The records that a run is asked for: (index, line)."""
    records = [line for line in lines if line.strip()]
    stop = len(records) if limit is None else min(offset + limit, len(records))
    return [(k, records[k]) for k in range(offset, stop) if k % shard.count == shard.index]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases)
def test_what_is_gone_on_with_is_the_same_job(attempt: Any, tmp_path_factory: pytest.TempPathFactory, case: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("case", numbered=True)
    lines = [record(i, bad=kind == "bad", named=case["named"]) for i, kind in enumerate(case["kinds"])]
    fails = {i: RecordError("non_finite_logits", "NaN") for i, kind in enumerate(case["kinds"]) if kind == "fails"}
    edited = EDITS[case["edit"]](lines, case["at"] % len(lines))
    job = JOB if case["changed"] is None else {**JOB, case["changed"]: "other"}
    first, then = ({"offset": case["offsets"][i], "limit": case["limits"][i]} for i in (0, 1))
    names = []
    for index in range(case["shards"]):
        shard = Shard(index, case["shards"])
        out = folder / f"out{index}{SUFFIXES[case['compression']]}"
        names.append(out)
        before, now = selected(lines, **first, shard=shard), selected(edited, **then, shard=shard)

        (folder / "in").write_bytes(b"\n".join(lines) + b"\n")
        engine: dict[str, Any] = {"fail": fails, "fail_in": "step"}
        stops_at = before[len(before) // 2][0] if case["unfinished"] and len(before) > 1 else None
        if stops_at is not None and case["kinds"][stops_at] == "good":
            engine["fail"] = {**fails, stops_at: EngineError("dead")}
            with pytest.raises(EngineError):
                attempt(folder / "in", out, engine=engine, job=JOB, shard=shard, **first)
        else:
            attempt(folder / "in", out, engine=engine, job=JOB, shard=shard, **first)
        finished = out.exists()
        again = case["again"] if finished else {}

        # The plain model: which rows stay, and whether they are of this job.
        (folder / "in").write_bytes(b"\n".join(edited) + b"\n")
        expected = folder / f"expected{index}{SUFFIXES[case['compression']]}"
        mended = {"fail": {} if again.get("retry_errors") else fails, "fail_in": "step"}
        kept = [number for number, (place, line) in enumerate(before) if not wanted(again, case["kinds"][place], line, at(now, number))]
        same_rows = all(number < len(now) and now[number] == before[number] for number in kept)
        same = job == JOB and first["offset"] == then["offset"] and same_rows and len(now) >= len(before)
        options = {**case["free"], **again, "shard": shard, **then}

        if not finished:  # only what was answered counts, which the run alone knows: it is refused, or right
            left = out.with_name(out.name + ".partial").exists()  # else it had no answer, and anybody may begin
            try:
                attempt(folder / "in", out, engine=mended, job=job, resume=True, **options)
            except ConfigError:
                assert left
                assert not same or len(b"\n".join(edited)) < len(b"\n".join(lines))  # a shorter input is refused, whosever records are gone
                return
            assert not left or (job == JOB and first["offset"] == then["offset"])
        elif not same:
            untouched = out.read_bytes()
            with pytest.raises(ConfigError, match=r"--overwrite"):
                attempt(folder / "in", out, engine=mended, job=job, resume=True, **options)
            assert out.read_bytes() == untouched
            return
        else:
            attempt(folder / "in", out, engine=mended, job=job, resume=True, **options)
        attempt(folder / "in", expected, engine=mended, job=job, shard=shard, **then)
        assert out.read_bytes() == expected.read_bytes()

    target = open_output(str(folder / "merged"), inputs=[], merge=True)
    merge([], target, open_shards([str(name) for name in names]))
    target.close()
    attempt(folder / "in", folder / "single", engine=mended, job=job, **then)
    assert (folder / "merged").read_bytes() == (folder / "single").read_bytes()
    assert attempt(folder / "in", folder / "merged", job=job, resume=True, **then).done


def at(now: list[tuple[int, bytes]], number: int) -> tuple[int, bytes] | None:
    return now[number] if number < len(now) else None


def wanted(again: dict[str, Any], kind: str, line: bytes, now: tuple[int, bytes] | None) -> bool:
    """True if a row of a finished output is to be answered anew."""
    if now is not None and again.get("redo") == "changed" and now[1] != line:
        return True
    if kind != "good":
        return bool(again.get("retry_errors"))
    return again.get("redo") == "length" and json.loads(line)["max_tokens"] < len("p0") + 1
