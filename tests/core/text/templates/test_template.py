"""Prompt templates over a record's fields."""

from __future__ import annotations

import threading
from datetime import datetime

import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.text.templates import budget
from infer.core.text.templates.template import RecordTemplate, Template, TemplateSourceError


def failure(source: str, **variables: object) -> RecordError:
    with pytest.raises(RecordError) as e:
        Template(source).render(variables)
    assert e.value.code == "template_error"
    return e.value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(5) %}\n{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}\n{{ i }}\n{% endfor %}", "0\n2\n"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{% generation %}A{{ x }}{% endgeneration %}B", "A1B"),
        ("{{ missing }}|{{ x }}|{{ none }}|{{ 1.5 }}|{{ [1, 'a'] }}", "|1|None|1.5|[1, 'a']"),
        ("{{ d | tojson }}", '{"b": "<é&\'>", "a": [1, null, true]}'),
        ("{{ d | tojson(indent=2, sort_keys=true) }}", '{\n  "a": [\n    1,\n    null,\n    true\n  ],\n  "b": "<é&\'>"\n}'),
        ("{{ d | tojson(separators=(',', ':'), ensure_ascii=true) }}", '{"b":"<\\u00e9&\'>","a":[1,null,true]}'),
        ("{% for a in 'xyz' %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/3,2/3,3/3"),
        ("{% for a in [1, 2, 3] if a > 1 %}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}", "2312"),
        ("{% for a in missing %}x{% else %}none{% endfor %}{% for k, v in d.items() %}{{ k }}{% endfor %}", "noneba"),
        ("{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is not number else a }}{% endfor %}", "123"),
        ("{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ m(1) }}{{ m('x', b=none) }}", "12xNone"),
        ("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        ("{% call(u) outer() %}{{ u }}{% endcall %}{% macro outer() %}{% endmacro %}", None),
        (
            "{{ 'a,b'.split(',') | join('-') }}{{ 'a' * 3 }}{{ 2 ** 5 }}{{ '%s-%3d' % ('x', 5) }}{{ '{:>4}'.format('z') }}",
            "a-baaa32x-  5   z",
        ),
        (
            "{{ 'aXbX' | replace('X', '--') }}{{ 'ab'.replace('b', 'c', 1) }}{{ 'a\nb' | indent(2) }}{{ 'q' | center(3) }}",
            "a--b--aca\n  b q ",
        ),
        (
            "{{ dict(a=1) }}{{ {'k': 'v'}.get('z', 'd') }}{{ messages[1:] | length }}{{ messages | map(attribute='n') | list }}",
            "{'a': 1}d1[1, 2]",
        ),
        ("{{ {'items': 1, 'x': 2}.x }}{{ {'items': 1}.items() | list }}{{ {}.x is defined }}", "2[('items', 1)]False"),
        ("{{ range(3) | batch(2, 0) | list }}{{ 'x' is string }}{{ raise_exception is defined }}", "[[0, 1], [2, 0]]TrueTrue"),
    ],
)
def test_renders(source: str, expected: str | None) -> None:
    variables = {"x": 1, "d": {"b": "<é&'>", "a": [1, None, True]}, "messages": [{"n": 1}, {"n": 2}]}
    if expected is None:
        failure(source)
    else:
        assert Template(source).render(variables) == expected


def test_date() -> None:
    before, text, after = datetime.now(), Template("{{ strftime_now('%d %b %Y') }}").render({}), datetime.now()
    assert text in (before.strftime("%d %b %Y"), after.strftime("%d %b %Y"))


#: Two that are equal and hold 2 ** 50 things, and one of things within things, a million deep.
SHARED = (
    "{% set a = namespace(x=1) %}{% set b = namespace(x=1) %}"
    "{% for i in range(50) %}{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}"
)
DEEP = "{% set ns = namespace(x=()) %}{% for i in range(10) %}{% for j in range(99999) %}{% set ns.x = NEXT %}{% endfor %}{% endfor %}"

BOMBS = {
    "silent loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "literal output": "{% for a in range(99999) %}{% for b in range(99999) %}" + "x" * 99 + "{% endfor %}{% endfor %}",
    "output": "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "captured": "{% set x %}{% for a in range(9999) %}{% for b in range(99) %}" + "y" * 9999 + "{% endfor %}{% endfor %}{% endset %}",
    "multiply": "{{ 'a' * 10000000000 }}",
    "multiply list": "{{ 10000000000 * [1] }}",
    "power": "{{ 10 ** 10000000 }}",
    "squares": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "double +": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "double ~": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "double set": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "double list": "{% set ns = namespace(x=['ab']) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "shared parts": "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "shared json": "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "center": "{{ 'a' | center(10000000000) }}",
    "center method": "{{ 'a'.center(10000000000) }}",
    "format filter": "{{ '%10000000000d' | format(1) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10000000000, 1) }}",
    "format method": "{{ '{:10000000000d}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 10000000000) }}",
    "replace method": "{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}",
    "replace filter": "{% set a = 'a' * 1000000 %}{{ a | replace('a', a) }}",
    "join method": "{% set a = 'a' * 1000000 %}{{ a.join(range(99999) | list) }}",
    "join filter": "{% set a = 'a' * 1000000 %}{{ range(99999) | join(a) }}",
    "batch": "{{ [1] | batch(10000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(10000000000, 'x') | list }}",
    "indent": "{{ 'a\nb' | indent(10000000000) }}",
    "json indent": "{{ [1] | tojson(indent=10000000000) }}",
    "range": "{{ range(10000000000) | list }}",
    "repeated list": "{% for a in range(99999) %}{% set b = range(99999) | list %}{% endfor %}",
    "list growth": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
    "lists": "{% for a in range(999) %}{% for b in range(9999) %}{% set c = [" + "[]," * 1000 + "] %}{% endfor %}{% endfor %}",
    "objects": "{% for a in range(999) %}{% for b in range(9999) %}{% set c = [" + "{'a': 1}," * 1000 + "] %}{% endfor %}{% endfor %}",
    "wide macro": "{% macro f() %}" + "{% if x %}{% endif %}" * 2000 + "{% endmacro %}{% for a in range(99999) %}{{ f() }}{% endfor %}",
    "searches": "{% set a = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in a or a.find('b') > 0 %}{% endif %}{% endfor %}",
    "comparisons": "{% set a = 'a' * 999999 + 'b' %}{% set b = 'a' * 999999 + 'c' %}{% for i in range(99999) %}{% if a == b %}{% endif %}"
    "{% endfor %}",
    "slices": "{% set a = 'a' * 1000000 %}{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}",
    "list slices": "{% set a = [1] * 100000 %}{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}",
    "in a list": "{% set a = [1] * 100000 %}{% for i in range(99999) %}{% if 2 in a %}{% endif %}{% endfor %}",
    "shared equal": SHARED + "{{ a.x == b.x }}",
    "shared chain": SHARED + "{{ 1 == 1 == 1 != a.x == b.x == a.x }}",
    "shared in": SHARED + "{{ a.x in [b.x] }}",
    "shared test": SHARED + "{{ a.x is eq(b.x) }}",
    "shared sort": SHARED + "{{ [a.x, b.x] | sort }}",
    "shared index": SHARED + "{{ [a.x].index(b.x) }}",
    "shared namespace": SHARED + "{{ a }}",
    "shared view": SHARED + "{{ {1: a.x}.values() }}",
    "shared upper": SHARED + "{{ a.x | upper }}",
    "shared join": SHARED + "{{ [a.x] | join }}",
    "shared percent": SHARED + "{{ '%s' % [a.x] }}",
    "shared format": SHARED + "{{ '{}'.format(a.x) }}",
    "shared pprint": SHARED + "{{ a.x | pprint }}",
    "shared message": SHARED + "{{ raise_exception(a.x) }}",
    "shared name": SHARED + "{{ [][a.x] }}",
    "shared changed": SHARED + "{% for c in [a.x, b.x] %}{{ loop.changed(c) }}{% endfor %}",
    "deep text": DEEP.replace("NEXT", "[ns.x]") + "{{ ns.x }}",
    "deep json": DEEP.replace("NEXT", "[ns.x]") + "{{ ns.x | tojson }}",
    "deep key": DEEP.replace("NEXT", "(ns.x,)") + "{{ {ns.x: 1} }}",
    "deep key of items": DEEP.replace("NEXT", "{'a': ns.x} | items | first") + "{{ {ns.x: 1} | length }}",
    "deep looked up": DEEP.replace("NEXT", "{'a': ns.x} | items | first") + "{{ {}[ns.x] }}",
    "deep got": DEEP.replace("NEXT", "{'a': ns.x} | items | first") + "{{ {}.get(ns.x) }}",
    "deep in": DEEP.replace("NEXT", "{'a': ns.x} | items | first") + "{{ ns.x in {} }}",
    "deep unique": DEEP.replace("NEXT", "(ns.x,)") + "{{ [ns.x] | unique | list }}",
    "deep dict()": DEEP.replace("NEXT", "(ns.x,)") + "{{ dict([(ns.x, 1)]) }}",
    "deep fromkeys": DEEP.replace("NEXT", "(ns.x,)") + "{{ dict.fromkeys([ns.x]) }}",
    "deep filters": DEEP.replace("NEXT", "ns.x | select") + "{{ ns.x | list }}",
    "json indent of millions": "{{ [[1], [2]] | tojson(indent=10**6) }}{{ ([[1]] * 1000) | tojson(indent=999999) }}",
    "json indent text": "{% set a = 'a' * 1000000 %}{{ ([1] * 1000) | tojson(indent=a) }}",
    "json separators": "{% set a = 'a' * 1000000 %}{{ ([1] * 1000) | tojson(separators=(a, a)) }}",
    "json texts": "{% set a = 'a' * 1000000 %}{{ ([a] * 1000) | tojson }}",
    "indented lines": "{% set a = '\n' * 1000000 %}{{ a | indent(1000000, true, true) }}",
    "indented by text": "{% set a = '\n' * 1000000 %}{{ a | indent(a) }}",
    "percent often": "{% set a = '%(a)s' * 200000 %}{% set b = 'x' * 1000000 %}{{ a % {'a': b} }}",
    "percent wide and often": "{% set a = '%(a)999999d' * 90000 %}{{ a % {'a': 1} }}",
    "format often": "{% set a = '{0}' * 300000 %}{% set b = 'x' * 1000000 %}{{ a.format(b) }}",
    "format wide and often": "{% set a = '{0:999999d}' * 90000 %}{{ a.format(1) }}",
    "bytes": "{{ 'a'.encode() * 10000000000 }}",
    "bytes joined": "{% set a = ('a' * 1000000).encode() %}{{ a.join([a] * 10000) | length }}",
    "bytes doubled": "{% set ns = namespace(x='ab'.encode()) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "sum of lists": "{{ ([[1, 2, 3]] * 300000) | sum(start=[]) | length }}",
    "texts joined": "{% set a = 'a' * 1000000 %}{{ ([a] * 1000000) | join }}",
    "text of characters": "{% set a = 'a' * 1000000 %}{{ ''.join([a] * 1000000) }}",
    "stripped": "{% set a = 'a' * 1000000 %}{% set b = 'b' * 1000000 + 'a' %}{{ a.strip(b) }}",
    "trimmed": "{% set a = 'a' * 1000000 %}{% set b = 'b' * 1000000 + 'a' %}{{ a | trim(b) }}",
    "from the end": "{% set a = 'a' * 1000000 %}{% set b = 'b' + 'a' * 500000 %}{{ a.rfind(b) }}",
    "split": "{% set a = 'a ' * 500000 %}{% for i in range(9) %}{{ (a + a + a + a + a).split() | length }}{% endfor %}",
    "translated": "{{ ('a' * 1000000).translate({97: 'x' * 1000000}) | length }}",
    "tabs": "{{ ('\t' * 1000000).expandtabs(1000000) | length }}",
    "binary": "{% set a = '1' * 1000000 %}{{ (a | int(0, 2)) - 1 }}",
    "wrapped": "{% set a = 'a' * 1000000 %}{% for i in range(99) %}{{ a | wordwrap(1) | length }}{% endfor %}",
    "date": "{{ strftime_now('%Y' * 1000000) }}",
    "blocks": "{% block a %}{{ self.a() }}{% endblock %}",
    "arguments": "{% macro f() %}{% endmacro %}{% set a = [1] * 100000 %}{% for i in range(99999) %}{{ f(*a) }}{% endfor %}",
    "caller": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less for a rendering in this process, so that it is used up sooner."""
    monkeypatch.setattr(budget, "MAX_STEPS", 200_000)
    monkeypatch.setattr(budget, "MAX_HANDLED", 2**24)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_stopped(small: None, name: str) -> None:
    assert not failure(BOMBS[name]).retryable, "it would be the same again"


@pytest.mark.parametrize("name", ["deep key of items", "objects", "comparisons", "percent often", "deep key"])
def test_where_a_bomb_is_stopped_does_not_depend_on_how_deep_the_caller_is(small: None, name: str) -> None:
    def call_from(depth: int) -> str:
        return call_from(depth - 1) if depth else failure(BOMBS[name]).message

    assert call_from(100) == call_from(0)


def test_nested_calls_are_counted() -> None:
    nested = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{{ n }}{% endmacro %}"
    assert Template(nested + "{{ f(90) }}").render({}).endswith("8990")
    assert failure(nested + "{{ f(100) }}").message == "template: stopped, it needs more than 100 calls within calls"


def test_lists_are_added_up() -> None:
    assert Template("{{ [[1], [2, 3]] | sum(start=[]) }}{{ [{'a': [4]}] | sum('a', []) }}{{ [1, 2] | sum }}").render({}) == "[1, 2, 3][4]3"


def test_what_has_no_text_is_said() -> None:
    assert "has no text of its own" in failure("{{ [1] | map('string') }}").message
    for source in ("{{ 'a'.upper }}", "{{ cycler(1) }}", "{{ strftime_now }}", "{{ dict }}"):
        assert "has no text of its own" in failure(source).message
    assert Template("{{ [1, 2] | map('string') | join('-') }}{{ 'yes' if [] | select }}").render({}) == "1-2yes"


def test_limits_hold_for_each_rendering_and_thread() -> None:
    template = Template("{% for i in range(99999) %}{% endfor %}ok")
    for _ in range(60):
        assert template.render({}) == "ok"
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(template.render({}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["ok"] * 4


def test_nothing_runs_while_compiling() -> None:
    Template("{{ 'a' * 10000000000 }}{{ 'a' | center(10000000000) }}{{ 10 ** 10000000 }}{{ raise_exception('x') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__() }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{{ dict.update(messages[0], {'a': 1}) }}",
        "{{ messages[0].pop('n') }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__x = 1 %}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import path %}",
        "{% extends 'x' %}",
        "{{ lipsum.__globals__ }}",
        "{{ joiner.__init__.__globals__['os'] }}",
        "{{ ('' | attr('__class__'))() }}",
        "{{ ['x'] | sum('__class__') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ ['{0.__class__}'] | map('format', '') | first | attr('x') }}",
        "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{{ self.__init__.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
        "{{ open('x') }}",
    ],
)
def test_sandbox(source: str) -> None:
    messages = [{"n": 1}]
    failure(source, messages=messages)
    assert messages == [{"n": 1}]


@pytest.mark.parametrize(
    "source",
    [
        "{{ strftime_now.__globals__ }}",
        "{{ dict.fromkeys.__globals__ }}",
        "{{ ['x'] | join(attribute='__class__') }}",
        "{{ '{a.__class__}'.format_map({'a': ''}) }}",
        "{{ [''] | map('format') | map(attribute='__class__') | first }}",
        "{{ ''['for' ~ 'mat'].__self__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ namespace(x=1).__class__ }}",
        "{{ cycler(1).__class__.__init__ }}",
    ],
)
def test_the_inside_of_python_is_as_if_it_were_not_there(source: str) -> None:
    assert Template(source).render({}) == ""


def test_failures_say_where_and_why() -> None:
    assert failure("a\n{{ raise_exception('roles must alternate') }}").message == "template line 2: roles must alternate"
    assert failure("a\n\n{{ 1 / 0 }}").message == "template line 3: ZeroDivisionError: division by zero"
    assert "TypeError" in failure("{{ 1 + 'a' }}").message
    assert len(failure("{{ raise_exception('x' * 100000) }}").message) < 3000


@pytest.mark.parametrize(
    ("source", "match"),
    [("{% if %}", "line 1"), ("a\n{{ x | nope }}", "line 2.*nope"), ("{{ x | random }}", "random"), ("{{" + "(" * 5000, "Recursion")],
)
def test_bad_source(source: str, match: str) -> None:
    with pytest.raises(TemplateSourceError, match=match):
        Template(source)


def test_record_template() -> None:
    template = RecordTemplate.load("{{ question }} {{ record['my field'] }} {{ hint | default('-') }}{% if n is defined %}!{% endif %}\n")
    record = {"question": "Why?", "my field": 3, "self": 1, "messages": []}
    assert template.render(record) == "Why? 3 -"
    assert record == {"question": "Why?", "my field": 3, "self": 1, "messages": []}
    with pytest.raises(RecordError, match="--template line 1: 'question' is undefined") as e:
        template.render({"my field": 3})
    assert e.value.code == "template_error"
    with pytest.raises(RecordError, match="; did you mean 'question'"):
        RecordTemplate.load("{{ questoin }}").render(record)
    with pytest.raises(RecordError, match=r" \(the record has: a, b\)$"):
        RecordTemplate.load("{{ question }}").render({"a": 1, "b": 2})
    with pytest.raises(RecordError, match="no attribute 'b'"):
        RecordTemplate.load("{{ a.b }}").render({"a": {}})
    with pytest.raises(RecordError, match="'xs' is undefined"):
        RecordTemplate.load("{% for x in xs %}{% endfor %}").render({})
    assert RecordTemplate.load("{{ record }}").render({"record": "own"}) == "own"
    with pytest.raises(ConfigError, match="--template: line 1"):
        RecordTemplate.load("{% for %}")


NOW = datetime(2026, 2, 3, 4, 5, 6)


def test_one_time_for_all_renderings() -> None:
    template = Template("{{ strftime_now('%d %b %Y %H:%M:%S') }}").at(NOW)
    assert template.render({}) == "03 Feb 2026 04:05:06"
    assert template.at(datetime(1999, 1, 2)).render({}).startswith("02 Jan 1999")
    assert template.render({}) == "03 Feb 2026 04:05:06"
    record = RecordTemplate.load("{{ strftime_now('%Y') }} {{ x }}")
    assert record.at(NOW).render({"x": 1}) == "2026 1"
    with pytest.raises(RecordError, match="x"):
        record.at(NOW).render({})  # as strict as before


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ x }}", {}),
        ("{% if strftime_now is defined %}a{% endif %}", {}),
        ("{{ strftime_now('%Y') }}{% if x %}{{ strftime_now('%d %b') }}{% endif %}", {"%Y": "2026", "%d %b": "03 Feb"}),
        ("{{ strftime_now(x) }}", {"": "2026-02-03T04:05:06"}),
        ("{% set now = strftime_now %}{{ now('%Y') }}", {"": "2026-02-03T04:05:06"}),
    ],
)
def test_what_a_template_can_tell_of_the_time(source: str, told: dict[str, str]) -> None:
    assert Template(source).readings(NOW) == told
