"""Kernels: tensors in, tensors out. Every operation a model needs, in one folder a backend.

`load(name)` gives a backend's `Ops`. Importing this file has no side effects and imports no torch: when the
repository's root is on `sys.path`, Hugging Face's optional package `kernels` would resolve to this folder, so
`__version__` is one that every "is kernels installed" check turns down.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ops import Ops

__version__ = "0.0.0"


def available() -> list[str]:
    """Names of the backends: the subfolders that are packages."""
    return sorted(p.parent.name for p in Path(__file__).parent.glob("*/__init__.py"))


def usable(device: str) -> list[str]:
    """Names of the backends that work on tensors of that kind of device ("cpu", "cuda"; a GPU of AMD is "cuda" to torch as well).

    A backend named for a kind of device is for that one; `reference` is for any. Whether there is such a device, and whether the
    backend can be built here, is another question.
    """
    return [name for name in available() if name in (device.partition(":")[0], "reference")]


def load(name: str) -> Ops:
    """A new instance of backend `name`. Raises ValueError naming the backends there are."""
    if name not in available():
        raise ValueError(f"unknown kernel backend {name!r}; available: {', '.join(available())}")
    # __name__ is `infer.kernels` when installed: the backend is always our own subpackage.
    ops: Ops = importlib.import_module(f"{__name__}.{name}").Ops()
    return ops


def set_threads(count: int, *, usual: bool = False) -> None:
    """Has the calling thread's operations on a CPU run in so many threads, itself included, those of a loaded backend and torch's.

    Any number of threads may call kernels at the same time, each with threads of its own. Results do not depend on it.
    With `usual` also those of all threads that call kernels and have said nothing.
    """
    import torch

    torch.set_num_threads(count)
    compiled = sys.modules.get(f"{__name__}.cpu.threads")
    if compiled is not None and sys.modules[f"{__name__}.cpu.library"].is_loaded():
        compiled.set_threads(count)
        if usual:
            compiled.set_usual_threads(count)


def place_workers(cpus: Sequence[int], *, usual: bool = False) -> None:
    """Pins the threads beside the calling one that its operations on a CPU run in, those of a loaded backend: to the CPUs behind the first,
    which is the calling thread's own place. None of them: the system puts them where it likes.

    With `usual` also those of all threads that call kernels and have said nothing.
    """
    compiled = sys.modules.get(f"{__name__}.cpu.threads")
    if compiled is not None and sys.modules[f"{__name__}.cpu.library"].is_loaded():
        compiled.place_workers(cpus, usual=usual)
