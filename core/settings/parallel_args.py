"""The settings of ranks and replicas, as part of `EngineArgs`, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from .setting import setting

#: Engines that may be lost in a run where nothing is said, for each there is.
_RESTARTS = 10

_parallel = partial(setting, group="parallel")


@dataclass(kw_only=True)
class ParallelArgs:
    """See `EngineArgs`."""

    tensor_parallel_size: int = _parallel(1, "Ranks (processes, each with its GPU) that share each layer.", low=1)
    enable_expert_parallel: bool = _parallel(
        False, "Give each rank of tensor_parallel_size some of a mixture's experts whole; else ranks share each expert."
    )
    data_parallel_size: int = _parallel(1, "Engines (processes, each with its GPUs) that share the input.", low=1)
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
        None, "How ranks are run.", choices=("uni",), later=("mp", "ray", "external_launcher")
    )
    disable_custom_all_reduce: bool = _parallel(False, "No effect so far: NCCL's all-reduce is the only one.", no_effect=("cpu", "cuda"))


class _Args(Protocol):
    data_parallel_size: int
    max_restarts: int | None


def choose_parallel(args: _Args) -> dict[str, Any]:
    """Fields of `EngineConfig`. Raises ConfigError where settings contradict each other."""
    count = args.data_parallel_size
    return {
        "max_restarts": args.max_restarts if args.max_restarts is not None else _RESTARTS * count,
    }
