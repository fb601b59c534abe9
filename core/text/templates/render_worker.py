"""The process behind `renderer.py`: `python -m infer.core.text.templates.render_worker`.

It ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import time
from datetime import datetime
from functools import lru_cache

from ...parallel.children import ignore_signals
from . import budget
from .budget import LimitError
from .renderer import CPU_SECONDS, ERROR, LIMIT, MEMORY_BYTES, STACK_BYTES, TEXT, TEXT_STOPPED, receive, send
from .template import Template, described

try:
    import resource
except ImportError:  # no limits on this system but those that are counted
    resource = None  # type: ignore[assignment]


@lru_cache(maxsize=16)
def _template(source: str, strict: bool) -> Template:
    return Template(source, strict=strict)


def main() -> None:
    ignore_signals()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not answer
    if resource is not None:
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_STACK, STACK_BYTES)
        _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    while (request := receive(sys.stdin.buffer)) is not None:
        answer = _answer(request)
        send(answers, answer)
        if answer == TEXT_STOPPED:  # memory: start afresh
            return


def _answer(request: bytes) -> bytes:
    if resource is not None:
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + CPU_SECONDS)
    try:
        source, strict, now, variables, budget.MAX_STEPS, budget.MAX_HANDLED = marshal.loads(request)
        template = _template(source, strict) if now is None else _template(source, strict).at(datetime.fromisoformat(now))
        return TEXT + template.render_here(variables).encode(errors="surrogatepass")
    except LimitError as error:
        return LIMIT + str(error).encode(errors="surrogatepass")
    except MemoryError:
        return TEXT_STOPPED
    except Exception as error:
        return ERROR + described(error).encode(errors="surrogatepass")


def _limit(which: int, most: int) -> None:
    """Lowers a soft limit; one that is lower already stays."""
    soft, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    if which == resource.RLIMIT_CPU or soft == resource.RLIM_INFINITY or soft > most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (most, hard))


if __name__ == "__main__":
    main()
    os._exit(0)
