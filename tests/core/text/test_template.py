from __future__ import annotations

import threading
from datetime import datetime

import pytest

from infer.core.errors import ConfigError, RecordError
from infer.core.text import sandbox
from infer.core.text.template import RecordTemplate, Template, TemplateSourceError


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
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_stopped(name: str) -> None:
    failure(BOMBS[name])


def test_the_time_limit_is_the_last_resort_and_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.0)
    assert failure(BOMBS["silent loops"]).retryable
    monkeypatch.undo()
    assert not failure(BOMBS["silent loops"]).retryable


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
        "{{ open('x') }}",
    ],
)
def test_sandbox(source: str) -> None:
    messages = [{"n": 1}]
    failure(source, messages=messages)
    assert messages == [{"n": 1}]


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
    with pytest.raises(RecordError, match="no attribute 'b'"):
        RecordTemplate.load("{{ a.b }}").render({"a": {}})
    with pytest.raises(RecordError, match="'xs' is undefined"):
        RecordTemplate.load("{% for x in xs %}{% endfor %}").render({})
    assert RecordTemplate.load("{{ record }}").render({"record": "own"}) == "own"
    with pytest.raises(ConfigError, match="--template: line 1"):
        RecordTemplate.load("{% for %}")
