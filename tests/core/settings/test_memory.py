"""Main memory that preempted records may take, and the log's words for it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.errors import ConfigError
from infer.core.settings import args
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.settings.memory import choose_swap_space, lacks_memory, total_memory
from infer.core.spec.read import read_spec

GIB = 1 << 30


def choose(asked: float, *, is_given: bool = True, ranks: int = 1, total: int | None = 100 * GIB) -> tuple[float, list[str]]:
    notes: list[str] = []
    return choose_swap_space(asked, is_given=is_given, ranks=ranks, total=total, notes=notes), notes


def test_a_share_that_is_fine_is_taken_without_a_word() -> None:
    assert choose(4) == (4, [])
    assert choose(40) == (40, [])
    assert choose(10, ranks=4) == (10, [])
    assert choose(0, ranks=8, total=GIB) == (0, [])


def test_a_large_share_is_said() -> None:
    assert choose(50) == (50, ["swap_space: 50 GiB may take 50% of this machine's 100.0 GiB of memory"])
    value, notes = choose(15, ranks=4)
    assert value == 15
    assert notes == ["swap_space: 15 GiB for each of 4 GPUs may take 60% of this machine's 100.0 GiB of memory"]
    assert choose(70)[0] == 70


def test_too_large_a_share_is_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError, match=r"swap_space=71 GiB is too large .* lower it to 70\.0 or less \(0: "):
        choose(71)
    with pytest.raises(ConfigError, match=r"swap_space=20 GiB for each of 4 GPUs is too large .* lower it to 17\.5 or less"):
        choose(20, ranks=4)


def test_a_default_that_is_too_large_is_lowered() -> None:
    assert choose(4, is_given=False, total=5 * GIB) == (2, ["swap_space: 2.0 GiB for each GPU, 40% of this machine's 5.0 GiB in all"])
    assert choose(4, is_given=False, ranks=20)[0] == 2


def test_where_memory_is_not_known_nothing_is_changed() -> None:
    assert choose(400, total=None) == (400, [])


def test_total_memory_is_within_the_control_groups_limit(tmp_path: Path) -> None:
    whole = total_memory(root=tmp_path)
    assert whole is not None
    assert whole > 1 << 28
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.write_text("max\n")
    assert total_memory(root=tmp_path) == whole
    limit.write_text("123456789\n")
    assert total_memory(root=tmp_path) == 123456789


# -- the setting ---------------------------------------------------------------------------------------------------
HF = {"model_type": "llama", "max_position_embeddings": 512}


def resolve(monkeypatch: pytest.MonkeyPatch, device: str, **given: Any) -> EngineConfig:
    monkeypatch.setattr(args, "choose_device", lambda *_: device)
    monkeypatch.setattr(args, "choose_kernels", lambda *_, **__: ("reference", None))
    monkeypatch.setattr(args, "choose_dtype", lambda *_: "float16")
    monkeypatch.setattr(args, "total_memory", lambda: 16 * GIB)
    monkeypatch.setattr(args, "choose_num_seqs", lambda default, *_: default)
    monkeypatch.setattr(args, "default_tokens", lambda *_, **__: 8192)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    return EngineArgs.from_kwargs(model="m", **given).resolve(read_spec(HF), given=given)


def test_the_setting_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(monkeypatch, "cuda:0").swap_space == 4
    assert resolve(monkeypatch, "cuda:0").notes == ()
    config = resolve(monkeypatch, "cuda:0", swap_space=0, preemption_mode="swap")
    assert (config.swap_space, config.preemption_mode) == (0, "swap")
    assert config.notes == ("preemption_mode=swap has no effect without swap_space",)
    assert resolve(monkeypatch, "cuda:0", tensor_parallel_size=2, data_parallel_size=2).swap_space == pytest.approx(1.6)
    with pytest.raises(ConfigError, match="swap_space=4 GiB for each of 4 GPUs is too large"):
        resolve(monkeypatch, "cuda:0", tensor_parallel_size=2, data_parallel_size=2, swap_space=4.0)


def test_the_setting_where_it_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(monkeypatch, "cpu", swap_space=500, preemption_mode="swap")
    assert config.swap_space == 0
    assert config.notes == ("swap_space has no effect on cpu", "preemption_mode=swap has no effect on cpu")
    assert resolve(monkeypatch, "cuda:0", task="embed").swap_space == 0
    assert resolve(monkeypatch, "cpu", preemption_mode="recompute").notes == ()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"),
        RuntimeError("can't start new thread"),
    ],
)
def test_what_failed_for_want_of_memory(error: Exception) -> None:
    assert lacks_memory(error)
    wrapped = ImportError("numpy could not be imported")
    wrapped.__cause__ = error
    assert lacks_memory(wrapped)
    assert not lacks_memory(RuntimeError("no"))
    assert not lacks_memory(OSError(errno.EIO, "Input/output error"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
@pytest.mark.parametrize("mib", [256, 600])
def test_little_address_space_is_said(infer_program: list[str], tmp_path: Path, mib: int) -> None:
    (tmp_path / "in").write_text("{}\n")
    run = ["bash", "-c", f'ulimit -v {mib << 10}; exec "$@"', "bash", *infer_program, "generate", "-m", "x", "in", "out"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: out of memory: the address space of this process is limited to {mib} MiB (ulimit -v)")
    assert done.stderr.count("\n") == 1
