"""The ranks that share a model, as its layers see them.

Layers ask `current()` when they are built: nobody between them and whoever loads the model has to pass the group on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import EngineError


class Group:
    """One rank alone: every operation gives what it is given.

    Attributes:
        rank: this process's number; 0 is the one that schedules and samples.
        size: how many there are.
        whole_experts: each expert of a mixture is one rank's; else ranks share each.
    """

    rank = 0
    size = 1
    whole_experts = False

    def greet(self, device: torch.device) -> None:
        """One sum, which all ranks must take part in: backends connect only when they are first used, which must not be when a step is
        recorded, or when whoever was met with is gone. Raises EngineError."""
        try:
            met = int(self.all_reduce(torch.ones(1, device=device)).item())
        except (Lost, RuntimeError) as error:
            raise EngineError(f"the {self.size} ranks cannot meet: {str(error).splitlines()[0]}") from error
        if met != self.size:
            raise EngineError(f"the {self.size} ranks cannot meet: only {met} came")

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, on every rank. May use x's memory."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """The columns of all ranks' x [N, F] side by side, [N, size * F], on rank 0; elsewhere x."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's x, on every rank. The others' is of the same shape and dtype, and may be overwritten."""
        return x

    def abort(self) -> None:
        """Ends what waits for other ranks, from any thread; the group is of no use after that."""


class Lost(EngineError):
    """A rank is gone, or does not answer. Called `wire.LOST` between processes."""


class TorchGroup(Group):
    """Ranks connected by a backend of torch.distributed. It is nobody's default group: a process may be in several.

    Args:
        ordered: sum in the order of ranks, in float32: what a row gets then depends on the row alone. Ring reductions differ with
            the batch from three ranks up, since they cut the data into as many pieces as there are ranks.
    """

    def __init__(self, backend: Any, *, ordered: bool, whole_experts: bool = False) -> None:
        self.backend = backend
        self.whole_experts = whole_experts
        self.rank = backend.rank()
        self.size = backend.size()
        self._ordered = ordered

    def abort(self) -> None:
        self.backend.abort()

    def all_reduce(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        if not self._ordered:
            _wait(lambda: self.backend.allreduce([x]))
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        _wait(lambda: self.backend.allgather([[as_bytes(part) for part in parts]], [as_bytes(x)]))
        total = parts[0].float() if x.dtype != torch.float32 else parts[0]
        for part in parts[1:]:
            total += part
        return total.to(x.dtype)

    def gather(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)] if self.rank == 0 else []
        options = dist.GatherOptions()
        options.rootRank = 0
        _wait(lambda: self.backend.gather([[as_bytes(part) for part in parts]] if parts else [], [as_bytes(x)], options))
        return torch.cat(parts, dim=1) if parts else x

    def broadcast(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        options = dist.BroadcastOptions()
        options.rootRank = 0
        _wait(lambda: self.backend.broadcast([x], options))
        return x


def _wait(begin: Callable[[], Any]) -> None:
    try:
        begin().wait()
    except RuntimeError as error:  # what every backend raises when a peer is gone or time is up
        raise Lost(str(error).splitlines()[0]) from error


def as_bytes(x: Tensor) -> Tensor:
    """A tensor's memory as plain bytes, which every backend moves whatever the dtype."""
    return x.reshape(-1).view(torch.uint8)


#: torch's own watchers of NCCL would end this process, which is the caller's on rank 0: they are to end collectives alone, after which
#: waiting has an end and `Watch` says why.
_NCCL = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2", "TORCH_NCCL_ENABLE_MONITORING": "0"}


def join(
    folder: str,
    rank: int,
    size: int,
    *,
    device: torch.device,
    stall_timeout: float,
    deterministic: bool,
    whole_experts: bool = False,
    name: str = "ranks",
) -> TorchGroup:
    """Meets the other ranks through the file `name` in `folder`, which must stay as long as any of them. Raises EngineError where it
    cannot.

    On a CPU the exchange goes through this machine's loopback alone (GLOO_SOCKET_IFNAME), and always in the order of ranks.
    """
    timeout = timedelta(seconds=stall_timeout)
    cuda = device.type == "cuda"
    try:
        store = dist.FileStore(f"{folder}/{name}", size)
        store.set_timeout(timeout)
        if cuda:
            for variable, value in _NCCL.items():
                os.environ.setdefault(variable, value)
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = timeout
            backend: Any = dist.ProcessGroupNCCL(store, rank, size, options)
        else:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            backend = dist.ProcessGroupGloo(store, rank, size, timeout)
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"the {size} ranks cannot meet: {str(error).splitlines()[0]}") from error
    return TorchGroup(backend, ordered=deterministic or not cuda, whole_experts=whole_experts)


SINGLE = Group()
_current: ContextVar[Group] = ContextVar("group", default=SINGLE)


def current() -> Group:
    """The group that layers built now belong to."""
    return _current.get()


@contextmanager
def sharding(group: Group) -> Iterator[None]:
    """Layers built inside belong to `group`."""
    token = _current.set(group)
    try:
        yield
    finally:
        _current.reset(token)
