"""Structured output: constraints become grammars beside the engine's steps, and a grammar says which tokens may come next.

xgrammar does the work, and is imported when the first constraint comes (with transformers behind it, some seconds): all that is
slow happens in a thread of its own, which leaves the interpreter's lock while it compiles. A compilation cannot be stopped from
outside. Sizes and depths are bounded before it starts (`text/grammar`); one that outlasts the time limit all the same is left to
itself, its record fails and may be tried again, and a fresh thread goes on with the next. Only so many threads are ever left.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..structured import StructuredOutputsParams
from ..text.grammar import GrammarSource
from .grammar_compiler import GrammarCompiler
from .grammar_state import CompiledGrammar

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: Seconds for one compilation.
TIME_LIMIT = 60.0
#: Compiled grammars that are kept, by number and by memory.
MAX_ENTRIES = 1_000
MAX_CACHE_BYTES = 256 * 2**20
#: Threads left to compilations over their time.
MAX_LOST = 4
#: Most characters of the library's messages, which may quote the whole constraint.
_MAX_MESSAGE = 500

_PARAM = "structured_outputs"
#: Fields of a constraint that the engine's settings can switch on for all.
_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")
#: How the library begins a message: time and source line, which are nobody's business and would differ from run to run.
_ORIGIN = re.compile(r"^(\[\d\d:\d\d:\d\d\]\s*)?(\S+\.(cc|h):\d+:\s*)?(Check failed: .* is false:\s*)?", re.MULTILINE)


class Grammars:
    """Compiles constraints for one tokenizer, and remembers what it compiled.

    Args:
        tokenizer: spells the tokens; None (and one whose tokens have no bytes of their own) cannot have structured output.
        end_ids: tokens that end an output; a grammar allows them where its text is complete.
        vocab_size: tokens of the model, which may be more than the tokenizer has.
        settings: the engine's `structured_outputs_config`; what it switches on holds for every constraint.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        end_ids: Iterable[int],
        vocab_size: int,
        *,
        settings: Mapping[str, Any] | None = None,
        time_limit: float = TIME_LIMIT,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_CACHE_BYTES,
        max_lost: int = MAX_LOST,
    ) -> None:
        self._compiler = GrammarCompiler(tokenizer, end_ids, vocab_size)
        self._switched_on: dict[str, Any] = {name: True for name in _SWITCHES if settings and settings.get(name)}
        self._time_limit = time_limit
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._pool = _Pool(self._compiler, time_limit, max_lost)
        self._known: OrderedDict[StructuredOutputsParams, Compiling] = OrderedDict()
        self._by_key: OrderedDict[str, Compiling] = OrderedDict()

    def begin(self, spec: StructuredOutputsParams) -> Compiling:
        """Starts a compilation, or finds one of the same content; never waits and never raises."""
        compiling = self._known.get(spec)  # to look a constraint up is far cheaper than to read it
        if compiling is None:
            compiling = self._begin(spec)
            self._known[spec] = compiling
            while len(self._known) > self._max_entries:
                self._known.popitem(last=False)
        if compiling.key in self._by_key:
            self._by_key.move_to_end(compiling.key)
        return compiling

    def _begin(self, spec: StructuredOutputsParams) -> Compiling:
        try:
            source = GrammarSource.of(replace(spec, **self._switched_on))
        except RecordError as error:
            return Compiling.failed(error, self._pool)
        compiling = self._by_key.get(source.key)
        if compiling is None:
            compiling = self._by_key[source.key] = Compiling(source, self._pool)
            self._forget()
            self._pool.put(compiling)
        return compiling

    def _forget(self) -> None:
        """Drops what was longest unused and is done, down to the bounds."""
        total = sum(c.num_bytes for c in self._by_key.values())
        for key, compiling in list(self._by_key.items()):
            if len(self._by_key) <= self._max_entries and total <= self._max_bytes:
                break
            if compiling.done():
                total -= compiling.num_bytes
                compiling.forgotten = True
                del self._by_key[key]
        self._known = OrderedDict((spec, c) for spec, c in self._known.items() if not c.forgotten)


class Compiling:
    """One constraint on its way to a grammar; requests with equal constraints share it."""

    def __init__(self, source: GrammarSource | None, pool: _Pool) -> None:
        self.source = source
        self.key = "" if source is None else source.key
        self.queued = time.monotonic()
        self.started: float | None = None
        self.num_bytes = 0
        self.forgotten = False
        """No longer in the cache; whoever holds it may still use it."""
        self._pool = pool
        self._ready = threading.Event()
        self._grammar: CompiledGrammar | None = None
        self._error: RecordError | None = None

    @classmethod
    def failed(cls, error: RecordError, pool: _Pool) -> Compiling:
        """One that is over before it began."""
        compiling = cls(None, pool)
        compiling.settle(error)
        return compiling

    def done(self) -> bool:
        """Whether there is a result, which may be that its time ran out."""
        if not self._ready.is_set():
            self._pool.check_time()
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for a result, at most `timeout` seconds; returns `done()`."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = 1.0 if end is None else end - time.monotonic()
            if left <= 0:
                return False
            self._ready.wait(min(left, max(0.01, self._pool.next_check())))
        return True

    def result(self) -> CompiledGrammar:
        """The grammar, once it is done. Raises RecordError: grammar_error (retryable if its time ran out), or unsupported."""
        assert self._ready.is_set(), "not compiled yet"
        if self._error is not None:
            error = self._error
            raise RecordError(error.code, error.message, param=error.param, retryable=error.retryable)
        assert self._grammar is not None
        return self._grammar

    def settle(self, result: CompiledGrammar | RecordError) -> None:
        """Sets the result. The pool's, which sees to it that there is one only."""
        if isinstance(result, RecordError):
            self._error = result
        else:
            self._grammar = result
            self.num_bytes = result.num_bytes
        self._ready.set()


class _Pool:
    """One thread at a time, as long as there is work, that compiles what is queued, oldest first. It is replaced when it is lost
    to a compilation over its time."""

    def __init__(self, compiler: GrammarCompiler, time_limit: float, max_lost: int) -> None:
        self._compiler = compiler
        self._time_limit = time_limit
        self._max_lost = max_lost
        self._lock = threading.Lock()
        self._queue: deque[Compiling] = deque()
        self._current: Compiling | None = None
        """What the worker compiles."""
        self._worker: threading.Thread | None = None
        self._num_lost = 0

    def put(self, compiling: Compiling) -> None:
        with self._lock:
            self._queue.append(compiling)
            self._start_worker()

    def next_check(self) -> float:
        """Seconds until a time limit may have passed."""
        with self._lock:
            first = self._current or (self._queue[0] if self._queue else None)
            since = None if first is None else first.started or first.queued
        return self._time_limit if since is None else since + self._time_limit - time.monotonic()

    def check_time(self) -> None:
        """Fails what is over its time, and what waits in vain because no more threads may be lost."""
        with self._lock:
            now = time.monotonic()
            current = self._current
            if current is not None and current.started is not None and now - current.started > self._time_limit:
                message = f"structured_outputs: not compiled within {self._time_limit:g} s"
                current.settle(RecordError("grammar_error", message, param=_PARAM, retryable=True))
                self._worker = self._current = None
                self._num_lost += 1
                self._start_worker()
            while self._worker is None and self._queue and now - self._queue[0].queued > self._time_limit:
                message = "structured_outputs: not compiled, since all compilers are busy with constraints over their time"
                self._queue.popleft().settle(RecordError("grammar_error", message, param=_PARAM, retryable=True))

    def _start_worker(self) -> None:
        if self._worker is None and self._queue and self._num_lost < self._max_lost:
            self._worker = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._worker.start()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if not self._queue:
                    self._worker = None
                    return
                compiling = self._current = self._queue.popleft()
                compiling.started = time.monotonic()
            result = self._compile(compiling)
            with self._lock:
                if self._worker is not me:  # too late: somebody else does my work, or could again now that I am back
                    self._num_lost -= 1
                    self._start_worker()
                    return
                self._current = None
                compiling.settle(result)

    def _compile(self, compiling: Compiling) -> CompiledGrammar | RecordError:
        assert compiling.source is not None
        try:
            return self._compiler.compile(compiling.source)
        except RecordError as error:
            return error
        except Exception as error:  # the library raises RuntimeError, ValueError and errors of its own; none may end a run
            lines = [line.strip() for line in _ORIGIN.sub("", str(error)).splitlines() if line.strip()]
            message = lines[0] if lines else f"the grammar library failed ({type(error).__name__})"
            return RecordError("grammar_error", f"structured_outputs: {message[:_MAX_MESSAGE]}", param=_PARAM)
