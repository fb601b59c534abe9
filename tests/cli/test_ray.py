"""Runs on a Ray cluster of two nodes on this machine: actors and a node are killed, and the bytes are those of one engine."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infer.core.fleet.cluster import capacity_of, lacking, resources_of
from infer.core.settings.args import EngineArgs
from infer.core.weights.aliases import cache_folder

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(900)

ARGS = ["--temperature", "0.8", "--max-tokens", "20", "--ignore-eos"]


class Nodes:
    """A head and another node, of two CPUs each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 2, "object_store_memory": 80 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        self.add = lambda: self.cluster.add_node(**small)
        self.second = self.add()
        self.flags = ["--executor", "ray", "--ray-address", self.cluster.address, "--resources", '{"CPU": 1}']

    def actors(self) -> list[psutil.Process]:
        """The processes of replicas."""
        mine = psutil.Process().children(recursive=True)
        return [one for one in mine if one.is_running() and " ".join(one.cmdline()).startswith("ray::Actor")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.cluster.shutdown()


@pytest.fixture
def lines(write_lines: Callable[..., Path]) -> Path:
    return write_lines(*({"prompt": "abcdefg"[i % 5 :], "id": i} for i in range(80)))


def rows_of(out: Path) -> int:
    partial = out.with_name(out.name + ".partial")
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def test_killed_actors_and_a_killed_node_and_a_killed_driver_change_no_byte(
    nodes: Nodes, tiny: list[str], launch: Any, write_lines: Any, wait_for: Callable[..., None], hold: Any, tmp_path: Path
) -> None:
    # So many that Ray tells of a loss before the engine that is left has answered them all.
    lines = write_lines(*({"prompt": "abcdefg"[i % 5 :], "id": i} for i in range(2000)))
    alone, out = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    assert launch("generate", *tiny, *ARGS, lines, alone).wait(300) == 0
    gate = hold(lines, 40)
    job = ("generate", *tiny, *ARGS, *nodes.flags, "--replicas", "3", "--resume", lines, out)
    child = launch(*job)
    wait_for(lambda: rows_of(out) >= 10, child, seconds=300)
    nodes.actors()[0].send_signal(signal.SIGKILL)
    nodes.cluster.remove_node(nodes.second, allow_graceful=False)
    gate.open()
    _, said = child.communicate(timeout=300)
    nodes.second = nodes.add()
    assert child.returncode == 0, said
    assert b"another engine is started in its place" in said, said.decode()
    assert out.read_bytes() == alone.read_bytes()

    out.unlink()
    gate.lift()
    gate = hold(lines, 40)
    child = launch(*job)
    wait_for(lambda: rows_of(out) >= 10, child, seconds=300)
    actors = nodes.actors()
    child.kill()
    child.wait()
    assert not psutil.wait_procs(actors, timeout=120)[1]  # they end with the driver
    gate.lift()
    resumed = subprocess.run([*child.args, "-q"], capture_output=True, timeout=300, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == b""
    assert out.read_bytes() == alone.read_bytes()


def test_ranks_inside_actors_and_nothing_but_rows_on_stdout(
    nodes: Nodes, tiny: list[str], program: Any, launch: Any, lines: Path, wait_for: Callable[..., None], hold: Any
) -> None:
    ranks = ("--tensor-parallel-size", "2")
    alone = program("generate", "-q", *tiny, *ARGS, *ranks, lines, "-")
    assert alone.returncode == 0, alone.stderr
    gate = hold(lines, 60)
    job = ("generate", *tiny, *ARGS, *ranks, *nodes.flags, "--replicas", "2", lines, "-")
    child = launch(*job, stdout=subprocess.PIPE, bufsize=0)  # else what was read ahead would be lost to `communicate`
    got = child.stdout.readline()  # one of the engines answers
    actors = nodes.actors()
    ranks_of = {actor: [one for one in actor.children() if "infer.core.parallel.worker" in " ".join(one.cmdline())] for actor in actors}
    begun = [actor for actor in actors if ranks_of[actor]]
    ranks_of[begun[0]][0].send_signal(signal.SIGKILL)
    wait_for(lambda: not begun[0].is_running(), child, seconds=300)  # one rank gone, the engine is replaced
    before = set(nodes.actors()) - {begun[0]}
    before.pop().send_signal(signal.SIGKILL)
    gate.open()
    rest, said = child.communicate(timeout=400)
    assert child.returncode == 0, said.decode()
    assert got + rest == alone.stdout
    assert b"rank 1 (process" in said
    assert b"was killed by SIGKILL" in said
    assert said.count(b"another engine is started in its place") == 2, said.decode()


def test_a_model_is_shipped_and_texts_are_embedded(
    nodes: Nodes, tiny_bert: Path, program: Callable[..., Any], write_lines: Callable[..., Path]
) -> None:
    lines = write_lines(*({"input": text} for text in ("the cat", "a dog runs", "stock prices fell")))
    there = cache_folder().parent / "shipped"
    before = set(there.iterdir()) if there.exists() else set()
    job = ("embed", "-q", "--model", tiny_bert, "--device", "cpu", "--dtype", "float32")
    alone = program(*job, lines, "-")
    shipped = program(*job, *nodes.flags, "--ship-model", lines, "-")
    assert (shipped.returncode, shipped.stdout) == (0, alone.stdout), shipped.stderr
    assert len(shipped.stdout.splitlines()) == 3
    for path in [one for one in (set(there.iterdir()) - before) if one.is_dir()]:
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        del files[".shipped"]
        assert files
        assert all((tiny_bert / name).read_bytes() == data for name, data in files.items())
        subprocess.run(["rm", "-r", path, path.with_name(path.name + ".lock")], check=True)


def test_what_cannot_be_is_said(nodes: Nodes, tiny: list[str], program: Callable[..., Any], lines: Path, tmp_path: Path) -> None:
    greedy = program("generate", *tiny, *nodes.flags, "--resources", '{"GPU": 3}', "--stall-timeout", "2", lines, tmp_path / "a")
    assert greedy.returncode == 2
    assert b"no node of the cluster has GPU 3 for a replica; the most that one has is GPU 0; waiting 2 s for one" in greedy.stderr
    assert b"and none has come: lower --resources" in greedy.stderr
    nowhere = program("generate", *tiny, "--executor", "ray", "--ray-address", "127.0.0.1:1", lines, tmp_path / "b")
    assert nowhere.returncode == 2
    assert b"ray_address=127.0.0.1:1: there is no Ray cluster that can be reached" in nowhere.stderr
    assert b"Traceback" not in nowhere.stderr


def test_the_share_of_a_replica(tiny_llama: Path) -> None:
    def share(nodes: list[dict[str, float]], **settings: Any) -> dict[str, float]:
        from infer.core.build.plan import make_plan

        args = EngineArgs(str(tiny_llama), device="cpu", executor="ray", **settings)
        return resources_of(make_plan(args, compile_kernels=False).config, nodes)

    big = [{"CPU": 16.0}, {"CPU": 8.0}]
    assert share(big) == {"CPU": 16.0}
    assert share(big, replicas=4) == {"CPU": 6.0}
    assert share(big, replicas=100) == {"CPU": 1.0}
    assert share(big, replicas=4, threads=3) == {"CPU": 3.0}
    assert share(big, resources={"CPU": 2, "rack": 0}) == {"CPU": 2.0, "rack": 0.0}
    assert lacking(big, share(big, resources={"CPU": 2, "rack": 1})).endswith("the most that one has is CPU 16, rack 0")
    assert not lacking(big, share(big))
    assert [capacity_of(node, {"CPU": 6.0}) for node in big] == [2, 1]
    assert json.dumps(share(big, resources={"CPU": 1})) == '{"CPU": 1.0}'
