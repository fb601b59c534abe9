"""Templates whose cost cannot be counted: which they are, and the process they are rendered in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction

import pytest

from infer.core.errors import RecordError
from infer.core.text.templates import renderer as renderer_module
from infer.core.text.templates.budget import LimitError
from infer.core.text.templates.plain import is_plain
from infer.core.text.templates.renderer import TOO_MUCH, Failed, Renderer
from infer.core.text.templates.sandbox import Sandbox
from infer.core.text.templates.template import Template

CHAT = (
    "{% macro show(m) %}{{ m['content'] | trim }}{% endmacro %}"
    "{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not (m.content is string and "
    "m.content.startswith('<')) %}{% set ns.last = loop.index0 %}{% break %}{% endif %}{% endfor %}"
    "{% if messages[0]['role'] not in ('system', 'user') %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>' ~ show(m) }}{% if '</t>' in m.content %}{{ m.content.split('</t>')[-1] }}{% endif %}"
    "{% for t in m.tool_calls or [] %}{{ t.function | tojson(indent=4) }}{% endfor %}{{ loop.index0 % 2 == 1 }}{% endfor %}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }}{{ strftime_now('%Y') | length }}"
)


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        (CHAT, True),
        ("{% for k, v in d.items() %}{{ k }}{% endfor %}{{ x | default('a') | upper }}{% generation %}{% endgeneration %}", True),
        ("{% set f = messages %}{{ f() }}", False),
        ("{{ x['append'](1) }}{{ x.append(1) }}", False),
        ("{% for range in [1] %}{{ range(3) }}{% endfor %}", False),
        ("{{ x.format(1) }}", False),
        ("{{ x.encode() }}", False),
        ("{{ x | indent }}", False),
        ("{{ x | map('indent') | list }}", False),
        ("{{ x | map(y) | list }}", False),
        ("{{ x | select(y) | list }}", False),
        ("{{ range(*x) }}{{ x | join(**y) }}", False),
        ("{{ (x, y) }}", False),
        ("{{ 1 < x < 3 }}", False),
        ("{{ 2 ** x }}", False),
        ("{% for a in x recursive %}{% endfor %}", False),
        ("{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}", False),
        ("{% block a %}{% endblock %}", False),
        ("{% autoescape true %}{% endautoescape %}", False),
        ("{% set a | upper %}x{% endset %}", False),
        ("{{ x.__class__ }}", False),
    ],
)
def test_what_is_plain(source: str, plain: bool) -> None:
    assert is_plain(Sandbox().parse(source)) == plain


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one._end()


def test_it_renders_as_this_process_does(renderer: Renderer) -> None:
    variables = {"x": ["\ud800é", 10**30, 1.5, None, True, (1, 2)], "messages": [{"role": "user", "content": "hi"}]}
    for source in ("{{ x }}", "{% for a in x %}{{ '%s' % a if a is not sequence }}{% endfor %}", CHAT):
        here = Template(source)
        assert renderer.render(source, False, None, variables) == here.render_here(variables)
        assert here.render(variables) == here.render_here(variables)


@pytest.mark.parametrize("source", ["{{ '{}'.format(1 / 0) }}", "a\n{{ '{0.x}'.format(y) }}", "{{ '{}'.format('a' * 10 ** 9) }}"])
def test_errors_are_the_same(source: str) -> None:
    messages = []
    for plain in (True, False):
        template = Template(source, strict=True)
        template._is_plain = plain
        with pytest.raises(RecordError) as error:
            template.render({}, what="--template")
        messages.append(error.value.to_json())
    assert messages[0] == messages[1]
    assert messages[0]["code"] == "template_error"


def test_its_clock_is_the_jobs(renderer: Renderer) -> None:
    source = "{{ '{}'.format(strftime_now('%Y')) }}"
    assert renderer.render(source, False, datetime(1999, 1, 2), {}) == "1999"
    assert Template(source).at(datetime(2001, 1, 2)).render({}) == "2001"
    assert renderer.render(source, False, None, {}) >= "2024"


def test_it_is_started_once(renderer: Renderer) -> None:
    assert renderer.render("{{ x }}", False, None, {"x": 1}) == "1"
    first = renderer._process
    with pytest.raises(Failed, match="line 1: no"):
        renderer.render("{{ raise_exception('no') }}", False, None, {})
    assert [renderer.render("{{ x }}", False, None, {"x": i}) for i in range(3)] == ["0", "1", "2"]
    assert renderer._process is first


def test_one_that_is_killed_between_renderings_is_replaced(renderer: Renderer) -> None:
    assert renderer.render("a", False, None, {}) == "a"
    process = renderer._process
    assert process is not None
    process.kill()
    process.wait()
    assert renderer.render("b", False, None, {}) == "b"
    process = renderer._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)  # perhaps not seen yet
    assert renderer.render("c", False, None, {}) == "c"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGXCPU, signal.SIGKILL])
def test_one_that_dies_while_it_renders(renderer: Renderer, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As a stack that overflows, processor time that is used up, or memory that is short end it."""
    monkeypatch.setattr(renderer_module, "python_module", lambda name: [sys.executable, "-c", "import time; time.sleep(600)"])

    def kill() -> None:
        while renderer._process is None:
            time.sleep(0.01)
        os.kill(renderer._process.pid, number)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LimitError) as error:
        renderer.render("{{ x }}", False, None, {})
    killer.join()
    assert str(error.value) == TOO_MUCH
    monkeypatch.undo()
    assert renderer.render("a", False, None, {}) == "a"


LIMITED = """
import resource, signal, sys
from infer.core.text.templates.render_worker import _limit
if sys.argv[1] == "memory":
    _limit(resource.RLIMIT_AS, 1 << 30)
    bytearray(2 << 30)
elif sys.argv[1] == "time":
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, 1)
    while True:
        pass
"""


def test_the_limits_are_the_systems() -> None:
    def run(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", LIMITED, what], capture_output=True, text=True, timeout=120, check=False)

    assert "MemoryError" in run("memory").stderr
    assert run("time").returncode == -signal.SIGXCPU


def test_it_ends_with_this_process() -> None:
    code = """
from infer.core.text.templates.renderer import renderer
print(renderer.render("a", False, None, {}), renderer._process.pid)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    text, pid = run.stdout.split()
    assert text == "a"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("it is still there")


def test_variables_that_cannot_be_given_to_it() -> None:
    assert Template("{{ x }}").render({"x": Fraction(1, 2)}) == "1/2"
    with pytest.raises(RecordError, match="takes plain data alone") as error:
        Template("{{ '{}'.format(x) }}").render({"x": Fraction(1, 2)})
    assert error.value.code == "template_error"
