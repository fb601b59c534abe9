"""The jinja2 environment in which templates run: what they may touch, and how much they may use.

A chat template comes with the model and is as little trusted as the weights. jinja2's immutable sandbox keeps it from Python's
internals and from changing its arguments. On top of that a rendering has a budget: loop iterations plus calls, characters
written or captured, and the size a single operation may build. These bounds count work, so whether a record fails does not
depend on how busy the machine is; a limit of wall time stands behind them for what they do not see. Imports jinja2: import this
module only when a template is about to be used.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes, pass_context, pass_eval_context
from jinja2.environment import Template as JinjaTemplate
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

#: Steps of one rendering: loop iterations, outputs, and calls, which cost more. One to three seconds.
MAX_STEPS = 5_000_000
_CALL = 16
#: Characters that one rendering may write.
MAX_CHARS = 64 * 2**20
#: Characters that it may handle on the way there: expressions, results of macros, the literal text of loops.
MAX_HANDLED = 4 * MAX_CHARS
#: Items of a list, and the width of padding, that a template may build at once.
MAX_ITEMS = 1_000_000
#: Seconds after which a rendering is given up although it stayed within the other limits.
MAX_SECONDS = 60.0


class LimitError(Exception):
    """A template used more than it may."""


class TimeLimitError(LimitError):
    """It took too long on this machine; elsewhere it may not."""


class _Budget:
    """What is left for the rendering under way in this thread."""

    __slots__ = ("chars", "deadline", "steps")

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.chars = MAX_HANDLED
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self, chars: int = 0, cost: int = 1) -> None:
        self.steps -= cost
        self.chars -= chars
        if self.steps < 0:
            raise LimitError(f"more than {MAX_STEPS:,} steps (loop iterations and calls)")
        if self.chars < 0:
            raise LimitError(f"more than {MAX_HANDLED:,} characters handled")
        if not self.steps & 0x3F0 and time.monotonic() > self.deadline:
            raise TimeLimitError(f"more than {MAX_SECONDS:.0f} seconds")


_thread = threading.local()


def _budget() -> _Budget:
    return _thread.budget


def render(template: JinjaTemplate, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises whatever the template raises, and LimitError."""
    _thread.budget = budget = _Budget()
    room = MAX_CHARS
    parts: list[str] = []
    for part in template.generate(variables):
        room -= len(part)
        if room < 0:
            raise LimitError(f"more than {MAX_CHARS:,} characters of text")
        if not len(parts) & 0x3FF and time.monotonic() > budget.deadline:
            raise TimeLimitError(f"more than {MAX_SECONDS:.0f} seconds")
        parts.append(part)
    return "".join(parts)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment: whitespace rules, extensions, globals and filters are those of transformers' chat templates.

    Args:
        strict: whether using a missing variable is an error (else it renders as nothing, as chat templates expect).
        now: the time that `strftime_now` tells; None: that of each rendering.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, strict: bool = False, now: datetime | None = None) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined if strict else Undefined,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
            finalize=_finalize,
            optimized=False,  # no constant folding: nothing of a template runs before it is rendered
        )
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _Clock(now)
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.globals.pop("lipsum", None)  # this and `random` would give a record another prompt in every run
        self.filters.pop("random", None)
        self.filters.update(_bounded_filters())

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        metered = _Meter().visit(source)
        metered.set_environment(self)
        return super()._generate(metered, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_binop(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _budget().step(cost=_CALL)
        _check_method(__obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            _budget().step(len(result))
        return result


class GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks what training counts as the assistant's; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's class attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Meter(NodeTransformer):
    """Puts the budget into a parsed template: loops count, and `~` goes through a filter that knows sizes."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        text = sum(len(data.data) for data in _own_text(node.body))
        node.iter = nodes.Filter(node.iter, "<count>", [nodes.Const(text)], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "<concat>", [], [], None, None, lineno=node.lineno)


def _own_text(body: Iterable[nodes.Node]) -> Iterator[nodes.TemplateData]:
    """The literal text of a loop's body, less that of loops inside (they count their own)."""
    for node in body:
        if isinstance(node, nodes.TemplateData):
            yield node
        elif not isinstance(node, nodes.For):
            yield from _own_text(node.iter_child_nodes())


class _Counted:
    """An iterable whose every item costs a step."""

    __slots__ = ("items", "text")

    def __init__(self, items: Iterable[Any], text: int) -> None:
        self.items = items
        self.text = text

    def __iter__(self) -> Iterator[Any]:
        step, text = _budget().step, self.text
        for item in self.items:
            step(text)
            yield item


class _CountedSized(_Counted):
    """One whose length is known: `loop.length` and `loop.last` ask for it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]


def _count(items: Any, text: int) -> _Counted:
    return (_CountedSized if hasattr(items, "__len__") else _Counted)(items, text)


def _text(value: Any) -> str:
    """`str(value)`, charged, and refused for nested data that would grow without bound (lists that share parts)."""
    if isinstance(value, (list, tuple, dict)):
        _check_nested(value)
    text = str(value)
    _budget().step(len(text))
    return text


@pass_context  # keeps jinja2 from calling it while compiling
def _finalize(context: Context, value: Any) -> str:
    return _text(value)


def _concat(values: list[Any]) -> str:
    return "".join([_text(value) for value in values])


def _check_nested(value: Any) -> None:
    """Raises LimitError for data of more than MAX_ITEMS items, counted as often as they would be written."""
    room = MAX_ITEMS
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                room -= len(item)
                inner.extend(v for v in item.values() if isinstance(v, (dict, list, tuple)))
            else:
                room -= len(item)
                inner.extend(v for v in item if isinstance(v, (dict, list, tuple)))
            if room < 0:
                raise LimitError(f"more than {MAX_ITEMS:,} items of data")
        level = inner


def _check_size(size: int) -> None:
    if size > MAX_CHARS:
        raise LimitError(f"text of {size:,} characters, more than {MAX_CHARS:,}")


def _check_width(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_ITEMS:
            raise LimitError(f"{value} as a width or count, more than {MAX_ITEMS:,}")


_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{7}|\d*\.(?:\*|\d{7}))")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:\d{7}|\{)")


def _check_format(pattern: str, wide: re.Pattern[str]) -> None:
    """Refuses widths of ten million and more, and widths taken from arguments."""
    if wide.search(pattern):
        raise LimitError("a format with a variable or very large width")


def _check_binop(operator: str, left: Any, right: Any) -> None:
    if operator == "+":
        if isinstance(left, str) and isinstance(right, str):
            _check_size(len(left) + len(right))
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) + len(right) > MAX_ITEMS:
            raise LimitError(f"a list of more than {MAX_ITEMS:,} items")
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, (str, list, tuple)) and isinstance(times, int) and len(many) * times > MAX_ITEMS:
                raise LimitError(f"a repetition longer than {MAX_ITEMS:,}")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 10_000:
            raise LimitError("a number of more than 10,000 bits")
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 10_000:
            raise LimitError("a number of more than 10,000 bits")
    elif isinstance(left, str):
        _check_format(left, _WIDE_PERCENT)


def _check_replace(text: str, old: str, new: str) -> None:
    _check_size(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _check_method(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Bounds the string methods whose result can be far larger than what goes in."""
    name = getattr(function, "__name__", "")
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        _check_width((*args, *kwargs.values()))
    elif name in ("format", "format_map"):
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", "")
        _check_format(str(owner), _WIDE_BRACES)
    elif name == "replace" and isinstance(owner := getattr(function, "__self__", None), str) and len(args) > 1:
        _check_replace(owner, str(args[0]), str(args[1]))
    elif name == "join" and isinstance(owner := getattr(function, "__self__", None), str) and args and hasattr(args[0], "__len__"):
        _check_size(len(owner) * len(args[0]))


def _bounded_filters() -> dict[str, Callable[..., Any]]:
    """jinja2's filters that can build much from little, with bounds; and ours."""
    filters: dict[str, Callable[..., Any]] = {"tojson": _to_json, "string": _text, "<count>": _count, "<concat>": _concat}
    for name in ("batch", "center", "indent", "slice", "truncate", "wordwrap"):
        filters[name] = _checked(FILTERS[name], _check_width)
    filters["format"] = _checked(FILTERS["format"], lambda args: _check_format(str(args[0]), _WIDE_PERCENT))
    filters["replace"] = _checked(FILTERS["replace"], lambda args: _check_replace(*map(str, args[1:4])))
    filters["join"] = _join
    return filters


def _checked(inner: Callable[..., Any], check: Callable[[tuple[Any, ...]], None]) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        check((*args, *kwargs.values()))
        return inner(*args, **kwargs)

    bounded.__dict__.update(inner.__dict__)  # jinja2's marks: which first argument it passes
    return bounded


@pass_eval_context
def _join(eval_context: nodes.EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = list(value)
    _check_size(len(str(d)) * len(items))
    return FILTERS["join"](eval_context, items, d, attribute)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """transformers' `tojson`: plain JSON, nothing escaped for HTML."""
    if isinstance(value, (list, tuple, dict)):
        _check_nested(value)
    _check_width([indent])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(str(message))


class _Clock:
    """`strftime_now(pattern)`: the time as the template wants it."""

    def __init__(self, now: datetime | None) -> None:
        self._now = now

    def __call__(self, pattern: str) -> str:
        return (self._now or datetime.now()).strftime(pattern)


class _Dict:
    """`dict(...)` without the type itself, whose unbound methods could change the caller's data."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """jinja2's namespace, without underscore names (as in transformers: they could stand in for Python's internals)."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        attrs = dict(*args[1:], **kwargs)
        for name in attrs:
            _Namespace._check(name)
        Namespace.__init__(args[0], attrs)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}: names with a leading underscore are not allowed")
