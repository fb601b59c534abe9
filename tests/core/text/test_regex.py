"""Regular expressions: the rewritten one matches what the given one matches, and what cannot be kept is refused."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer.core.errors import RecordError
from infer.core.text.regex import MAX_CHARS, normalized


def as_python(pattern: str) -> re.Pattern[str]:
    """Ours needs only \\u{...} spelled Python's way."""
    return re.compile(re.sub(r"\\u\{(\w+)\}", lambda m: f"\\U{int(m[1], 16):08x}", pattern), re.ASCII)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^abc$", "abc"),
        ("a|^b$|c", "a|b|c"),
        ("(?P<x>a)(?<y>b)(c)(?:d)", "(?:a)(?:b)(?:c)(?:d)"),
        ("a*?b+?c??d{2}e{2,}?f{,}", None),
        ("a*?b+?c??d{2}e{2,}?f{1,3}", "a*b+c?d{2,2}e{2,}f{1,3}"),
        (".", "[^\\x0a\\x0d\\u2028-\\u2029\\ud800-\\udfff]"),
        ("\\d\\w", "[0-9][0-9A-Z_a-z]"),
        ("[\\d-]", "[0-9-]"),
        ("[]a]", None),
        ("[+-\\-]", "[+-,-]"),
        ("[\\s\\S]", "[^\\ud800-\\udfff]"),
        ("[a-c^\\]\\[\\\\]", "[\\[-\\^a-c]"),
        ("\\x41\\u0042\\u{43}", "ABC"),
        ("\\ud83d\\ude00", "\\u{1f600}"),
        ("é\t\\n", "\\u00e9\\x09\\x0a"),
        ("\\.\\-\\/}]", "\\.\\-\\/\\}\\]"),
    ],
)
def test_spelling(pattern: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(RecordError):
            normalized(pattern)
    else:
        assert normalized(pattern) == expected


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
        ("((a{1,1000}){1,1000}){1,1000}", "repetitions of the regular expression"),
        ("(" * 70 + ")" * 70, "nested deeper than 64"),
        ("a" * (MAX_CHARS + 1), "at most 16384"),
        ("[^\\s\\S]", "matches nothing"),
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


@settings(max_examples=150, deadline=None)
@given(patterns(), st.lists(TEXTS, min_size=1, max_size=8))
def test_the_same_texts_match(pattern: str, texts: list[str]) -> None:
    given_, ours = re.compile(pattern, re.ASCII), as_python(normalized(pattern))
    for text in texts:
        assert (ours.fullmatch(text) is None) == (given_.fullmatch(text) is None), (pattern, text)


@settings(max_examples=150, deadline=None)
@given(patterns(), st.lists(TEXTS, min_size=1, max_size=8))
def test_in_json_what_matches_is_a_json_string_of_the_pattern(pattern: str, texts: list[str]) -> None:
    try:
        ours = as_python(normalized(pattern, in_json=True))
    except RecordError as error:
        if "matches nothing" not in error.message:
            raise
        return
    for text in texts:
        for spelling in (text, json.dumps(text, ensure_ascii=False)[1:-1]):
            if ours.fullmatch(spelling):
                assert re.compile(pattern, re.ASCII).fullmatch(json.loads(f'"{spelling}"')), (pattern, spelling)


def test_in_json_literals_are_escaped() -> None:
    assert normalized('a"b', in_json=True) == 'a(?:\\\\")b'
    assert normalized('["\\n]+', in_json=True) == '(?:\\\\n|\\\\")+'
    assert normalized('["x]', in_json=True) == '(?:[x]|\\\\")'
    assert re.fullmatch(normalized(".", in_json=True), '"') is None
    with pytest.raises(RecordError, match="matches nothing"):
        normalized("[^\\x20-\\u{10ffff}]", in_json=True)
