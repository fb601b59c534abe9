"""Teams of threads: every piece is done once, whoever comes, however many call at once, and in the child of a fork."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infer.kernels.cpu import build
from infer.kernels.cpu.cache import Cache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled kernels are for Linux")

POOL = ("pool.cpp", "pool.h", "parallel.h", "spin.h")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """The kernels' pool with the loops of pool_driver.cpp."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "src").mkdir()
    for name in POOL:
        shutil.copy(build.SOURCES / name, folder / "src")
    shutil.copy(Path(__file__).with_name("pool_driver.cpp"), folder / "src")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SOURCES", folder / "src")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        cache = Cache.open()
        file = shutil.copy(build.find_or_build(cache)[0], folder)
        cache.close()
        found = ctypes.CDLL(file)
    yield found
    found.infer_set_threads(ctypes.c_int64(0))


def call(pool: ctypes.CDLL, name: str, *arguments: Any) -> None:
    pool[name](*(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else ctypes.c_int64(a) for a in arguments))


def answer(pool: ctypes.CDLL, name: str, *arguments: Any) -> int:
    """What a function writes to its last argument."""
    result = np.zeros(1, dtype=np.int64)
    call(pool, name, *arguments, result)
    return int(result[0])


def set_threads(pool: ctypes.CDLL, count: int) -> None:
    call(pool, "infer_set_threads", count)


@pytest.mark.parametrize("threads", [1, 2, 3, 17])
def test_every_item_is_done_once(pool: ctypes.CDLL, threads: int) -> None:
    set_threads(pool, threads)
    for items in (0, 1, 2, 3, 7, 64, 1000, 4097):
        for least in (1, 5, 5000):
            counts = np.zeros(items + 1, dtype=np.int64)
            call(pool, "count", counts, items, least, 3)
            assert counts[:items].tolist() == [3] * items
            assert counts[items] == 0


def test_thousands_of_tiny_loops(pool: ctypes.CDLL) -> None:
    set_threads(pool, 3)
    counts = np.zeros(6, dtype=np.int64)
    call(pool, "count", counts, 6, 1, 20000)
    assert counts.tolist() == [20000] * 6


def test_as_many_threads_as_were_said_meet(pool: ctypes.CDLL) -> None:
    for threads in (4, 2, 1, 6):
        set_threads(pool, threads)
        assert answer(pool, "infer_get_threads") == threads
        assert answer(pool, "meet", threads, 60000) == threads
        assert answer(pool, "meet", threads + 1, 50) == threads  # and no more


def test_a_loop_within_a_loop_runs_in_its_thread(pool: ctypes.CDLL) -> None:
    set_threads(pool, 3)
    counts = np.zeros(40 * 50, dtype=np.int64)
    assert answer(pool, "count_nested", counts, 40, 50) == 1
    assert (counts == 1).all()
    assert answer(pool, "infer_get_threads") == 3


def test_each_caller_has_threads_of_its_own(pool: ctypes.CDLL) -> None:
    """They call at the same time, and come and go."""
    set_threads(pool, 2)
    sizes, wrong = [1, 2, 3, 4], []

    def caller(threads: int) -> None:
        set_threads(pool, threads)
        counts = np.zeros(100, dtype=np.int64)
        for _ in range(50):
            call(pool, "count", counts, 100, 1, 20)
        if (counts != 1000).any() or answer(pool, "infer_get_threads") != threads:
            wrong.append(threads)

    for _ in range(3):
        callers = [threading.Thread(target=caller, args=(threads,)) for threads in sizes]
        for one in callers:
            one.start()
        for one in callers:
            one.join(60)
    assert not wrong
    assert answer(pool, "infer_get_threads") == 2
    # Workers end with their callers: this thread and its one remain, and those of the interpreter and its libraries.
    set_threads(pool, 4)
    assert answer(pool, "meet", 4, 60000) == 4


def test_a_caller_that_says_nothing_has_the_usual_threads(pool: ctypes.CDLL) -> None:
    def asked() -> int:
        found: list[int] = []
        caller = threading.Thread(target=lambda: found.append(answer(pool, "infer_get_threads")))
        caller.start()
        caller.join(60)
        return found[0]

    set_threads(pool, 2)
    call(pool, "infer_set_usual_threads", 7)
    assert (asked(), answer(pool, "infer_get_threads")) == (7, 2)
    call(pool, "infer_set_usual_threads", 0)
    assert asked() >= 1


def test_workers_end_with_their_caller(pool: ctypes.CDLL) -> None:
    before = _threads()

    def caller() -> None:
        set_threads(pool, 5)
        assert answer(pool, "meet", 5, 60000) == 5
        assert _threads() >= before + 5

    one = threading.Thread(target=caller)
    one.start()
    one.join(60)
    deadline = time.monotonic() + 60
    while _threads() > before:  # it ends after Python says so
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_numbers_near_zero_are_the_callers(pool: ctypes.CDLL) -> None:
    import torch

    set_threads(pool, 3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot")
    try:
        assert answer(pool, "halves", 3) == 1
    finally:
        torch.set_flush_denormal(False)
    assert answer(pool, "halves", 3) == 2


FORKS = """
import ctypes, os, signal, sys, threading
pool = ctypes.CDLL(sys.argv[1])
met, counts = ctypes.c_int64(), (ctypes.c_int64 * 100)()

def meet():
    pool.infer_set_threads(ctypes.c_int64(3))
    pool.meet(ctypes.c_int64(3), ctypes.c_int64(60000), ctypes.byref(met))
    assert met.value == 3

meet()
stop = threading.Event()
def busy():
    pool.infer_set_threads(ctypes.c_int64(2))
    while not stop.is_set():
        pool.count(counts, ctypes.c_int64(100), ctypes.c_int64(1), ctypes.c_int64(10))
other = threading.Thread(target=busy)
other.start()
for _ in range(10):
    child = os.fork()
    if not child:
        meet()
        if not os.fork():
            meet()
            os._exit(5)
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
meet()
stop.set()
other.join()
child = os.fork()
if not child:  # ends as a program does
    meet()
    sys.exit(6)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6

# A daemon is still at work when the interpreter ends.
stop.clear()
threading.Thread(target=busy, daemon=True).start()
pool.meet(ctypes.c_int64(2), ctypes.c_int64(10), ctypes.byref(met))
try:
    signal.raise_signal(signal.SIGINT)
    meet()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_forks_an_interrupt_and_the_end(pool: ctypes.CDLL) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, pool._name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def allowed() -> dict[str, str]:
    """The CPUs that each thread of this process may run on."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found[task.name] = next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))
    return found


def test_workers_are_kept_where_they_are_said_to_be(pool: ctypes.CDLL) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    places = np.array([cpus[0], cpus[-1], 5000], dtype=np.int64)
    set_threads(pool, 1)  # ends no team, and the next is a new one
    before = allowed()
    call(pool, "infer_place_workers", places, 3, 0)
    set_threads(pool, 3)
    counts = np.zeros(9, dtype=np.int64)
    call(pool, "count", counts, 9, 1, 50)
    new = [cpus for task, cpus in allowed().items() if task not in before]
    assert sorted(new) == sorted([str(cpus[-1]), str(cpus[0])]), "a place that no machine has is left out"
    assert os.sched_getaffinity(0) == set(cpus), "the caller is where it was"
    call(pool, "infer_place_workers", places, 0, 0)
    call(pool, "count", counts, 9, 1, 50)
    assert len(set(cpus)) == 1 or any("-" in found or "," in found for task, found in allowed().items() if task not in before)
