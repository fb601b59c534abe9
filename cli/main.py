"""The `infer` program: what happens from its start to its exit code.

Signals are taken, the standard streams put in order and the current folder left out of what is imported before anything else:
little is imported here, and the commands only then.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from infer.core.parallel.children import leave_current_folder

from .signals import Signals

if TYPE_CHECKING:
    import click


def run(argv: list[str] | None = None) -> NoReturn:
    """The console entry. Never returns and never shows a traceback unless asked to."""
    signals = Signals()
    try:
        signals.take()
        leave_current_folder()
        code = _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt as error:
        code = _say("interrupted", getattr(error, "exit_code", 130))
    signals.over()
    sys.exit(code)


#: What the system says of files that are written.
_OF_OUTPUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def _run(argv: list[str]) -> int:
    from infer.core.settings.threads import bound_spinning

    from .terminal import streams

    state: dict[str, Any] = {}
    bound_spinning()
    streams.claim()
    try:
        code = _call(argv, state)
        streams.flush()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and streams.reader_gone():
            _die_of_broken_pipe()
        code = _report(error, verbose=bool(state.get("verbose")))
    return code


def _call(argv: list[str], state: dict[str, Any]) -> int:
    """click's main(), without its own treatment of broken pipes (exit 1) and Ctrl-C."""
    from click.exceptions import Exit

    from .commands import infer

    if instruction := os.environ.get("_INFER_COMPLETE"):
        from .tools.completion import answer

        return answer(instruction)
    try:
        with infer.make_context("infer", argv, obj=state) as ctx:
            _refuse_lost_folder()
            result = infer.invoke(ctx)
    except Exit as error:
        return error.exit_code
    return result if isinstance(result, int) else 0


def _refuse_lost_folder() -> None:
    """A library of torch finds its own files by way of the current folder, and ends the process where there is none."""
    from pathlib import Path

    from infer.core.errors import ConfigError

    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(f"the current folder is not there any more ({error.strerror}); cd to one that is") from None


def _report(error: Exception, *, verbose: bool) -> int:
    """Says what went wrong, in one message on stderr, and returns the exit code."""
    import click

    from infer.core.errors import InferError
    from infer.core.settings.memory import how_memory_lacks, lacks_memory

    from .terminal import messages

    if isinstance(error, click.ClickException):
        return _say(error.format_message() if messages.is_json() else _shown(error), error.exit_code)
    if isinstance(error, click.Abort):
        return _say("interrupted", 130)
    if isinstance(error, InferError):
        return _say(str(error), error.exit_code, label="Error: ")
    if verbose or os.environ.get("INFER_DEBUG", "0") not in ("", "0"):
        import traceback

        messages.say("".join(traceback.format_exception(error)).rstrip(), event="log", level="error")
    if lacks_memory(error):
        return _say(how_memory_lacks(), 1, label="Error: ")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename!r}: " if error.filename is not None else ""
        return _say(f"{where}{error.strerror}", 74 if error.errno in _OF_OUTPUT else 1, label="Error: ")
    hint = "" if verbose else " (INFER_DEBUG=1 shows where)"
    return _say(f"internal error: {type(error).__name__}: {error}{hint}", 1, label="Error: ")


def _say(text: str, exit_code: int, *, label: str = "") -> int:
    from .terminal import messages

    messages.say(text, event="error", level="error", label=label, exit_code=exit_code)
    return exit_code


def _shown(error: click.ClickException) -> str:
    """click's message, with the usage."""
    text = io.StringIO()
    error.show(text)
    return text.getvalue().removesuffix("\n")


def _die_of_broken_pipe() -> NoReturn:
    """The reader of our output went away: not an error. Dies of SIGPIPE, as other programs in a pipe do; what is still
    buffered is dropped with the process."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(141)
