"""The worker process of a rank or replica: `python -m infer.core.parallel.worker FD`.

It belongs to its parent alone: keyboard and terminal signals are the parent's to answer, stdout is not its to write to, and it
ends when the parent does, however that ends. The caller's main module is never imported, so a script needs no `__main__` guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import InferError
from .children import ignore_signals
from .wire import Closed, Wire

_PR_SET_PDEATHSIG = 1


class Entry(Protocol):
    """A module that can be served from: the first frame names it."""

    def serve(self, wire: Wire, payload: Mapping[str, Any]) -> None:
        """Answers the parent until it closes the wire (Closed)."""


def main() -> int:
    ignore_signals()
    os.dup2(2, 1)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    try:
        hello = wire.receive_json()
        _die_with(hello["parent"])
        logging.basicConfig(level=hello["log_level"], format=f"{hello['name']}: %(message)s")
        entry: Entry = importlib.import_module(hello["entry"])
        entry.serve(wire, hello["payload"])
    except Closed:
        return 0
    except Exception as error:
        if not isinstance(error, InferError) and hello["log_level"] <= logging.DEBUG:
            logging.getLogger("infer").exception("failed")
        with contextlib.suppress(Closed, TimeoutError):
            wire.send_json(frame_of(error), timeout=1.0)
        return 1
    return 0


def frame_of(error: BaseException) -> dict[str, str]:
    """The frame that tells the parent of an error, which `ranks.checked` raises there."""
    if isinstance(error, InferError):
        return {"error": str(error), "kind": type(error).__name__}
    return {"error": f"{type(error).__name__}: {error}", "kind": "EngineError"}


def _die_with(parent: int) -> None:
    """Ends this process when the parent dies, even where it is stuck in a computation and does not look at the wire."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        raise Closed("the parent is gone")


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of torch.distributed may still wait for ranks that are gone
