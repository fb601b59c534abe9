"""The operations of templates that can make much of little, or take long: each is measured before it runs (see `budget.py`).

The file is as long as the list of these operations: one short check for each kind.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Set, Sized
from itertools import islice
from typing import Any

from jinja2 import Environment, TemplateRuntimeError, nodes, pass_environment, pass_eval_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS
from markupsafe import Markup

from .as_text import SCALARS, check_text, concat, text
from .budget import (
    MAX_BITS,
    MAX_ITEMS,
    LimitError,
    charge,
    check_chars,
    check_items,
    check_number,
    check_width,
    copied,
    looked,
    measure,
)
from .counted import Lazy, count, pay
from .field_widths import check_braces, check_percent

#: Filters of jinja2 whose work does not grow with what they are given.
_CONSTANT = frozenset({"abs", "attr", "count", "d", "default", "first", "float", "last", "length"})
#: Those that give an iterator, whose items are charged as they are taken.
_LAZY = frozenset({"batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"})
#: Those that pass over items which they do not give: each is charged as they look at it.
_CHOOSING = frozenset({"reject", "rejectattr", "select", "selectattr", "unique"})
#: Steps that a filter costs, whatever it does.
_FILTER = 4
#: Characters that strip() may be told to take away, and that may be searched for from the end: these searches try every pair.
_MAX_SET = 1000

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


def cut(value: Any, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    """`value[start:stop:step]`."""
    part = value[start:stop:step]
    if isinstance(part, (str, bytes)):
        copied(part)
    elif isinstance(part, Sized):
        charge(cost=1 + (len(part) >> 3))
    return part


def key(value: Any) -> Any:
    """A key, charged before it is hashed: a tuple's hash looks at all that is in it, however deep."""
    if isinstance(value, (tuple, list, dict)):
        measure(value)
    return value


def compare(left: Any, name: str, right: Any) -> Any:
    """`left == right` and so on, by the names of jinja2's syntax tree."""
    if type(left) is str and type(right) is str:
        if name in ("in", "notin"):
            if len(right) > 255:
                _searched(right, left)
        elif len(left) > 255 < len(right):
            looked(min(len(left), len(right)))
    elif name in ("in", "notin"):
        _check_in(left, right)
    elif type(left) not in SCALARS and type(right) not in SCALARS:
        measure(left, right)
    return OPERATORS[name](left, right)


def _check_in(left: Any, right: Any) -> None:
    if isinstance(right, dict):
        key(left)
    elif isinstance(left, (tuple, list, dict)):
        measure(left, right)
    elif isinstance(right, Sized):
        charge(cost=1 + (len(right) >> 3))
        if isinstance(left, str):
            looked(len(left) * len(right))


def _searched(owner: Any, needle: Any) -> None:
    """Charges for a search: of short texts every pair may be tried; Python searches longer ones in one go."""
    pairs = len(owner) * len(needle)
    charge(len(owner) >> 4, 1 + (min(pairs, 10_000_000) >> 12))


def check_binop(op: str, left: Any, right: Any) -> None:
    """Of `+ - * / // % **`. Raises LimitError."""
    if op == "+":
        if isinstance(left, (str, bytes)) and isinstance(right, (str, bytes)):
            check_chars(len(left) + len(right))
            copied(left, right)
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            if len(left) + len(right) > MAX_ITEMS:
                raise LimitError(f"a list of more than {MAX_ITEMS:,} items")
            charge(cost=1 + (len(left) + len(right) >> 3))
    elif op == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, Sized) and isinstance(times, int):
                size = len(many) * max(0, times)
                if size > MAX_ITEMS:
                    raise LimitError(f"a repetition longer than {MAX_ITEMS:,}")
                charge(cost=1 + (size >> 4 if isinstance(many, (str, bytes)) else size))
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
            raise LimitError(f"a number of more than {MAX_BITS:,} bits")
    elif op == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise LimitError(f"a number of more than {MAX_BITS:,} bits")
    elif op == "%" and isinstance(left, (str, bytes)):
        check_percent(left, right)
    elif op == "-" and (isinstance(left, Set) or isinstance(right, Set)):
        raise TemplateRuntimeError("a difference of keys or items has no order, and would be another prompt in every run; use `reject`")


def check_replace(text: Any, old: Any, new: Any) -> None:
    """Of two texts in a third, all of a kind."""
    _searched(text, old)
    check_chars(len(text) + text.count(old) * max(0, len(new) - len(old)))


def check_method(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Charges for a method of a text or of data, and bounds those whose result can be far larger than what goes in."""
    name = getattr(function, "__name__", "")
    if name in ("format", "format_map"):
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", "")
        check_braces(owner, (*args, *kwargs.values()))
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, (str, bytes)):
        looked(len(owner))
        _check_text_method(owner, name, args, kwargs)
    elif isinstance(owner, (list, tuple, range)) and name in ("index", "count"):
        measure(owner, *args)
        charge(cost=1 + len(owner))
    else:
        for arg in args:
            key(arg)


def _check_text_method(owner: str | bytes, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = (*args, *kwargs.values())
    first = args[0] if args and isinstance(args[0], type(owner)) else kwargs.get("sep")
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        check_width(given)
        if name == "expandtabs":
            check_chars(len(owner) + _tabs(owner) * max((8, *filter(_is_int, given))))
    elif name in ("strip", "lstrip", "rstrip"):
        _check_set(first)
    elif name in ("rfind", "rindex", "rsplit", "rpartition") and first is not None:
        charge(cost=1 + (len(owner) * len(first) >> 6))
    elif name in ("find", "index", "count", "partition") and first is not None:
        _searched(owner, first)
    elif name == "replace" and len(args) > 1 and isinstance(args[1], type(owner)) and first is not None:
        check_replace(owner, first, args[1])
    elif name == "translate":
        check_chars(len(owner) * max(1, measure(args).chars))
    elif name == "join" and args:
        if isinstance(args[0], Sized):
            size = measure(args[0])
            check_chars(size.chars + len(owner) * len(args[0]))
        else:
            raise LimitError("text.join(iterator): make a list of it first")
    if name in ("split", "rsplit", "splitlines") and len(owner) > MAX_ITEMS:
        parts: Any = owner
        check_items(parts.count(first) if first else len(parts.split(None, MAX_ITEMS + 1)))


def _tabs(owner: str | bytes) -> int:
    return owner.count("\t") if isinstance(owner, str) else owner.count(b"\t")


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _check_set(chars: Any) -> None:
    if isinstance(chars, Sized) and len(chars) > _MAX_SET:
        raise LimitError(f"more than {_MAX_SET} characters to strip")


def charged(result: Any) -> Any:
    """The result of an operation, charged; a number that is too long is refused."""
    if isinstance(result, str):
        charge(len(result))
    elif isinstance(result, (list, tuple, dict, bytes)):
        charge(cost=1 + len(result))
    return check_number(result)


def bounded_filters() -> dict[str, Callable[..., Any]]:
    """jinja2's filters, with bounds; and ours. `random` would give a record another prompt in every run."""
    filters = {name: _bounded(name, inner) for name, inner in FILTERS.items() if name not in _CONSTANT and name != "random"}
    ours: dict[str, Callable[..., Any]] = {"join": _join, "list": _list, "string": text, "safe": _safe, "sum": _sum, "tojson": _to_json}
    return {**filters, **ours, "<count>": count, "<pay>": pay, "<concat>": concat, "<cut>": cut, "<key>": key, "<compare>": compare}


def bounded_tests() -> dict[str, Callable[..., Any]]:
    """jinja2's tests that compare, look through a text, or make one."""
    names = {"eq": "eq", "ne": "ne", "gt": "gt", "ge": "gteq", "lt": "lt", "le": "lteq", "in": "in"}
    ours = {name: lambda left, right, op=op: compare(left, op, right) for name, op in names.items()}
    by_function = {TESTS[name]: ours[name] for name in names}
    for name in ("lower", "upper"):
        by_function[TESTS[name]] = _checked(TESTS[name], _check_cased)
    for name in ("odd", "even", "divisibleby"):
        by_function[TESTS[name]] = _checked(TESTS[name], _check_remainder)
    return {name: by_function[function] for name, function in TESTS.items() if function in by_function}


def _checked(inner: Any, check: Callable[..., None]) -> Callable[..., Any]:
    def checked(*args: Any) -> Any:
        check(*args)
        return inner(*args)

    return checked


def _check_cased(value: Any) -> None:
    """As slow as writing it."""
    charge(check_text(value))


def _check_remainder(value: Any, by: Any = 2) -> None:
    check_binop("%", value, by)


def _bounded(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    skip = 1 if hasattr(inner, "jinja_pass_arg") else 0
    check = _CHECKS.get(name, _check_unknown)

    def bounded(*args: Any, **kwargs: Any) -> Any:
        check(*args[skip:], *kwargs.values())
        charge(cost=_FILTER)
        depth = max((value.depth for value in args if isinstance(value, Lazy)), default=0)
        if name in _CHOOSING and len(args) > skip:
            args = (*args[:skip], count(args[skip], cost=2), *args[skip + 1 :])
        result = inner(*args, **kwargs)
        if name in _LAZY and not isinstance(result, str):
            return Lazy(iter(result), depth + 1)
        return charged(result)

    bounded.__dict__.update(inner.__dict__)  # jinja2's marks: which first argument it passes
    return bounded


def _check_replaced(value: Any, old: Any, new: Any, *count: Any) -> None:
    for one in (value, old, new):
        check_text(one)
    check_replace(str(value), str(old), str(new))


def _check_marked(value: Any, *args: Any) -> None:
    check_text(value)
    _check_unknown(value, *args)


def _check_unknown(*args: Any) -> None:
    """Of filters that go through a text by regular expressions, or make another one of each character."""
    charge(measure(*args).chars << 3)


def _check_lazy(value: Any, *args: Any) -> None:
    measure(*args)


def _check_title(value: Any) -> None:
    """Of each word a new one is made."""
    size = check_text(value)
    charge(cost=size >> 1)


def _check_rounded(value: Any, *given: Any) -> None:
    """It multiplies by ten to the power of its precision."""
    for precision in filter(_is_int, given):
        check_binop("**", 10, precision)
    measure(value)


def _check_trim(value: Any, chars: Any = None) -> None:
    check_text(value)
    _check_set(chars)


def _check_made_of_lines(value: Any, *widths: Any) -> None:
    check_width(widths)
    indent = max((len(w) if isinstance(w, str) else w for w in widths if isinstance(w, (str, int))), default=4)
    if isinstance(value, str):
        check_chars(len(value) + (value.count("\n") + 1) * indent)
    measure(value)


def _check_pairs(value: Any, *args: Any) -> None:
    check_width(args)
    measure(value, *args)
    if isinstance(value, str):
        charge(len(value), len(value) >> 4)


def _check_wrapped(value: Any, width: Any = 79, *args: Any) -> None:
    """A long word is copied again for each line that it is broken into."""
    _check_pairs(value, width, *args)
    if isinstance(value, str) and isinstance(width, int):
        longest = max(map(len, value.split()), default=0)
        charge(len(value), longest * (longest // max(1, width)) >> 6)


_CHECKS: dict[str, Any] = {
    **dict.fromkeys(("lower", "upper", "capitalize"), check_text),
    "title": _check_title,
    "round": _check_rounded,
    **dict.fromkeys(("e", "escape", "forceescape", "pprint", "striptags", "urlize", "wordcount"), _check_marked),
    **dict.fromkeys(("items", "map", "reject", "rejectattr", "select", "selectattr"), _check_lazy),
    "trim": _check_trim,
    "indent": _check_made_of_lines,
    **dict.fromkeys(("batch", "center", "slice", "truncate"), _check_pairs),
    "wordwrap": _check_wrapped,
    "format": lambda pattern, *args: check_percent(pattern, args),
    "replace": _check_replaced,
}


@pass_eval_context
def _join(eval_context: nodes.EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(eval_context.environment, attribute), value)
    items = _list(value)
    check_chars(check_text(items) + len(text(d)) * len(items))
    return str(charged(FILTERS["join"](eval_context, items, d)))


def _safe(value: Any) -> Markup:
    return Markup(text(value))


def _list(value: Any) -> list[Any]:
    if isinstance(value, Sized):
        check_items(len(value))
        charge(cost=len(value))
        return list(value)  # type: ignore[call-overload]
    items = list(islice(count(value), MAX_ITEMS + 1))
    check_items(len(items))
    return items


@pass_environment
def _sum(environment: Environment, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Each addition is charged: of lists all is copied each time."""
    items = _list(value if attribute is None else map(make_attrgetter(environment, attribute), value))
    if not isinstance(start, (list, tuple)):
        return check_number(sum(items, start))
    for item in items:
        check_binop("+", start, item)
        start = start + item
    return start


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """transformers' `tojson`: plain JSON, nothing escaped for HTML."""
    size = measure(value)
    check_width([indent])
    step = len(indent) if isinstance(indent, str) else indent or 0
    between = measure(separators).chars if separators else 2
    check_chars(size.chars * (12 if ensure_ascii and size.chars > MAX_ITEMS else 1) + size.items * (size.depth * step + between))
    return str(charged(json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)))
