"""Renderer: a process with hard limits for templates whose cost cannot be counted (see `plain.py`).

What it may use of memory, stack and processor time ends it, not this process; it is then started anew for the next rendering.
Frames are eight bytes of length and that many of content: requests in `marshal`'s form, which only this process writes; answers a
letter and text.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
import subprocess
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any

from ...errors import EngineError
from ...parallel.children import environment, python_module, signals_kept_off
from . import budget
from .budget import LimitError

#: What a rendering may use. Counted limits come first: these are for what is not counted.
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
STACK_BYTES = 8 << 20
#: The same for whatever limit it met, since which one that is depends on the machine.
TOO_MUCH = f"more than {MEMORY_BYTES >> 30} GiB of memory, {CPU_SECONDS} s of processor time or nesting beyond all bounds"

LENGTH = struct.Struct("<q")
#: What an answer begins with: the text; a limit that it met; an error of the template.
TEXT, LIMIT, ERROR = b"T", b"L", b"E"


class Failed(Exception):
    """The template raised; the message says what, and begins with where."""


class NotPlainData(Exception):
    """Variables that cannot be given to another process."""


class Renderer:
    """The process; started when it is first needed. For any number of threads, one rendering at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, source: str, strict: bool, now: datetime | None, variables: Mapping[str, Any]) -> str:
        """The text of a template. Raises LimitError, Failed, NotPlainData; EngineError if no process can be started."""
        clock = None if now is None else now.isoformat()
        try:
            request = marshal.dumps((source, strict, clock, dict(variables), budget.MAX_STEPS, budget.MAX_HANDLED))
        except ValueError as error:
            raise NotPlainData(str(error)) from error
        with self._lock:
            answer = self._ask(request) or self._ask(request)  # one that was killed meanwhile is no fault of this rendering
        assert answer is not None, "a process just started was asked"
        kind, text = answer[:1], answer[1:].decode(errors="surrogatepass")
        if kind == TEXT:
            return text
        raise LimitError(text) if kind == LIMIT else Failed(text)

    def _ask(self, request: bytes) -> bytes | None:
        """The answer; None if there was a process before and it ended instead."""
        fresh = self._process is None or self._process.poll() is not None or self._owner != os.getpid()
        process = self._start() if fresh else self._process
        assert process is not None
        try:
            send(process.stdin, request)
            answer = receive(process.stdout)
        except BrokenPipeError:
            answer = None
        except BaseException:  # Ctrl-C: the next answer would be this one's
            self._end()
            raise
        if answer is None:
            self._end()
            return TEXT_STOPPED if fresh else None
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            with signals_kept_off():
                self._process = subprocess.Popen(
                    python_module("infer.core.text.templates.render_worker"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                )
        except OSError as error:
            raise EngineError(f"no process can be started to render templates: {error.strerror or error}") from None
        self._owner = os.getpid()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


TEXT_STOPPED = LIMIT + TOO_MUCH.encode()


def send(pipe: IO[bytes] | None, content: bytes) -> None:
    assert pipe is not None
    pipe.write(LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> bytes | None:
    """The next frame; None at the end."""
    assert pipe is not None
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    content = pipe.read(length)
    return content if len(content) == length else None


#: One for all templates.
renderer = Renderer()
