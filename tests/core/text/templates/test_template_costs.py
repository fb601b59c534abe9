"""Each operation that a template may do in this process: on data that grows without bound as text, on long texts, and what has no text.

The lists are those of `plain.py`, so that what is added there is met here. One whose cost is not counted does not come to an end.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from jinja2.filters import FILTERS

from infer.core.errors import RecordError
from infer.core.text.templates import budget, plain
from infer.core.text.templates.field_widths import percent_widths
from infer.core.text.templates.renderer import renderer
from infer.core.text.templates.template import Template

#: Twice what it was, fifty times.
SHARED = "{% set a = namespace(x=1) %}{% for i in range(50) %}{% set a.x = [a.x, a.x] %}{% endfor %}"
LONG = "{% set a = 'a' * 1000000 %}"
ARGUMENTS = {
    **dict.fromkeys(("replace",), "('a', 'b')"),
    **dict.fromkeys(("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "removeprefix", "removesuffix"), "('a')"),
    **dict.fromkeys(("eq", "equalto", "==", "ne", "!=", "in"), "(a)"),
    **dict.fromkeys(("filter",), "('lower')"),
    **dict.fromkeys(("join", "get"), "(['x'])"),
}
#: Operations on a text that take the same time whatever its length.
CONSTANT = {"count", "d", "default", "first", "last", "length", "map", "reject", "rejectattr", "select", "selectattr", "items"}
SLOW_TESTS = ("lower", "upper", "eq", "equalto", "==", "ne", "!=", "in")
METHODS_OF_DICTS = {"get", "items", "keys", "values"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 200_000)
    monkeypatch.setattr(budget, "MAX_HANDLED", 2**24)
    monkeypatch.setattr(budget, "MAX_ITEMS", 20_000)  # of data; widths and counts are of a million as ever


def stopped(source: str) -> str:
    """Why a template is stopped that is rendered in this process."""
    template = Template(source)
    assert template._is_plain
    with pytest.raises(RecordError, match="stopped, it needs") as error:
        template.render({})
    return error.value.message


@pytest.mark.parametrize("name", sorted(plain._FILTERS))
def test_filters_of_shared_parts_end(name: str) -> None:
    for source in (f"a.x | {name}{ARGUMENTS.get(name, '')}", f"[a.x] | map('{name}') | list"):
        with suppress(RecordError):
            Template(SHARED + "{{ (" + source + ") is none }}").render({})


@pytest.mark.parametrize("name", sorted(plain._TESTS))
def test_tests_of_shared_parts_end(name: str) -> None:
    argument = ARGUMENTS.get(name, "").replace("a", "a.x")
    for source in (f"a.x is {name if name.isalpha() else 'eq'}{argument}", f"[a.x] | select('{name}', a.x) | list"):
        with suppress(RecordError):
            Template(SHARED + "{{ (" + source + ") is none }}").render({})


@pytest.mark.parametrize("name", sorted(plain._FILTERS - CONSTANT))
def test_filters_of_long_texts_are_charged(name: str) -> None:
    stopped(LONG + "{% for i in range(99999) %}{% set b = a | " + name + ARGUMENTS.get(name, "") + " %}{% endfor %}")


@pytest.mark.parametrize("name", SLOW_TESTS)
def test_tests_of_long_texts_are_charged(name: str) -> None:
    arguments = "" if name in ("lower", "upper") else ", a"
    stopped(LONG + "{% for i in range(99999) %}{% set b = [a] | select('" + name + "'" + arguments + ") | list %}{% endfor %}")


@pytest.mark.parametrize("name", sorted(plain.METHODS - METHODS_OF_DICTS))
def test_methods_of_long_texts_are_charged(name: str) -> None:
    call = f"a.{name}{ARGUMENTS.get(name, '()')}"
    stopped(LONG + "{% for i in range(99999) %}{% set b = " + call + " %}{% endfor %}")


@pytest.mark.parametrize("value", ["range(999)", "('a' * 999)"])
@pytest.mark.parametrize(
    "choice", ["select('eq', -1)", "reject('ne', -1)", "selectattr('real', 'eq', 'x')", "rejectattr('real', 'ne', 'x')"]
)
def test_items_that_are_passed_over_are_charged(value: str, choice: str) -> None:
    stopped("{% set x = " + value + " %}{% for i in range(999) %}{% set b = x | " + choice + " | first %}{% endfor %}")


@pytest.mark.parametrize("call", ["count(0.5)", "index(998)"])
def test_methods_of_ranges_are_charged(call: str) -> None:
    stopped("{% set x = range(999) %}{% for i in range(999) %}{% set b = x." + call + " %}{% endfor %}")


def test_words_that_are_written_anew_are_charged() -> None:
    stopped("{% set x = 'a ' * 9999 %}{% for i in range(99) %}{% set b = x | title %}{% endfor %}")


@pytest.mark.parametrize(
    "number",
    [
        "5 | round(-999999999)",
        "5 | round(999999999, 'floor')",
        "1.5 | round(method='ceil', precision=99999)",
        "[5] | map('round', -99999) | list",
    ],
)
def test_powers_of_ten_are_bounded(number: str) -> None:
    with pytest.raises(RecordError, match="bits"):
        Template("{{ (" + number + ") }}").render({})
    assert Template("{{ 1.256 | round(2) }} {{ 1251 | round(-2) }} {{ 1.21 | round(1, 'ceil') }}").render({}) == "1.26 1300 1.3"


@pytest.mark.parametrize("what", ["raise_exception", "[[raise_exception]]", "{'a': [1] | map('string')}"])
@pytest.mark.parametrize(
    "use",
    ["X", "X ~ ''", "'%s' % [X]", "'{}'.format(X)", "X | replace('a', '')", "[X] | join"]
    + [f"X | {name}" for name in ("string", "safe", "lower", "upper", "title", "capitalize", "trim", "escape", "forceescape", "pprint")],
)
def test_what_has_no_text_has_none_anywhere(what: str, use: str) -> None:
    """It would be the place of something in memory: another prompt in each process."""
    with pytest.raises(RecordError, match="no text of its own"):
        Template("{{ " + use.replace("X", f"({what})") + " }}").render({})


@pytest.mark.parametrize("source", ["{'a': 1, 'b': 2}.keys() - ['a']", "['a'] - {'b': 2}.keys()", "{'a': 1}.items() - []"])
def test_what_has_no_order_is_not_made(source: str) -> None:
    with pytest.raises(RecordError, match="has no order"):
        Template("{{ (" + source + ") | list }}").render({})


def test_safe_text_is_as_in_jinja() -> None:
    for value in ("<a>", 1, None, ["<"], {"a": 1}):
        assert Template("{{ x | safe }}").render({"x": value}) == str(FILTERS["safe"](value))
    assert Template("{{ missing | safe }}{{ ('<' | safe | safe) ~ '>' }}").render({}) == "<>"


@pytest.mark.parametrize(
    "pattern", ["%9999999d", "%(a(b))9999999d", "%l%%-0 9999999d", "%.9999999f", "%*d", "%.*f", "%(a)*d", "%ld%9999999d"]
)
def test_wide_fields_are_seen(pattern: str) -> None:
    with pytest.raises(RecordError, match="very large width"):
        Template("{{ x % {'a': 1, 'a(b)': 1} }}").render({"x": pattern})


def test_signs_that_are_no_wide_fields_are_left_alone() -> None:
    assert Template("{{ '100%%9999999999d **%s** %d%%' % ('x', 5) }}").render({}) == "100%9999999999d **x** 5%"
    assert Template("{{ '%(a(b))s' % {'a(b)': 1} }}").render({}) == "1"


def test_brackets_that_do_not_close_are_looked_through_once() -> None:
    with pytest.raises(RecordError, match="incomplete format key"):
        Template("{{ x % {} }}").render({"x": "%(" * 400_000})
    with pytest.raises(RecordError, match=r"stopped|ValueError"):
        Template("{{ x.format(1) }}").render({"x": "{" + ":" * 400_000})


def test_widths_are_those_that_python_reads() -> None:
    rng, formatted = random.Random(5), 0
    pieces = ["%", "(a)", "(a(b))", "-", "0", "#", " ", "+", "7", "12", ".", ".3", "h", "l", "d", "s", "f", "x", "text", "%%"]
    for _ in range(20_000):
        pattern = "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        widths = list(percent_widths(pattern))
        for args in ((3,), (3, 4), {"a": 5, "a(b)": 6}):
            try:
                made = pattern % args
            except (TypeError, ValueError, KeyError):
                continue
            formatted += bool(widths)
            assert len(made) <= len(pattern) + sum(widths) + 30 * len(widths), pattern
            assert pattern.replace("%%", "").count("%") == 0 or widths
    assert formatted > 500


@pytest.mark.parametrize("found", ["X.NAME", "X['NAME']", "X['NA' ~ 'ME']", "([X] | map(attribute='NAME') | list)[0]"])
def test_a_method_by_another_name_is_not_called_here(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    """A namespace may call it by the name of one that is counted; the process with hard limits renders it, from the beginning."""
    calls: list[str] = []
    monkeypatch.setattr(renderer, "render", lambda source, *_: calls.append(source) or "there")
    start = "{% set ns = namespace() %}{% set ns.get = "
    for value, name, arguments in (("(1)", "to_bytes", "(1000000000000, 'big')"), ("'{:9}'", "format", "(1)"), ("'a'", "encode", "()")):
        method = found.replace("NA' ~ 'ME", name[:2] + "' ~ '" + name[2:]).replace("NAME", name).replace("X", value)
        source = start + method + " %}{{ ns.get" + arguments + " }}"
        assert Template(source)._is_plain
        assert Template(source).render({}) == "there"
        assert calls.pop() == source
    upper = found.replace("NA' ~ 'ME", "up' ~ 'per").replace("NAME", "upper").replace("X", "'a'")
    assert Template(start + upper + " %}{{ ns.get() }}{{ range(2) | list }}").render({}) == "A[0, 1]"
    assert calls == []


def test_a_method_by_another_name_has_hard_limits() -> None:
    rendered = Template("{% set ns = namespace(get='{:>3}'.format, index=(1).to_bytes) %}{{ ns.get('a') }}")
    assert rendered.render({}) == "  a"
    with pytest.raises(RecordError, match=r"stopped, it needs|OverflowError|MemoryError"):
        Template("{% set ns = namespace(get=(1).to_bytes) %}{{ ns.get(1000000000000, 'big') | length }}").render({})
