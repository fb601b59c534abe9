"""The settings of ranks and replicas, as part of `EngineArgs`, and what they mean together."""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..errors import ConfigError
from .config import Caution
from .setting import setting

#: Engines that may be lost in a run where nothing is said, for each there is.
_RESTARTS = 10


def ray_resources(value: dict[str, Any]) -> str:
    """The fault of `resources` in words that follow its name, or ""."""
    for name, count in value.items():
        if isinstance(count, bool) or not isinstance(count, (int, float)) or not 0 <= count < 1e15:
            return f"{name} must be a number of at least 0, not {count!r}"
        for known in ("CPU", "GPU", "memory"):
            if name != known and name.lower().rstrip("s") == known.lower():
                return f"has no {name!r}; did you mean {known!r}?"
    return ""


_parallel = partial(setting, group="parallel")


@dataclass(kw_only=True)
class ParallelArgs:
    """See `EngineArgs`."""

    tensor_parallel_size: int = _parallel(1, "Ranks (processes, each with its GPU) that share each layer.", low=1)
    pipeline_parallel_size: int = _parallel(
        1,
        "Stages that the layers are cut into, each with the ranks of tensor_parallel_size: as many batches are on their way at a time.",
        low=1,
    )
    enable_expert_parallel: bool = _parallel(
        False, "Give each rank of tensor_parallel_size some of a mixture's experts whole; else ranks share each expert."
    )
    pin_threads: bool = _parallel(
        False,
        "Keep each thread that computes on a core of its own, those of an engine near each other in memory. For machines that nobody else "
        "uses: a thread that shares its core with others' work cannot move away from it.",
        no_effect=("cuda",),
    )
    data_parallel_size: int = _parallel(1, "Engines (processes, each with its GPUs) that share the input.", low=1)
    replicas: int | None = _parallel(None, "The same as data_parallel_size.", low=1)
    executor: str = _parallel(
        "processes",
        "Where these engines run: processes of this machine, or ray: actors of a Ray cluster (infer help clusters).",
        choices=("processes", "ray"),
    )
    ray_address: str = _parallel("auto", "Address of the Ray cluster; auto: the one of this machine, or of RAY_ADDRESS.")
    resources: dict[str, Any] | None = _parallel(
        None,
        'JSON with what each engine takes of a node of the Ray cluster, such as {"GPU": 1}; default: a GPU for each rank, or its share of '
        "the cluster's CPUs.",
        rule=ray_resources,
    )
    ship_model: bool = _parallel(False, "Send the model's files to the nodes of the Ray cluster, each of which keeps them.")
    max_restarts: int | None = _parallel(
        None,
        "Engines that are replaced in a run when they are lost (killed, out of memory, their machine gone), until it is given up; "
        f"default: {_RESTARTS} for each of several engines. 0: the first one that is lost ends the run.",
        low=0,
    )
    stall_timeout: float = _parallel(
        300.0, "Seconds that a rank or engine may keep others waiting before it is given up.", low=0, open_low=True
    )
    distributed_executor_backend: str | None = _parallel(
        None,
        "How engines are run, as vLLM calls it: mp is executor=processes, ray is executor=ray.",
        choices=("uni", "mp", "ray"),
        later=("external_launcher",),
    )
    disable_custom_all_reduce: bool = _parallel(
        False,
        "Ranks on a CPU exchange over sockets (gloo) and not through memory they share, which is faster and gives the same bytes. GPUs "
        "exchange through NCCL in any case.",
        no_effect=("cuda", "pooling"),
    )


class _Args(Protocol):
    data_parallel_size: int
    replicas: int | None
    executor: str
    ray_address: str
    resources: dict[str, Any] | None
    ship_model: bool
    distributed_executor_backend: str | None
    max_restarts: int | None


def choose_parallel(args: _Args, notes: list[str]) -> dict[str, Any]:
    """Fields of `EngineConfig`. Raises ConfigError where settings contradict each other."""
    count, executor = args.replicas or args.data_parallel_size, args.executor
    if args.replicas and args.data_parallel_size not in (1, args.replicas):
        raise ConfigError(f"replicas={args.replicas} and data_parallel_size={args.data_parallel_size} contradict each other; give one")
    backend = args.distributed_executor_backend
    if backend == "ray":
        executor = "ray"
    elif executor == "ray" and backend is not None:
        raise ConfigError(f"executor=ray and distributed_executor_backend={backend} contradict each other; give one")
    if executor != "ray":
        for name, given in (("ray_address", args.ray_address != "auto"), ("resources", args.resources), ("ship_model", args.ship_model)):
            if given:
                notes.append(Caution(f"{name} has no effect without executor=ray"))
    return {
        "data_parallel_size": count,
        "executor": executor,
        "resources": dict(args.resources or {}),
        "max_restarts": args.max_restarts if args.max_restarts is not None else _RESTARTS * count,
    }
