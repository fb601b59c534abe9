"""Counts of answers, failures and tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import RecordError
from infer.core.jobs.tally import Tally
from infer.core.types.outputs import CompletionOutput, RequestOutput

numbers = st.integers(0, 2**40)
codes = st.sampled_from(["internal", "invalid_json", "prompt_too_long"])


@st.composite
def tallies(draw: Any) -> Tally:
    counts = [one.name for one in dataclasses.fields(Tally) if one.type == "int"]
    tally = Tally(**{name: draw(numbers) for name in counts})
    tally.first_errors = draw(st.dictionaries(codes, st.tuples(numbers, st.text(max_size=5)), max_size=3))
    tally.errors.update(draw(st.dictionaries(codes, st.integers(1, 9), max_size=3)))
    tally.finish_reasons.update(draw(st.dictionaries(st.sampled_from(["stop", "length", "unknown"]), st.integers(1, 9))))
    return tally


def copied(tally: Tally) -> Tally:
    return Tally.from_entry(tally.to_entry())


@given(tallies())
def test_a_journal_gives_it_back(tally: Tally) -> None:
    assert Tally.from_entry(orjson.loads(orjson.dumps(tally.to_entry()))) == tally


def test_nothing_takes_no_room() -> None:
    assert Tally().to_entry() == {}
    assert Tally.from_entry({}) == Tally()


@given(tallies(), tallies(), tallies())
def test_the_order_of_adding_does_not_matter(a: Tally, b: Tally, c: Tally) -> None:
    """But for two errors of one kind on one line, which there are not."""
    for i, tally in enumerate((a, b, c)):
        tally.first_errors = {code: (line * 3 + i, message) for code, (line, message) in tally.first_errors.items()}
    one, other = copied(a), copied(c)
    one.add(b)
    one.add(c)
    other.add(b)
    other.add(a)
    assert one == other
    assert one.num_records == sum(t.num_answered + t.num_failed for t in (a, b, c))
    assert one.errors.total() == sum(t.errors.total() for t in (a, b, c))


@given(tallies(), tallies())
def test_what_is_added_can_be_taken_away_again(a: Tally, b: Tally) -> None:
    """Of every count that there is, now or one day."""
    both = copied(a)
    both.add(b)
    left = both.less(b)
    left.first_errors = a.first_errors
    assert left == a


@given(tallies(), tallies())
def test_adding_leaves_the_other_alone(a: Tally, b: Tally) -> None:
    before = copied(b)
    a.add(b)
    a.add(b)
    assert b == before


def test_of_an_answer() -> None:
    choices = [CompletionOutput(i, "a", [1] * (i + 1), reason) for i, reason in enumerate(["stop", "length", None])]
    output = RequestOutput("0", None, [1, 2], choices)  # type: ignore[arg-type]
    tally = Tally.of_answer(10, output, default_max_tokens=True)
    assert tally == Tally(1, 0, 10, finish_reasons=tally.finish_reasons, num_cut_by_default=1, prompt_tokens=2, output_tokens=6)
    assert tally.finish_reasons == {"stop": 1, "length": 1, "unknown": 1}
    assert Tally.of_answer(10, output, default_max_tokens=False).num_cut_by_default == 0


def test_of_an_error() -> None:
    tally = Tally.of_error(10, 7, RecordError("internal", "oops"))
    assert (tally.num_failed, tally.num_records, tally.bytes_done) == (1, 1, 10)
    assert (tally.errors, tally.first_errors) == ({"internal": 1}, {"internal": (7, "oops")})


def test_texts_that_were_read() -> None:
    total = Tally()
    total.add(Tally.of_texts(10, tokens=7, texts=2, truncated=1))
    total.add(Tally.of_texts(20, tokens=5, texts=1, truncated=0))
    assert (total.num_answered, total.bytes_done, total.prompt_tokens, total.output_tokens) == (2, 30, 12, 0)
    assert (total.num_texts, total.num_truncated) == (3, 1)
    assert Tally.from_entry(total.to_entry()) == total
