"""The standard streams: standard output carries data and nothing else.

    claim()      once, at the start of the program: the real stdout moves to a private descriptor and descriptor 1
                 points to stderr, because native libraries print
    guarded()    around a command's body: Python's print() goes to stderr too
    stdout()     the private binary stream, for data

Under click's CliRunner nothing is claimed and stdout() is the runner's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from infer.core.errors import ConfigError, OutputError
from infer.core.parallel import descriptors

_data: BinaryIO | None = None
_closed: frozenset[int] = frozenset()
_guarded = False


class _Stdout(io.FileIO):
    """The descriptor that data goes to. What cannot be written is an OutputError, and then nothing more is tried."""

    _failed = False

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failed = True
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


class _NoStdout(io.TextIOBase):
    """In the place of `sys.stdout` where the program was started without one: help and version have nowhere to go."""

    def write(self, text: str) -> int:
        raise OutputError("standard output is closed")


def claim() -> None:
    """Moves the real stdout aside. `sys.stdout` stays connected to it, so that help and version reach it."""
    global _data, _closed  # noqa: PLW0603 (a process has one stdout)
    if _data is not None:
        return
    _closed = descriptors.open_missing()
    if 2 in _closed:  # libraries write to it unasked
        sys.stderr = os.fdopen(2, "w", closefd=False, errors="backslashreplace")
    if sys.stdout is not None:
        sys.stdout.flush()
        _data = io.BufferedWriter(_Stdout(os.dup(1), "wb"), 1 << 16)
        sys.stdout = io.TextIOWrapper(_data, encoding=sys.stdout.encoding, errors=sys.stdout.errors, write_through=True)
    else:
        sys.stdout = _NoStdout()
    os.dup2(2, 1)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within it, only stdout() reaches the real stdout."""
    global _data, _guarded  # noqa: PLW0603
    before = _data, _guarded
    with contextlib.suppress(OutputError):
        _data = stdout()
    _guarded = True
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _data, _guarded = before


def stdout() -> BinaryIO:
    """The real stdout, binary and buffered: flush it. Raises OutputError if the program was started without one."""
    if _data is not None:
        return _data
    if _guarded or sys.stdout is None or isinstance(sys.stdout, _NoStdout):
        raise OutputError("standard output is closed; give a file name for OUT")
    sys.stdout.flush()
    return sys.stdout.buffer


def flush() -> None:
    """Of what help and version wrote."""
    if sys.stdout is not None:  # None: the program was started without one
        sys.stdout.flush()


def require_input(name: str) -> None:
    """Raises ConfigError for a file that is stdin (or another of the three) if the program was started without it."""
    if _is_closed(name, dash=0):
        raise ConfigError(f"{'standard input' if name == '-' else name} is closed; give the name of a file to read")


def require_output(name: str) -> None:
    """Raises OutputError for a file that is stdout (or another of the three) if the program was started without it."""
    if _is_closed(name, dash=1):
        raise OutputError(f"{'standard output' if name == '-' else name} is closed; give a file name for OUT")


def _is_closed(name: str, *, dash: int) -> bool:
    return any(name in descriptors.NAMES[fd] or (name == "-" and fd == dash) for fd in _closed)


def write(text: str) -> None:
    """`text` as the command's data; on a terminal with control characters escaped, since it may quote the user's."""
    out = stdout()
    out.write((printable(text) if out.isatty() else text).encode(errors="surrogateescape"))
    out.flush()


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON of printable ASCII: nothing in it that a terminal acts on."""
    return json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f")  # the only such character dumps leaves


def reader_gone() -> bool:
    """True if nobody reads our stdout or stderr any more, as after `| head -1`."""
    fds = [2] if _data is None else [2, _data.fileno()]
    try:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll() here, or a stream that is no descriptor
        return True


def interactive() -> bool:
    """True if a person watches stderr on a terminal that can redraw a line."""
    return bool(sys.stderr and sys.stderr.isatty()) and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def colored() -> bool:
    """True if stderr may carry colours (see no-color.org)."""
    return interactive() and not os.environ.get("NO_COLOR")


def printable(text: Any) -> str:
    """`text` with control characters escaped: messages may quote data, and a terminal obeys it."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))
