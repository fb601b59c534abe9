"""Stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.text.stop import StopMatcher


def first(stops: list[str], text: str) -> tuple[int, str] | None:
    """By definition: the earliest end, then the earliest begin."""
    found = [(i + len(s), i, s) for s in stops for i in range(len(text)) if text.startswith(s, i)]
    return min(found)[1:] if found else None


def feed(matcher: StopMatcher, pieces: list[str]) -> tuple[int, str] | None:
    return next((match for piece in pieces if (match := matcher.push(piece)) is not None), None)


@given(
    stops=st.lists(st.text(alphabet="ab中", min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text(alphabet="ab中", max_size=5), max_size=12),
)
def test_result_depends_on_the_text_and_not_on_its_pieces(stops: list[str], pieces: list[str]) -> None:
    expected = first(stops, "".join(pieces))
    assert feed(StopMatcher(stops), pieces) == expected
    assert feed(StopMatcher(stops), list("".join(pieces))) == expected
    assert feed(StopMatcher(stops), ["".join(pieces)]) == expected


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["\n\n"], ["a\n", "\nb"], (1, "\n\n")),
        (["</end>"], ["x<", "/", "en", "d", ">y"], (1, "</end>")),
        (["later", "now"], ["now and later"], (0, "now")),
        (["b", "ab"], ["xab"], (1, "ab")),  # both end here: the one that begins first
        (["abcd", "bc"], ["abcd"], (1, "bc")),  # "bc" is complete first
        (["x"], ["", "", "x"], (0, "x")),
        ([], ["anything"], None),
        (["aa"], ["a", "b", "a"], None),
    ],
)
def test_examples(stops: list[str], pieces: list[str], expected: tuple[int, str] | None) -> None:
    assert feed(StopMatcher(stops), pieces) == expected


def test_offset_is_in_characters_of_the_whole_text() -> None:
    matcher = StopMatcher(["中😀"])
    assert matcher.push("é" * 1000 + "中") is None
    assert matcher.push("😀") == (1000, "中😀")


def test_skipped_text_can_begin_a_match_but_not_end_one() -> None:
    matcher = StopMatcher(["ab"])
    matcher.skip("ab a")
    assert matcher.push("b") == (3, "ab")


def test_a_long_text_is_not_kept() -> None:
    matcher = StopMatcher(["#" * 8])
    for _ in range(100):
        assert matcher.push("x" * 1000) is None
    assert len(matcher._tail) == 7
