"""Sandbox: the jinja2 environment in which templates run, with what they may touch and how much they may use.

A chat template comes with the model and is as little trusted as the weights. jinja2's immutable sandbox keeps it from Python's
internals and from changing its arguments. On top of that a rendering has a budget (`budget.py`) that every operation is charged to:
loops, calls, operators, comparisons, slices and filters (`filters.py`). Imports jinja2: import this module only when a template is
about to be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import reduce
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes, pass_context
from jinja2.environment import Template as JinjaTemplate
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from . import budget, filters
from .as_text import text
from .budget import MAX_CHARS, LimitError
from .counted import count

#: Characters of a pattern for dates.
_MAX_DATE = 1000
#: Names that Python finds in any dict, and not among its keys.
_IN_DICTS = frozenset(dir(dict))


class UncountedError(Exception):
    """The template calls a method whose cost may not be counted."""


def render(
    template: JinjaTemplate, variables: Mapping[str, Any], now: datetime | None = None, *, methods: frozenset[str] | None = None
) -> str:
    """The text of a template. Raises whatever the template raises, LimitError, and UncountedError.

    Args:
        now: the time that `strftime_now` tells; None: that of each call.
        methods: names of those that may be called, however the template came by them; None: any.
    """
    budget.renew(methods)
    room = MAX_CHARS
    parts: list[str] = []
    for part in template.generate({"strftime_now": _Clock(now), **variables}):
        room -= len(part)
        if room < 0:
            raise LimitError(f"more than {MAX_CHARS:,} characters of text")
        parts.append(part)
    return "".join(parts)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment: whitespace rules, extensions, globals and filters are those of transformers' chat templates.

    Args:
        strict: whether using a missing variable is an error (else it renders as nothing, as chat templates expect).
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined if strict else Undefined,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
            finalize=_finalize,
            optimized=False,  # no constant folding: nothing of a template runs before it is rendered
        )
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.globals.pop("lipsum", None)  # this and `random` would give a record another prompt in every run
        self.filters.pop("random", None)
        self.filters.update(filters.bounded_filters())
        self.tests.update(filters.bounded_tests())

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        metered = _Meter().visit(source)
        metered.set_environment(self)
        return super()._generate(metered, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # As jinja2 does it, less an AttributeError for each key: this is most of what chat templates do.
        if type(obj) is dict and attribute in obj and attribute not in _IN_DICTS:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if type(obj) in _HARMLESS:
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is str and type(right) is str and len(left) + len(right) < 256:
            return left + right
        filters.check_binop(operator, left, right)
        result = self.binop_table[operator](left, right)
        return filters.charged(result) if operator == "%" else budget.check_number(result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        left = budget.budget()
        left.step(cost=budget.CALL + len(args) + len(kwargs))
        left.calls += 1
        if left.calls > budget.MAX_CALLS:
            raise LimitError(f"more than {budget.MAX_CALLS} calls within calls")
        if left.methods is not None and _is_method(__obj) and __obj.__name__ not in left.methods:
            raise UncountedError
        filters.check_method(__obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        left.calls -= 1
        return result if type(getattr(__obj, "__self__", None)) is dict else filters.charged(result)  # `get` makes nothing


def _is_method(function: Any) -> bool:
    """True for a method of data, or what jinja2 puts in place of `str.format`; other functions are globals."""
    kind = type(function)
    return kind is BuiltinMethodType or kind is MethodType or (kind is FunctionType and hasattr(function, "__wrapped__"))


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
        text, cost = _own_costs([*node.body, *([node.test] if node.test else [])])
        costs = [nodes.Const(text), nodes.Const(1 + cost)]
        node.iter = nodes.Filter(node.iter, "<count>", costs, [], None, None, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        _, cost = _own_costs(node.body)
        paid = nodes.Filter(nodes.Const(cost), "<pay>", [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(paid, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "<concat>", [], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if any(side.find(nodes.Call) for side in sides[1:-1]):  # `a < f() < c` calls once: left to Python, and so to `renderer.py`
            return node
        parts: list[nodes.Expr] = [
            nodes.Filter(left, "<compare>", [nodes.Const(operand.op), operand.expr], [], None, None, lineno=node.lineno)
            for left, operand in zip(sides[:-1], node.ops, strict=True)
        ]
        return reduce(nodes.And, parts)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const):
            return node
        if not isinstance(node.arg, nodes.Slice):
            node.arg = nodes.Filter(node.arg, "<key>", [], [], None, None, lineno=node.lineno)
            return node
        ends = [end or nodes.Const(None) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return nodes.Filter(node.node, "<cut>", ends, [], None, None, lineno=node.lineno)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = nodes.Filter(node.key, "<key>", [], [], None, None, lineno=node.lineno)
        return node


#: Steps that some kinds of syntax cost for their time or the memory they take, beside what they are charged as they run.
_COSTS: dict[type[nodes.Node], int] = {nodes.List: 1, nodes.Tuple: 1, nodes.Dict: 3, nodes.Filter: 1, nodes.Getattr: 1, nodes.Getitem: 1}
#: So many nodes of any kind cost one more.
_CHEAP = 16


def _own_costs(body: Iterable[nodes.Node]) -> tuple[int, int]:
    """Of one pass through a body, less the loops and macros inside, which count their own: characters of literal text, and steps."""
    text = steps = others = 0
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, nodes.TemplateData):
            text += len(node.data)
        steps += _COSTS.get(type(node), 0)
        others += 1
        if isinstance(node, nodes.For):
            todo += [node.iter, *node.else_]
        elif not isinstance(node, nodes.Macro):
            todo.extend(node.iter_child_nodes())
    return text, steps + others // _CHEAP


@pass_context  # keeps jinja2 from calling it while compiling
def _finalize(context: Context, value: Any) -> str:
    return text(value)


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(text(message))


class _Clock:
    """`strftime_now(pattern)`: the time as the template wants it."""

    def __init__(self, now: datetime | None) -> None:
        self._now = now

    def __call__(self, pattern: str) -> str:
        if len(pattern) > _MAX_DATE:
            raise LimitError(f"a date of more than {_MAX_DATE:,} characters")
        return (self._now or datetime.now()).strftime(pattern)


class _Dict:
    """`dict(...)` without the type itself, whose unbound methods could change the caller's data."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*map(_pairs, args), **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(map(filters.key, count(keys)), value)


def _pairs(given: Any) -> Any:
    """An argument of `dict()`: a mapping, or pairs, whose keys are looked at before they are hashed."""
    if isinstance(given, Mapping):
        return given
    return [(filters.key(key), value) for key, value in count(given)]


class _Namespace(Namespace):
    """jinja2's namespace, without underscore names (as in transformers: they could stand in for Python's internals)."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        attrs = dict(*map(_pairs, args[1:]), **kwargs)
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


#: Types of which every name without an underscore may be read.
_HARMLESS = frozenset({str, LoopContext, _Namespace})
