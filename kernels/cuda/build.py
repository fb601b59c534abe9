"""Identity of the kernels (other versions of compilers, and other sources, may round differently), and what launching them needs: C
compilers, and the right device. Triton takes the thread's current one, which need not be that of the tensors."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton

Result = TypeVar("Result")


@functools.cache
def digest() -> str:
    """Triton's version, and a hash of the sources in this folder and below."""
    hasher = hashlib.blake2b(digest_size=8)
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        hasher.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"triton-{triton.__version__}-{hasher.hexdigest()}"


def lacking() -> str:
    """Describes what Triton builds its launchers with and this machine lacks; an empty text if nothing is lacking.

    They are modules of C. Versions up to 3.6 compile one for each kernel; later ones have one for all, which may be in Triton's cache.
    """
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    missing = []
    if not any(map(shutil.which, compilers)):
        missing.append("a C compiler (gcc)")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append("Python's headers (python3-dev)")
    major, minor = map(int, triton.__version__.split(".")[:2])
    if not missing or ((major, minor) > (3, 6) and _has_launcher()):
        return ""
    return f"triton {triton.__version__} needs {' and '.join(missing)} to launch kernels; install {'it' if len(missing) == 1 else 'them'}"


def _has_launcher() -> bool:
    """True if the module is there already."""
    from triton.runtime import driver

    try:
        return driver.active.utils is not None
    except Exception:  # whatever it meets on the way to a compiler
        return False


def on_its_device(operation: Callable[..., Result]) -> Callable[..., Result]:
    """The operation, with the device of its first argument (a tensor, or a tuple that begins with one) as the current one meanwhile.

    Operations on something else launch nothing.
    """

    @functools.wraps(operation)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        first = args[0] if args else None
        device = getattr(first[0] if isinstance(first, tuple) else first, "device", None)
        if device is None or device.type != "cuda" or device.index == torch.cuda.current_device():
            return operation(*args, **kwargs)
        with torch.cuda.device(device):
            return operation(*args, **kwargs)

    return wrapper
