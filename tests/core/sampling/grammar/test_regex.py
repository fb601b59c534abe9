"""Regular expressions: the rewritten one matches what the given one matches, and what cannot be kept is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from infer.core.errors import RecordError
from infer.core.sampling.grammar.regex import MAX_CHARS, normalized, spelled

BYTES = LLTokenizer("byte")


def matcher(pattern: str) -> LLMatcher:
    """What the library makes of a pattern that is in its dialect."""
    made = LLMatcher(BYTES, LLMatcher.grammar_from_regex(pattern), log_level=0)
    assert not made.is_error(), (pattern, made.get_error())
    return made


def matches(made: LLMatcher, text: str) -> bool:
    state = made.deep_copy()
    return state.consume_tokens(list(text.encode())) and state.is_accepting()


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^abc$", ["abc"], ["abcd", "xabc", "^abc$"]),
        ("a|^b$|c", ["a", "b", "c"], ["ab"]),
        ("(?P<x>a)(?<y>b)(c)(?:d)", ["abcd"], ["abc"]),
        ("a*?b+?c??d{2}e{2,}?f{1,3}", ["bddeef", "aabbcddeeefff"], ["bdef"]),
        (".", ["a", "é"], ["\n", "\r", "\u2028", "\0", "ab"]),
        ("\\d\\w", ["1a", "0_"], ["٣a", "1é"]),
        ("\\D\\W\\S", ["a!é"], ["٣!a", "aéa", "a!\x1c", "a!\ufeff"]),
        ("[\\d-]+", ["1-2"], ["a"]),
        ("[+-\\-]", ["+", ",", "-"], ["."]),
        ("[\\s\\S]", ["\n", "é", "\x1c"], ["\0", ""]),
        ("[a-c^\\]\\[\\\\]", ["a", "^", "]", "[", "\\"], ["d"]),
        ("[[a]", ["[", "a"], ["]", "b"]),
        ("[a&&b]", ["a", "&", "b"], ["", "-"]),
        ("[^\\d\\s]", ["a"], ["1", "٣", " ", "\xa0"]),
        ("[^\\D]", ["1"], ["a"]),
        ("\\x41\\u0042\\u{43}", ["ABC"], ["abc"]),
        ("\\ud83d\\ude00", ["😀"], []),
        ("é\t\\n", ["é\t\n"], []),
        ("\\.\\-\\/}]", [".-/}]"], ["a-/}]"]),
        ("a/b", ["a/b"], []),
        ("(|a)", ["", "a"], ["b"]),
        ("", [""], ["a"]),
    ],
)
def test_meaning(pattern: str, good: list[str], bad: list[str]) -> None:
    made = matcher(normalized(pattern))
    assert {text: matches(made, text) for text in good + bad} == {**dict.fromkeys(good, True), **dict.fromkeys(bad, False)}


def test_spelled() -> None:
    text = "a/[b]&-~\\ é😀\n"
    assert re.fullmatch(r"[\x21-\x7e]+", spelled(text)), "printable ASCII"
    assert matches(matcher(spelled(text)), text)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?=a)", "character 3: lookahead is not supported"),
        ("(?!a)", "lookahead"),
        ("(?<=a)", "lookbehind"),
        ("(?<!a)", "lookbehind"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("(?>a)", "atomic"),
        ("(?#a)", "comment"),
        ("(?P=a)", "backreference"),
        ("(?(1)a)", "conditional"),
        ("(?P<1>a)", "group's name"),
        ("(?<a", "group's name"),
        ("(a)\\1", "backreference"),
        ("\\k<a>", "backreference"),
        ("\\bfoo", "word boundary"),
        ("\\A1\\Z", "unknown escape \\A"),
        ("\\q", "unknown escape \\q"),
        ("\\p{L}", "unknown escape \\p"),
        ("\\0", "unknown escape \\0"),
        ("a\\", "unknown escape \\"),
        ("\\x4", "hexadecimal"),
        ("\\u{110000}", "not a Unicode character"),
        ("\\ud83d", "not a Unicode character"),
        ("\\x00", "NUL"),
        ("a\0", "NUL"),
        ("a^b", "character 2: ^ in the middle"),
        ("a$b", "$ in the middle"),
        ("(^a)", "^ in the middle"),
        ("(a", "a ) is missing"),
        ("a)", "unmatched )"),
        ("[a", "a ] is missing"),
        ("[]", "empty class"),
        ("[^]a]", "empty class"),
        ("[b-a]", "runs backwards"),
        ("[a--b]", "runs backwards"),
        ("[a-\\d]", "range to a class"),
        ("[\\d-a]", "range from a class"),
        ("[[:alpha:]]", "POSIX"),
        ("*a", "nothing to repeat"),
        ("a|+", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("a*+", "nothing to repeat"),
        ("a{2}{3}", "nothing to repeat"),
        ("{2}", "nothing to repeat"),
        ("a{x}", "a { begins a count"),
        ("a{,3}", "a { begins a count"),
        ("{", "literal {"),
        ("a{3,2}", "below the lower"),
        ("a{70000}", "more than 65536 repetitions"),
        ("a{1,99999999999999999999}", "more than 65536 repetitions"),
        ("(" * 70 + ")" * 70, "nested deeper than 64"),
        ("a" * (MAX_CHARS + 1), "at most 16384"),
    ],
)
def test_refusals(pattern: str, message: str) -> None:
    with pytest.raises(RecordError) as error:
        normalized(pattern)
    assert error.value.code == "grammar_error"
    assert message in error.value.message


ATOMS = ["a", "é", "\\.", "-", '"', "\\\\", "\\n", ".", "\\d", "\\D", "\\w", "\\W", "\\s"]
ATOMS += ["[a-c]", "[^a]", "[\\w-]", "[^\\d\\-]", '["\\]^]', "[+-\\-]", "[\\s\\S]", "[^\\s]"]
TEXTS = st.text(alphabet='ab1_-+,.^]" \n\\é😀\x01', max_size=6)


@st.composite
def patterns(draw: st.DrawFn, depth: int = 2) -> str:
    """Anything of the dialect, without anchors."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        atom = draw(st.sampled_from(ATOMS))
        if depth and draw(st.booleans()):
            atom = f"({draw(patterns(depth - 1))}|{draw(patterns(depth - 1))})"
        parts.append(atom + draw(st.sampled_from(["", "", "*", "+?", "?", "{1,2}", "{2}"])))
    return "".join(parts)


@settings(max_examples=100)
@given(patterns(), st.lists(TEXTS, min_size=1, max_size=8))
def test_the_same_texts_match(pattern: str, texts: list[str]) -> None:
    """What matches does so whichever alphabet the classes are of; of ASCII texts it is all that matches."""
    made = matcher(normalized(pattern))
    for text in texts:
        theirs = [re.compile(pattern, flags).fullmatch(text) is not None for flags in (re.ASCII, re.NOFLAG)]
        ours = matches(made, text)
        assert all(theirs) or not ours, (pattern, text)
        if text.isascii():
            assert ours == all(theirs), (pattern, text)


def test_a_class_of_nothing_matches_nothing() -> None:
    made = LLMatcher(BYTES, LLMatcher.grammar_from_regex(normalized("[^\\s\\S]")), log_level=0)
    made.compute_bitmask()
    assert made.is_error()
