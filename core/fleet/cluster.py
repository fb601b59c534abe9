"""A Ray cluster: the way in, and what a replica takes of it. Ray is imported where it is used."""

from __future__ import annotations

import logging
import platform
import signal
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import ConfigError
from ..settings.config import EngineConfig

#: Seconds that a cluster may take to accept a connection.
_PATIENCE = 10.0


def connect(address: str) -> tuple[Any, bool]:
    """The module `ray`, connected, and whether that was done here: a program that is connected already stays so. Raises ConfigError."""
    try:
        import ray
    except ImportError:
        raise ConfigError("executor=ray needs Ray, which is not installed: pip install 'infer-jsonl[ray]' here and on every node") from None
    if ray.is_initialized():
        return ray, False
    _knock(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, AssertionError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _unreachable(address, first) from None
    finally:
        for number, handler in handlers.items():  # Ray takes SIGTERM, which is this program's to answer
            try:
                signal.signal(number, handler)
            except (ValueError, TypeError):  # not in the main thread, where Ray took none
                break
    return ray, True


def _knock(address: str) -> None:
    """Raises ConfigError where nothing listens at host:port: Ray itself would try again for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "//" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None


def _unreachable(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"ray_address={address}: there is no Ray cluster that can be reached ({why}); "
        "start one with `ray start --head`, and give its address"
    )


def resources_of(config: EngineConfig, nodes: list[Mapping[str, float]]) -> dict[str, float]:
    """What one replica takes: `resources`, or as many GPUs as it has ranks, or its share of the cluster's CPUs.

    Args:
        nodes: the resources of each node.

    Raises ConfigError where settings contradict each other.
    """
    ranks = config.num_ranks
    wanted = {name: float(count) for name, count in config.resources.items()}
    if config.device != "cpu" and wanted.setdefault("GPU", ranks) < ranks:
        raise ConfigError(f"resources: each replica has {ranks} ranks, which take {ranks} GPUs, not {wanted['GPU']:g}")
    if config.device == "cpu" and not config.resources:
        cpus = [one.get("CPU", 0.0) for one in nodes]
        share = min(sum(cpus) // config.data_parallel_size, max(cpus, default=1.0))
        wanted["CPU"] = float(config.threads if config.threads_given else max(1.0, share))
    return wanted


def lacking(nodes: list[Mapping[str, float]], wanted: Mapping[str, float]) -> str:
    """That no node has as much as a replica takes, or ""."""
    if any(capacity_of(one, wanted) for one in nodes):
        return ""
    most = {name: max((one.get(name, 0.0) for one in nodes), default=0.0) for name in wanted}
    return f"no node of the cluster has {shown(wanted)} for a replica; the most that one has is {shown(most)}"


def capacity_of(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """The replicas that a node has room for when it is empty."""
    return int(min((node.get(name, 0.0) // count for name, count in wanted.items() if count), default=1))


def shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:g}" for name, count in resources.items())


def versions(*, media: bool = False) -> dict[str, str | None]:
    """What makes the bytes of rows, of prompts with media too where there may be some, and must be the same on all nodes."""
    found: dict[str, str | None] = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("infer-jsonl", "torch", *(("transformers", "pillow") if media else ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
