"""The part of a job that a scheduler gave this process: `--shard auto`, read from the variables that schedulers set."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import ConfigError
from .selection import Shard

#: What is read, for messages.
_READ = "a Slurm array (SLURM_ARRAY_TASK_ID), an indexed Job of Kubernetes (JOB_COMPLETION_INDEX) or Open MPI (OMPI_COMM_WORLD_RANK)"


def parse_shard(text: str, env: Mapping[str, str]) -> Shard:
    """From "I/N", "auto" or "auto/N". Raises ConfigError."""
    auto, slash, count = text.partition("/")
    if auto != "auto":
        return Shard.parse(text)
    if slash and not _is_number(count):
        raise ConfigError(f"{text!r} is not auto/N, such as auto/64: this task's part of 64")
    return shard_of(env, int(count) if slash else None)


def shard_of(env: Mapping[str, str], count: int | None = None) -> Shard:
    """The shard by the number of this task, and the number of all of them.

    Args:
        count: the number of shards; tasks are then counted from 0 as they are numbered, so that some of them can be run again alone.
            None: as many as the scheduler says there are tasks.

    Raises ConfigError where no scheduler says, or two do.
    """
    readers = {"SLURM_ARRAY_TASK_ID": _slurm, "JOB_COMPLETION_INDEX": _kubernetes, "OMPI_COMM_WORLD_RANK": _mpi}
    found = [name for name in readers if env.get(name)]
    if not found:
        raise ConfigError(f"auto: there is no task number here; it is read from {_READ}. Say I/N where none of them starts the command")
    if len(found) > 1:
        raise ConfigError(f"auto: {' and '.join(found)} are both set, and only one of them can number the shards; say I/N")
    name = found[0]
    if count is not None:
        index = _number(env, name)
        if index >= count:
            raise ConfigError(f"auto/{count}: {name}={index}, and the last of {count} shards is {count - 1}; number tasks from 0")
        return Shard(index, count)
    return readers[name](env)


def _slurm(env: Mapping[str, str]) -> Shard:
    """Tasks numbered from MIN to MAX in steps."""
    task, count = _number(env, "SLURM_ARRAY_TASK_ID"), _number(env, "SLURM_ARRAY_TASK_COUNT")
    first = _number(env, "SLURM_ARRAY_TASK_MIN") if env.get("SLURM_ARRAY_TASK_MIN") else 0
    step = max(1, _number(env, "SLURM_ARRAY_TASK_STEP")) if env.get("SLURM_ARRAY_TASK_STEP") else 1
    last = _number(env, "SLURM_ARRAY_TASK_MAX") if env.get("SLURM_ARRAY_TASK_MAX") else first + step * (count - 1)
    index, rest = divmod(task - first, step)
    if rest or not 0 <= index < count or first + step * (count - 1) != last:
        raise ConfigError(
            f"auto: task {task} of a Slurm array of {count} from {first} to {last} has no place in an even row of them; "
            "number the array 0-63, and say auto/64 to run some of its tasks again"
        )
    return Shard(index, count)


def _kubernetes(env: Mapping[str, str]) -> Shard:
    if not env.get("JOB_COMPLETIONS"):
        raise ConfigError(
            "auto: Kubernetes gives a pod its index (JOB_COMPLETION_INDEX) and not their number; say auto/N with the Job's completions, "
            "or set JOB_COMPLETIONS in the pod"
        )
    return _checked(_number(env, "JOB_COMPLETION_INDEX"), _number(env, "JOB_COMPLETIONS"), "JOB_COMPLETION_INDEX")


def _mpi(env: Mapping[str, str]) -> Shard:
    return _checked(_number(env, "OMPI_COMM_WORLD_RANK"), _number(env, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_RANK")


def _checked(index: int, count: int, name: str) -> Shard:
    if index >= count:
        raise ConfigError(f"auto: {name}={index}, and there are {count}; tasks are numbered from 0")
    return Shard(index, count)


def _number(env: Mapping[str, str], name: str) -> int:
    value = env.get(name, "")
    if not _is_number(value):
        raise ConfigError(f"auto: {name} is {value!r}, which is no number" if value else f"auto: {name} is not set; say I/N")
    return int(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None
