"""Child processes in Python: they import from where this process does, never from the folder of the call."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What a terminal sends to every process on it, and what ends a job: the parent's to answer.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def python_module(name: str) -> list[str]:
    """The words that run a module as `python -m` does, but for the current folder, which that would import from first.

    The child keeps the folder itself: names in settings and in the environment may be relative to it.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", name]
    run = f"import sys; del sys.path[0]; import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", run]


def environment(**more: str) -> dict[str, str]:
    """This process's, with `more`, for children: modules and programs are searched for in absolute folders alone (an empty entry,
    as in `:/opt/lib`, means the current one)."""
    found = {**os.environ, "PYTHONSAFEPATH": "1", **more}
    for name in ("PYTHONPATH", "PATH"):
        entries = [entry for entry in found.pop(name, "").split(os.pathsep) if Path(entry).is_absolute()]
        if entries:
            found[name] = os.pathsep.join(entries)
    return found


def leave_current_folder() -> None:
    """Imports and runs nothing from the current folder any more, nor does any child: for programs, before they import much.

    Python took it up from a relative entry of PYTHONPATH. (What `python -m` puts first is for the module so run to take away.)
    """
    given = os.environ.get("PYTHONPATH")  # empty is as good as none
    for entry in given.split(os.pathsep) if given else []:
        if not Path(entry).is_absolute() and (path := os.path.abspath(entry)) in sys.path:  # noqa: PTH100 (as Python's `site` does)
            sys.path.remove(path)
    safe = environment()
    for name in os.environ.keys() - safe.keys():
        del os.environ[name]
    os.environ.update(safe)


@contextmanager
def signals_kept_off() -> Iterator[None]:
    """A process started within it does not get STOPS until it unblocks them itself, however early they come."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Such a process's own part: it ends with its parent, not by STOPS."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
