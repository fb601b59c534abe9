"""Structured output: constraints become grammars when their sequences are first scheduled, and a grammar says which tokens may come next.

llguidance does the work: it compiles in milliseconds what the engine may then wait for, and bounds its own work by counting it. What
it would recurse into deeply (a chain of a thousand definitions) it compiles on a stack that is deep enough for all that fits
`source`'s bounds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RecordError
from ...types.structured import StructuredOutputsParams

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer
    from .source import GrammarSource

#: Compiled grammars that are kept, by number and by the characters they are made of: some 100 to 300 bytes of memory for each.
MAX_ENTRIES = 1_000
MAX_CACHED = 2**20
#: Sources up to this size cannot lead deep enough to need more stack than a thread has.
_SHALLOW = 8 * 1024
_STACK = 512 * 2**20
#: Of the library, in counted work: rows of its parser are wide where many properties may come next.
_LIMITS = {"max_items_in_row": 16_000, "step_max_items": 200_000}
_NO_TEXT = "no text satisfies it"
#: Most characters of the library's messages, which may quote the whole constraint.
_MAX_MESSAGE = 500

_PARAM = "structured_outputs"
#: Fields of a constraint that the engine's settings can switch on for all.
_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")
_stack_lock = threading.Lock()


class Grammars:
    """Compiles constraints for one tokenizer, and remembers some of what it compiled. Needs no model and no torch.

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
        max_entries: int = MAX_ENTRIES,
        max_cached: int = MAX_CACHED,
    ) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(i for i in end_ids if 0 <= i < vocab_size)
        self._vocab_size = vocab_size
        self._switched_on: dict[str, Any] = {name: True for name in _SWITCHES if settings and settings.get(name)}
        self._max_entries, self._max_cached = max_entries, max_cached
        self._vocabulary: Vocabulary | None = None
        self._known: OrderedDict[StructuredOutputsParams, CompiledGrammar] = OrderedDict()
        self._num_cached = 0

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an output."""
        return self._end_ids

    def compile(self, spec: StructuredOutputsParams) -> CompiledGrammar:
        """Raises RecordError: grammar_error for what cannot be compiled or has no text, unsupported for what cannot be enforced."""
        grammar = self._known.get(spec)
        if grammar is not None:
            self._known.move_to_end(spec)
            return grammar
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._tokenizer, self._end_ids, self._vocab_size)
        from .source import GrammarSource  # the readers of schemas, expressions and grammars come with it

        source = GrammarSource.of(replace(spec, **self._switched_on), self._vocabulary.specials)
        grammar = CompiledGrammar(source, self._vocabulary)
        self._known[spec] = grammar
        self._num_cached += source.size
        while len(self._known) > 1 and (len(self._known) > self._max_entries or self._num_cached > self._max_cached):
            _, oldest = self._known.popitem(last=False)
            self._num_cached -= oldest.source.size
        return grammar

    def text_of(self, ids: Iterable[int]) -> str:
        """The text that tokens spell in the middle of an output."""
        pieces = self._tokenizer.pieces(False) if self._tokenizer is not None else None
        assert pieces is not None, "nothing was compiled"
        return b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


class Vocabulary:
    """Tokens as the library sees them.

    Special tokens are no text: no grammar allows them, but where it names one. They would be left out of the text, which then would
    not be what the grammar allowed.

    Attributes:
        end_ids: tokens that end an output.
        specials: text of a special token -> its id; without those that end an output.
        silent: tokens without a text.
        num_tokens: of the model.
        tokens: the library's own object. It has one token more where nothing ends an output, which stands for the end.
        known, not_ending: one bit for each of the model's tokens, and for those that do not end an output, in as many words as the
            library fills.

    Raises RecordError (unsupported).
    """

    def __init__(self, tokenizer: Tokenizer | None, end_ids: frozenset[int], vocab_size: int) -> None:
        if tokenizer is None:
            raise _error("unsupported", "it needs a tokenizer, and there is none (skip_tokenizer_init)")
        pieces = tokenizer.pieces(False)
        if pieces is None:
            raise _error("unsupported", "it is not available for this kind of tokenizer, whose tokens have no bytes of their own")
        import llguidance

        self.end_ids = end_ids
        self.num_tokens = vocab_size
        spelled = [pieces[i] for i in range(vocab_size)]
        special = {i for i in tokenizer.special_ids if i < vocab_size} | end_ids
        self.specials = {text: i for i in sorted(special - end_ids) if (text := spelled[i].decode("utf-8", "replace"))}
        self.silent = frozenset(i for i, piece in enumerate(spelled) if not piece)
        ends = sorted(end_ids)
        if not ends:
            spelled, ends = [*spelled, b""], [vocab_size]
            special.add(vocab_size)
        self.known = _bits(range(vocab_size), len(spelled))
        self.not_ending = self.known & ~_bits(ends, len(spelled))
        wrapper = llguidance.TokenizerWrapper(_Spelled(spelled, sorted(special), ends[0]))
        self.tokens = llguidance.LLTokenizer(wrapper, eos_token=ends)


class _Spelled:
    """A tokenizer as the library wants it. It is told never to force tokens, so it never asks for the tokens of a text."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special_token_ids, eos_token_id

    def __call__(self, text: bytes) -> list[int]:
        return []


class CompiledGrammar:
    """A grammar for one vocabulary. The states made of it are independent of each other.

    Attributes:
        source: what it was compiled from.
        start: the library's matcher at the beginning of an output; never moved, only copied.

    Raises RecordError (grammar_error).
    """

    def __init__(self, source: GrammarSource, vocabulary: Vocabulary) -> None:
        self.source = source
        self.vocabulary = vocabulary
        made: list[Any] = []
        if source.size <= _SHALLOW:
            self._compile(made)
        else:
            with _stack_lock:  # the size is a setting of the process
                before = threading.stack_size(_STACK)
                try:
                    thread = threading.Thread(target=self._compile, args=(made,), name="grammar", daemon=True)
                    thread.start()
                except (RuntimeError, MemoryError):
                    raise _error("grammar_error", "there is not enough memory to compile it", retryable=True) from None
                finally:
                    threading.stack_size(before)
            thread.join()
        self.start, message = made
        if message:
            raise failure_of(message)

    def matches(self, text: str) -> bool:
        """True if a whole text is one of the grammar's, special tokens left out of account."""
        import llguidance

        state = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), self.source.text, log_level=0)
        return bool(state.consume_tokens(list(text.encode())) and state.is_accepting())

    def _compile(self, made: list[Any]) -> None:
        """Appends the matcher and why it cannot be used, if it cannot: no grammar, or no token may come first."""
        import llguidance

        try:
            limits = llguidance.LLParserLimits(verbose_errors=False, **_LIMITS)
            start = llguidance.LLMatcher(self.vocabulary.tokens, self.source.text, log_level=0, limits=limits)
            message = start.get_error()
            if not message:
                first = start.deep_copy()
                allowed = first.compute_bitmask()
                message = first.get_error() or ("" if any(allowed) else _NO_TEXT)
        except BaseException as error:  # the library's own kinds, too; none may end a run
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            start, message = None, f"the grammar library failed ({type(error).__name__})"
        made += [start, message]


def failure_of(message: str) -> RecordError:
    """The error of a record whose grammar cannot be used, or no longer."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "it cannot be followed")
    return _error("grammar_error", _NO_TEXT if line.startswith("NoExtension") else line[:_MAX_MESSAGE])


def _bits(tokens: Iterable[int], num_tokens: int) -> NDArray[np.int32]:
    flags = np.zeros(-(-num_tokens // 32) * 32, dtype=bool)
    flags[list(tokens)] = True
    return np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)


def _error(code: str, message: str, *, retryable: bool = False) -> RecordError:
    return RecordError(code, f"{_PARAM}: {message}", param=_PARAM, retryable=retryable)
