"""`--shard auto`: the part that a scheduler's variables say, or why there is none."""

from __future__ import annotations

import pytest

from infer.core.errors import ConfigError
from infer.core.jobs.input.array_job import parse_shard


def slurm(task: int, count: int, **more: int) -> dict[str, str]:
    numbers = {"ID": task, "COUNT": count, **more}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("text", "env", "shard"),
    [
        ("1/3", {}, "1/3"),
        ("1/3", slurm(0, 9), "1/3"),  # what is said wins
        ("auto", slurm(5, 64, MIN=0, MAX=63, STEP=1), "5/64"),
        ("auto", slurm(5, 8, MIN=1, MAX=8), "4/8"),
        ("auto", slurm(30, 4, MIN=10, MAX=40, STEP=10), "2/4"),
        ("auto", slurm(2, 3), "2/3"),
        ("auto/64", slurm(17, 2, MIN=3, MAX=17, STEP=14), "17/64"),  # sbatch --array=3,17
        ("auto", {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, "3/4"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "3"}, "3/8"),
        ("auto", {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "1/2"),
    ],
)
def test_read(text: str, env: dict[str, str], shard: str) -> None:
    assert str(parse_shard(text, env)) == shard


@pytest.mark.parametrize(
    ("text", "env", "why"),
    [
        ("auto", {}, "there is no task number here"),
        ("auto/0x", {}, "is not auto/N"),
        ("auto/", {"JOB_COMPLETION_INDEX": "0"}, "is not auto/N"),
        ("automatic", {}, "is not I/N"),
        ("auto", slurm(3, 3, MIN=1, MAX=7, STEP=1), "no place in an even row"),  # --array=1,3,7
        ("auto", slurm(9, 3, MIN=0, MAX=2), "no place in an even row"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ("auto", slurm(1, 2) | {"SLURM_ARRAY_TASK_COUNT": "two"}, "which is no number"),
        ("auto", slurm(1, 2) | {"OMPI_COMM_WORLD_RANK": "0"}, "are both set"),
        ("auto/2", slurm(2, 3), "the last of 2 shards is 1"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "say auto/N"),
        ("auto", {"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "4"}, "numbered from 0"),
    ],
)
def test_refused(text: str, env: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_shard(text, env)


def test_every_task_of_an_array_has_a_shard_of_its_own() -> None:
    shards = [parse_shard("auto", slurm(task, 5, MIN=3, MAX=11, STEP=2)) for task in range(3, 12, 2)]
    assert [str(shard) for shard in shards] == [f"{i}/5" for i in range(5)]
