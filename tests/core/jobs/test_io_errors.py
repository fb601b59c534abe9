"""A system call that fails, whichever and whenever: said as what it is, and a resumed run comes to the bytes of an unbroken one.

Each call that a job makes about one of its files fails once, with one error after the other. Where the disk's state after a
crash is concerned: test_recovery.py.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import InferError, OutputError, RecordError
from infer.core.jobs.output import compression
from infer.core.jobs.output import output as output_module

NAMES = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "ESTALE", "ENOLCK", "ENOSYS", "ENOTSUP", "EINTR", "EACCES", "EINVAL", "ENOMEM")
ERRORS = [getattr(errno, name) for name in NAMES]
#: Of a descriptor, of a path.
BY_DESCRIPTOR = ("read", "pread", "write", "pwrite", "fsync", "ftruncate", "lseek", "close", "fstat", "flock")
BY_PATH = ("open", "stat", "lstat", "unlink", "replace")


class Calls:
    """Calls to the system about the files of a folder; the `fail_at`-th call of a kind fails."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = str(folder)
        self.counts: Counter[str] = Counter()
        self.failed = ""
        self._fail: tuple[str, int, int] | None = None
        self._on = False
        monkeypatch.setattr(os, "fsync", lambda fd: None)  # takes its time, and nothing is lost here
        for name in (*BY_DESCRIPTOR, *BY_PATH):
            module = fcntl if name == "flock" else os
            monkeypatch.setattr(module, name, self._standing_before(name, getattr(module, name)))

    @contextmanager
    def counting(self, fail: tuple[str, int, int] | None = None) -> Iterator[None]:
        """`fail`: (name, which call of it, error)."""
        self.counts.clear()
        self._fail, self._on, self.failed = fail, True, ""
        try:
            yield
        finally:
            self._on = False

    def _standing_before(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            if not self._on:
                return real(first, *rest, **named)
            self._on = False
            try:
                path = self._path(first)
            finally:
                self._on = True
            if not path.startswith(self._folder):
                return real(first, *rest, **named)
            self.counts[name] += 1
            if self._fail is not None and (name, self.counts[name]) == self._fail[:2]:
                self.failed = path
                if name == "close":  # whatever it says, it is closed
                    real(first)
                raise OSError(self._fail[2], os.strerror(self._fail[2]))
            return real(first, *rest, **named)

        return call

    @staticmethod
    def _path(what: Any) -> str:
        if not isinstance(what, int):
            return os.fsdecode(os.fspath(what))
        try:
            return os.readlink(f"/proc/self/fd/{what}")  # noqa: PTH115 (what is counted is os.*)
        except OSError:
            return ""


def make_lines(start: int, stop: int) -> bytes:
    return b"".join(b"bad\n" if i % 5 == 3 else b'{"prompt":"p%d","id":%d}\n' % (i, i) for i in range(start, stop))


def contents(folder: Path) -> dict[str, bytes | str]:
    """A note without its attempts."""
    found: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in [name for name in found if name.endswith(".job.json")]:
        note = json.loads(found[name])
        found[name] = str({key: value for key, value in note.items() if key not in ("attempts", "run_s", "time")})
    return found


CASES: dict[str, dict[str, Any]] = {
    "plain, errors": {"errors": True},
    "zstd, errors, always": {"errors": True, "compression": "zstd", "fsync": "always"},
    "npy": {"output_format": "npy"},
    "gzip, never": {"compression": "gzip", "fsync": "never"},
}
SLOW = [
    pytest.param(case, before, marks=pytest.mark.slow) for case in CASES for before in (False, True) if case != "plain, errors" or before
]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors cannot be told apart here")
@pytest.mark.parametrize(("case", "before"), [("plain, errors", False), *SLOW])
def test_every_call_fails_once(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, before: bool) -> None:
    """In a fresh run, and in one that goes on with what another left."""
    monkeypatch.setattr(compression, "FRAME_BYTES", 300)
    ticks = itertools.count()
    monkeypatch.setattr(output_module.time, "monotonic", lambda: next(ticks) / 3)
    folder, whole = tmp_path / "job", tmp_path / "whole"
    inputs = {"in0": make_lines(0, 7), "in1": make_lines(7, 11)}
    fail = {4: RecordError("non_finite_logits", "NaN")}

    def run(where: Path, **options: Any) -> None:
        told = CASES[case] | ({"errors": str(where / "errors")} if "errors" in CASES[case] else {})
        engine = {"fail": options.pop("fail", fail), "fail_in": "step", "max_num_seqs": 3}
        attempt([where / name for name in inputs], where / "out", engine=engine, **told, **options)

    def fresh(where: Path) -> None:
        where.mkdir(exist_ok=True)
        for path in where.iterdir():
            path.unlink()
        for name, data in inputs.items():
            (where / name).write_bytes(data)
        if before and where is folder:
            with pytest.raises(ZeroDivisionError):
                run(where, fail={**fail, 7: ZeroDivisionError()})
            assert (where / "out.partial").exists()

    fresh(whole)
    run(whole)
    expected = contents(whole)
    calls = Calls(folder, monkeypatch)
    fresh(folder)
    with calls.counting():
        run(folder, resume=before)
    assert contents(folder) == expected
    counts = dict(calls.counts)
    assert counts.keys() >= {"read", "pread", "write", "ftruncate", "close", "open", "unlink", "replace", "flock"}

    numbers = itertools.cycle(ERRORS)
    problems = []
    for name, count in counts.items():
        for i in range(1, count + 1):
            fresh(folder)
            number = next(numbers)
            said: BaseException | None = None
            try:
                with calls.counting((name, i, number)):
                    run(folder, resume=before)
            except (InferError, OSError, AssertionError, TypeError, ValueError) as error:
                said = error
            place = f"{name} {i} of {Path(calls.failed).name}, {errno.errorcode[number]}: {said!r}"
            if said is not None:
                of_input = Path(calls.failed).name in inputs
                right = isinstance(said, InferError) and not isinstance(said, OutputError) if of_input else isinstance(said, OutputError)
                if not right:
                    problems.append(place)
            try:
                run(folder, resume=True)
            except BaseException as error:
                problems.append(f"{place}; then {error!r}")
                continue
            after = contents(folder)
            if after != expected:
                differ = sorted(k for k in {**after, **expected} if after.get(k) != expected.get(k))
                problems.append(f"{place}; after it {differ}")
    assert not problems, "\n".join([str(len(problems)), *problems])
