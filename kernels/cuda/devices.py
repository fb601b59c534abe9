"""The device that kernels are launched on: Triton takes the thread's current one, which need not be that of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def on_its_device(operation: Callable[..., Result]) -> Callable[..., Result]:
    """The operation, with the device of its first argument (a tensor, or a tuple that begins with one) as the current one meanwhile.

    Operations on something else launch nothing.
    """

    @wraps(operation)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        first = args[0] if args else None
        device = getattr(first[0] if isinstance(first, tuple) else first, "device", None)
        if device is None or device.type != "cuda" or device.index == torch.cuda.current_device():
            return operation(*args, **kwargs)
        with torch.cuda.device(device):
            return operation(*args, **kwargs)

    return wrapper
