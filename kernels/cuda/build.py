"""Identity of the kernels (other versions of compilers, and other sources, may round differently), and what launching them needs."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sysconfig
from pathlib import Path

import triton


@functools.cache
def digest() -> str:
    """Triton's version, and a hash of this folder's sources."""
    hasher = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
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
