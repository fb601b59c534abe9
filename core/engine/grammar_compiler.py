"""From a constraint to a grammar for one vocabulary, by xgrammar, which is imported when the first one comes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..text.grammar import MAX_WHITESPACE, GrammarSource
from .grammar_state import CompiledGrammar

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer

#: How the library writes one character of a string whose characters a schema counts, and what it should be. (Escapes would be right
#: too, but a choice within a counted repetition makes every step a thousand times slower.)
_COUNTED = r"[^\"\\\r\n]"
_CHARACTER = r"[^\0-\x1f\"\\\ud800-\udfff]"
_PARAM = "structured_outputs"


class GrammarCompiler:
    """xgrammar, fitted to a tokenizer. Used by one thread at a time, or by one for each grammar that is over its time."""

    def __init__(self, tokenizer: Tokenizer | None, end_ids: Iterable[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = sorted(i for i in end_ids if 0 <= i < vocab_size)
        self._vocabulary: tuple[Any, frozenset[int]] | None = None

    def compile(self, source: GrammarSource) -> CompiledGrammar:
        """Raises RecordError, and what the library raises."""
        info, silent = self._for(source)
        try:
            inner = self._compiled(info, source, sharing=True)
        except Exception:  # sharing parts fails for some grammars that are all right
            inner = self._compiled(info, source, sharing=False)
        grammar = CompiledGrammar(inner, self._end_ids, self._vocab_size, silent)
        if grammar.state().is_dead:
            raise RecordError("grammar_error", "structured_outputs: no text satisfies it", param=_PARAM)
        return grammar

    def _compiled(self, info: Any, source: GrammarSource, *, sharing: bool) -> Any:
        """With a compiler of its own, so that what one record asks for cannot reach another.

        Args:
            sharing: equal parts of the grammar are compiled once.
        """
        import xgrammar

        # One thread: the cores are the model's.
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=sharing)
        if source.language == "json_schema":
            return compiler.compile_grammar(_json_grammar(source))
        compilers: dict[str, Any] = {
            "regex": compiler.compile_regex,
            "ebnf": compiler.compile_grammar,
            "lark": compiler.compile_lark,
            "structural_tag": compiler.compile_structural_tag,
        }
        return compilers[source.language](source.text)

    def _for(self, source: GrammarSource) -> tuple[Any, frozenset[int]]:
        """The vocabulary for a source, and the tokens without a text there.

        Special tokens have none, so no grammar allows them: they would be left out of the text, which then would not be what the
        grammar allowed. A structural tag that spells some asks for just these, and gets a vocabulary of its own.
        """
        if self._tokenizer is None:
            raise _unsupported("it needs a tokenizer, and there is none (skip_tokenizer_init)")
        pieces = self._tokenizer.pieces(False)
        if pieces is None:
            raise _unsupported("it is not there for this kind of tokenizer, whose tokens have no bytes of their own")
        try:
            import xgrammar
        except ImportError as error:
            raise _unsupported(f'it needs xgrammar: pip install "infer-jsonl[structured]" ({error})') from None
        named: set[int] = set()
        if source.language == "structural_tag":
            named = {i for i in self._tokenizer.special_ids if (text := pieces[i].decode("utf-8", "replace")) and text in source.text}
        if self._vocabulary is not None and not named:
            return self._vocabulary
        hidden = self._tokenizer.special_ids - named
        spelled = [b"" if i in hidden else pieces[i] for i in range(self._vocab_size)]
        info = xgrammar.TokenizerInfo(spelled, xgrammar.VocabType.RAW, vocab_size=self._vocab_size, stop_token_ids=self._end_ids)
        vocabulary = info, frozenset(i for i, piece in enumerate(spelled) if not piece) - set(self._end_ids)
        if not named:
            self._vocabulary = vocabulary
        return vocabulary


def _json_grammar(source: GrammarSource) -> Any:
    """The library's grammar of a JSON schema. Where a schema counts characters, it lets control characters into the string, which
    is then no JSON, and surrogates, which are no text; its class for a character is replaced, in the grammar's text."""
    import xgrammar

    spaces = MAX_WHITESPACE if source.any_whitespace else None
    grammar = xgrammar.Grammar.from_json_schema(source.text, any_whitespace=source.any_whitespace, max_whitespace_cnt=spaces)
    if '"minLength"' not in source.text and '"maxLength"' not in source.text:
        return grammar
    return xgrammar.Grammar.from_ebnf(str(grammar).replace(_COUNTED, _CHARACTER))


def _unsupported(message: str) -> RecordError:
    return RecordError("unsupported", f"structured_outputs: {message}", param=_PARAM)
