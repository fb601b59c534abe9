"""A job that is killed at any instant and goes on ends with the bytes of one that never was."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from transformers import Lfm2Config, Lfm2ForCausalLM, MixtralConfig, MixtralForCausalLM

from infer.core.jobs.output.faults import POINTS

from ..core.models.pairs import pair_of
from ..core.models.test_architectures import ARCHITECTURES, reference_model
from ..core.weights.formats.folders import write
from ..core.weights.formats.packers import PACKERS

SAMPLINGS = {"greedy": ["--temperature", "0"], "sampled": ["--temperature", "0.9", "--top-p", "0.9"]}


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    return data


def side_by_side(*tasks: Callable[[], Any]) -> list[Any]:
    """The tasks' results: most of a run is start-up, which leaves a core idle."""
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


class Killed:
    """One job under one output name, attempt by attempt."""

    def __init__(self, launch: Any, argv: list[Any], out: Path, errors: Path) -> None:
        self._launch = launch
        self._argv = [*argv, "--errors", errors]
        self.out, self.errors = out, errors

    def attempt(self, fault: str = "") -> tuple[int, str]:
        child = self.start(env={"INFER_FAULT": fault} if fault else {})
        _, said = child.communicate(timeout=300)
        return child.returncode, said.decode()

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        child: subprocess.Popen[bytes] = self._launch("generate", *self._argv, "--resume", self.out, **options)
        return child

    def forget(self) -> None:
        for path in [*self.out.parent.iterdir()]:
            path.unlink()

    @property
    def progress(self) -> int:
        """Grows with each commit."""
        journal = self.out.with_name(self.out.name + ".partial.journal")
        return journal.stat().st_size if journal.exists() else 0

    @property
    def files(self) -> dict[str, bytes]:
        """Everything the job left, by what is after OUT in its name; its note tells when and how often it was begun."""
        found = {path.name.removeprefix(self.out.name): path.read_bytes() for path in self.out.parent.glob(f"{self.out.name}*")}
        found.pop(".job.json", None)
        return {**found, "errors": self.errors.read_bytes()}


@pytest.fixture
def make_job(launch: Any, tiny: list[str], tmp_path: Path) -> Callable[..., Killed]:
    """make_job(input, "name.gz", options): a job of its own folder."""

    def make(path: Path, name: str, options: list[str]) -> Killed:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        argv = [*tiny, *options, "--return-token-ids", "--input", path]
        return Killed(launch, argv, folder / f"out.jsonl{name}", folder / "errors.jsonl")

    return make


@pytest.fixture
def big_lines(write_lines: Any) -> Path:
    """Some 2 MiB of output, so that compressed ones have several frames; every seventh line is bad, some take long."""
    lines: list[Any] = []
    for i in range(140):
        if i % 7 == 3:
            lines.append(b'{"prompt": %d, "bad": "%d"}' % (i, i))
        else:
            note = random.Random(i).randbytes(8000).hex()
            lines.append({"prompt": f"Record {i}", "max_tokens": 150 if i % 20 == 0 else 20, "ignore_eos": True, "note": note})
    path: Path = write_lines(*lines)
    return path


#: In this order each attempt gets further than the one before, and is far from the end until the last two.
FAULTS = ["begin", "write:2", "spill:2", "commit:2", "committed", "sync", "write", "publish", "beside", "published"]


KINDS = [("", "sampled"), (".gz", "greedy"), (".zst", "sampled")]


def test_killed_at_every_named_point(make_job: Any, big_lines: Path) -> None:
    """Jobs that die at each point in turn, each time going on from the last death; and unbroken ones."""
    assert {fault.partition(":")[0] for fault in FAULTS} == {*POINTS} - {"cleaned"}

    def to_the_end(job: Killed) -> str:
        code, said = job.attempt()
        assert code == 3, (job.out, said)
        return said

    def die(job: Killed) -> str:
        for fault in FAULTS:
            code, said = job.attempt(fault)
            if code == 3:  # a fast machine came to the end before: this one on a new job
                job.forget()
                code, said = job.attempt(fault)
            assert code == -signal.SIGKILL, (job.out, fault, said)
        return to_the_end(job)

    killed, whole = ([make_job(big_lines, suffix, SAMPLINGS[sampling]) for suffix, sampling in KINDS] for _ in range(2))
    said = side_by_side(*(partial(die, job) for job in killed), *(partial(to_the_end, job) for job in whole))
    for i, job in enumerate(killed):
        assert "is finished already" in said[i]  # after `published` there is nothing left to do
        assert job.files == whole[i].files
        rows = [json.loads(line) for line in unpacked(job.out).splitlines()]
        assert [row["index"] for row in rows] == list(range(140))
        failed = [json.loads(line) for line in job.files["errors"].splitlines()]
        assert [line["bad"] for line in failed] == [str(i) for i in range(140) if i % 7 == 3]


def test_killed_when_all_is_done(make_job: Any, write_lines: Any) -> None:
    job = make_job(write_lines({"prompt": "a"}, b"bad"), "", [])
    assert job.attempt("cleaned")[0] == -signal.SIGKILL
    assert sorted(job.files) == ["", ".partial.lock", "errors"]
    code, said = job.attempt()
    assert (code, sorted(job.files)) == (3, ["", "errors"]), said
    assert "finished already: 2 records, 1 failed" in said


def quantized(folder: Path) -> Path:
    return write(folder, PACKERS["w4a16-asymmetric"]).folder


def hybrid(folder: Path) -> Path:
    """With states of sequences beside the KV cache."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 250, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Lfm2Config(**sizes, num_key_value_heads=2, max_position_embeddings=256, layer_types=["conv", "full_attention", "conv"])
    Lfm2ForCausalLM(config).save_pretrained(folder)
    return folder


def latent(folder: Path) -> Path:
    """With one vector a token in the cache for all heads."""
    kind, changes = next(row for row in ARCHITECTURES if row[0] == "deepseek_v3")
    reference_model(kind, {**changes, "vocab_size": 250}).save_pretrained(folder)
    return folder


def experts(folder: Path) -> Path:
    """Each is one rank's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 250, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(**sizes, num_key_value_heads=2, max_position_embeddings=256, num_local_experts=4)
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def pair(folder: Path) -> Path:
    """An encoder with a decoder: what is kept of the input is read again after a kill."""
    return pair_of("t5", folder, vocab_size=250).folder


OF_RANKS = ["--tensor-parallel-size", "2", "--enable-expert-parallel"]


MODELS = [(quantized, []), (hybrid, []), (latent, []), (pair, []), pytest.param(experts, OF_RANKS, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("made", "more"), MODELS)
def test_killed_with_models_of_other_kinds(
    launch: Any, write_lines: Any, tmp_path: Path, committed: Any, made: Callable[[Path], Path], more: list[str]
) -> None:
    model = made(tmp_path / "model")
    lines = [{"prompt_token_ids": [i % 250, 7, 9], "max_tokens": 30, "note": random.Random(i).randbytes(8000).hex()} for i in range(60)]
    path = write_lines(*lines)
    options = ["--model", model, "--dtype", "bfloat16", "--device", "cpu", "--skip-tokenizer-init", "--ignore-eos"]
    options += ["--kv-cache-memory-bytes", "1MiB", "--max-num-seqs", "8", "--temperature", "0.9", "--input", path, *more]

    def job(name: str) -> Killed:
        (tmp_path / name).mkdir()
        return Killed(launch, options, tmp_path / name / "out.jsonl", tmp_path / name / "errors")

    killed, whole = job("killed"), job("whole")
    for fault in ("commit:2", "publish"):
        code, said = killed.attempt(fault)
        assert code == -signal.SIGKILL, (fault, said)
        assert committed(killed.out) > 0
    for one in (killed, whole):
        code, said = one.attempt()
        assert code == 0, said
    assert killed.out.read_bytes() == whole.out.read_bytes()
    assert killed.out.read_bytes().count(b"\n") == 60


@pytest.mark.slow
def test_killed_at_random_times(make_job: Any, write_lines: Any, wait_for: Any) -> None:
    """Twelve kills in one job, from loading to the end, and four in a compressed one."""
    count = 1000
    lines = [b"nope" if i % 100 == 50 else {"prompt": f"Record {i}", "max_tokens": 10 + i % 9 + 90 * (i % 50 == 0)} for i in range(count)]
    path = write_lines(*lines)

    def whole_run(suffix: str, sampling: str) -> dict[str, bytes]:
        job = make_job(path, suffix, SAMPLINGS[sampling])
        code, said = job.attempt()
        assert code == 3, said
        return dict(job.files)

    def chain(suffix: str, sampling: str, kills: int) -> Killed:
        job: Killed = make_job(path, suffix, SAMPLINGS[sampling])
        dice = random.Random(suffix)
        for kill in range(kills):
            child = job.start()
            if kill % 4 == 3:
                time.sleep(dice.uniform(0.0, 2.5))  # anywhere, most likely while loading
            else:
                before = job.progress
                wait_for(lambda: job.progress != before or child.poll() is not None, child)  # noqa: B023 (called at once)
                time.sleep(dice.uniform(0.0, 0.3))
            child.kill()
            if child.wait() == 3:  # a fast machine came to the end before: go on with a new job
                job.forget()
            else:
                assert child.returncode == -signal.SIGKILL, child.communicate()
        code, said = job.attempt()
        assert code == 3, said
        return job

    chains = [partial(chain, *kind, kills) for kind, kills in zip(KINDS, (12, 4), strict=False)]
    results = side_by_side(*chains, *(partial(whole_run, *kind) for kind in KINDS[:2]))
    for killed, whole in zip(results[:2], results[2:], strict=True):
        assert killed.files == whole
        assert [json.loads(line)["index"] for line in unpacked(killed.out).splitlines()] == list(range(count))
