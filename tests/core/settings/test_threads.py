"""One thread a physical core, within what affinity and control groups allow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infer.core.settings import threads
from infer.core.settings.threads import choose_lanes, choose_threads, cpus_in_order, share_of

#: Eight CPUs, two on each core: 0 with 4, 1 with 5, and so on.
SIBLINGS = {i: f"{i % 4},{i % 4 + 4}" for i in range(8)}


@pytest.fixture(autouse=True)
def all_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_usable_cpus", lambda: set(range(8)))


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """machine({file: content}): the root of a machine of four cores and eight CPUs, with these files besides."""

    def make(files: dict[str, str]) -> Path:
        cpus = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": text for i, text in SIBLINGS.items()}
        for name, content in {"sys/devices/system/cpu/online": "0-7", **cpus, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        return tmp_path

    return make


def chosen(root: Path, asked: int | None = None) -> tuple[int, str]:
    found = choose_threads(asked, root=root)
    return found.count, found.note


def test_siblings_count_once(machine: Callable[..., Path]) -> None:
    assert chosen(machine({})) == (4, "")


@pytest.mark.parametrize(
    ("usable", "count"),
    [({0, 4}, 1), ({0, 1}, 2), ({0, 1, 4, 5}, 2), ({7}, 1)],
)
def test_affinity(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, usable: set[int], count: int) -> None:
    monkeypatch.setattr(threads, "_usable_cpus", lambda: usable)
    assert chosen(machine({})) == (count, f"threads: {count} of 4 cores (this process may not run on the others)")


@pytest.mark.parametrize(
    ("files", "count", "limit"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 2, "1.5"),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "5000 100000"}, 1, "0.05"),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 4, ""),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "600000 100000"}, 4, ""),
        # a group's own limit and its parent's: the lower one counts
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "100000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
            },
            1,
            "1",
        ),
        # version 1, in a container that does not see its group's path
        (
            {
                "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            3,
            "2.5",
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            4,
            "",
        ),
        # both versions, mounted side by side
        ({"proc/self/cgroup": "4:memory:/x\n0::/x", "sys/fs/cgroup/unified/x/cpu.max": "200000 100000"}, 2, "2"),
        # another controller's limits are not the CPU's
        ({"proc/self/cgroup": "4:cpuset:/x", "sys/fs/cgroup/cpuset/x/cpu.max": "100000 100000"}, 4, ""),
    ],
)
def test_quota(machine: Callable[..., Path], files: dict[str, str], count: int, limit: str) -> None:
    note = f"threads: {count} of 4 cores (the control group allows {limit} CPUs)" if limit else ""
    assert chosen(machine(files)) == (count, note)


def test_what_was_asked_for_is_taken(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"})
    assert chosen(root, 7) == (7, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert chosen(root) == (3, "")
    assert chosen(root, 7) == (7, "")
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert chosen(root)[0] == 1


def test_without_a_description_each_cpu_is_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert chosen(tmp_path) == (8, "")
    monkeypatch.setattr(threads, "_usable_cpus", set)
    assert chosen(tmp_path) == (8, "")


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, str(threads.SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_spinning_is_bounded_unless_the_user_says_how(given: dict[str, str], count: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(given))
    threads.bound_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == count


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = choose_threads(None)
    assert 1 <= found.count <= found.cores


def test_a_lane_for_four_threads_from_two_to_four() -> None:
    notes: list[str] = []
    assert [choose_lanes(None, threads, notes) for threads in (1, 2, 4, 8, 12, 16, 64)] == [1, 2, 2, 2, 3, 4, 4]
    assert choose_lanes(1, 8, notes) == 1
    assert not notes
    assert choose_lanes(9, 4, notes) == 4
    assert notes == ["lanes: 4, one for each thread"]


def test_neighbours_in_memory_stand_together(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, whose cores are numbered in turn."""
    nodes = {"sys/devices/system/node/node0/cpulist": "0,2,4,6", "sys/devices/system/node/node1/cpulist": "1,3,5,7"}
    assert cpus_in_order(root=machine(nodes)) == (0, 2, 1, 3)
    caches = {f"sys/devices/system/cpu/cpu{i}/cache/index3/shared_cpu_list": "0,3,4,7" if i % 4 in (0, 3) else "1,2,5,6" for i in range(8)}
    nodes = {"sys/devices/system/node/node0/cpulist": "0-7", "sys/devices/system/node/node1/cpulist": ""}
    assert cpus_in_order(root=machine({**nodes, **caches})) == (0, 3, 1, 2)
    monkeypatch.setattr(threads, "_usable_cpus", lambda: {2, 6, 7})
    assert cpus_in_order(root=machine({})) == (7, 2)
    monkeypatch.setattr(threads, "_usable_cpus", set)
    assert cpus_in_order(root=machine({})) == ()


def test_shares_of_cpus() -> None:
    assert [list(share_of((4, 5, 6, 7), 2, i)) for i in range(3)] == [[4, 5], [6, 7], [4, 5]]
    assert share_of((), 2, 1) == ()
