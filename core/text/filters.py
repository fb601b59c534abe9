"""The operations of templates that can make much of little, or take long: each is measured before it runs (see `budget.py`)."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType
from typing import Any

from jinja2 import Environment, TemplateRuntimeError, nodes, pass_environment, pass_eval_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS

from .budget import (
    MAX_BITS,
    MAX_ITEMS,
    LimitError,
    budget,
    charge,
    check_chars,
    check_items,
    check_number,
    check_width,
    copied,
    looked,
    measure,
)

#: Filters of jinja2 whose work does not grow with what they are given.
_CONSTANT = frozenset({"abs", "attr", "count", "d", "default", "first", "float", "last", "length", "safe"})
#: Those that give an iterator, whose items are charged as they are taken.
_LAZY = frozenset({"batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"})
#: Steps that a filter costs, whatever it does.
_FILTER = 4
#: Lazy filters within lazy filters.
_MAX_LAZY = 64
#: Characters that strip() may be told to take away, and that may be searched for from the end: these searches try every pair.
_MAX_SET = 1000
_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{7}|\d*\.(?:\*|\d{7}))")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:\d{7}|\{)")
_SCALARS = frozenset({str, int, float, bool, type(None)})

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


class Counted:
    """An iterable whose every item costs characters and steps."""

    __slots__ = ("cost", "items", "text")

    def __init__(self, items: Iterable[Any], text: int, cost: int) -> None:
        self.items = items
        self.text = text
        self.cost = cost

    def __iter__(self) -> Iterator[Any]:
        step, text, cost = budget().step, self.text, self.cost
        for item in self.items:
            step(text, cost)
            yield item


class CountedSized(Counted):
    """One whose length is known: `loop.length` and `loop.last` ask for it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]


class Lazy:
    """What a lazy filter gives: an iterator, once. Iterators of iterators have an end here, as Python's stack has."""

    __slots__ = ("_items", "depth")

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        if depth > _MAX_LAZY:
            raise LimitError(f"filters of filters, {_MAX_LAZY} times and more")
        self._items = items
        self.depth = depth

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        charge()
        return next(self._items)


#: Types whose text would be an address, another one in each process.
_NAMELESS = (GeneratorType, BuiltinFunctionType, FunctionType, MethodType, Lazy)


def text(value: Any) -> str:
    """`str(value)`, charged, and refused for data that would grow without bound (lists that share parts)."""
    if type(value) is str:
        charge(len(value))
        return value
    if type(value) not in _SCALARS:
        kind = type(value)
        if isinstance(value, _NAMELESS) or (kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__):
            raise TemplateRuntimeError(
                "this has no text of its own (an iterator, a function, a method); `| list` gives an iterator's items"
            )
        measure(value)
    made = str(value)
    charge(len(made))
    return made


def concat(values: list[Any]) -> str:
    return "".join([text(value) for value in values])


def count(items: Any, text: int = 0, cost: int = 1) -> Counted:
    return (CountedSized if hasattr(items, "__len__") else Counted)(items, text, cost)


def pay(cost: int) -> None:
    charge(cost=cost)


def cut(value: Any, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    """`value[start:stop:step]`."""
    part = value[start:stop:step]
    if isinstance(part, (str, bytes)):
        copied(part)
    elif isinstance(part, Sized):
        charge(cost=1 + (len(part) >> 3))
    return part


def key(value: Any) -> Any:
    """What something is looked up by: a tuple's hash looks at all that is in it, however deep."""
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
    elif type(left) not in _SCALARS and type(right) not in _SCALARS:
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
        check_format(left, (right,), _WIDE_PERCENT)


def check_format(pattern: Any, args: tuple[Any, ...], wide: re.Pattern[str] = _WIDE_PERCENT) -> None:
    """Refuses widths of ten million and more, widths taken from arguments, and what would be too long with every field at its most."""
    pattern = pattern.decode("latin-1") if isinstance(pattern, bytes) else str(pattern)
    if wide.search(pattern):
        raise LimitError("a format with a variable or very large width")
    fields = pattern.count("%" if wide is _WIDE_PERCENT else "{")
    if fields:
        widest = max((int(digits) for digits in re.findall(r"\d+", pattern) if len(digits) < 8), default=0)
        most = len(pattern) + fields * (widest + measure(args).chars)
        check_chars(most)
        charge(most >> 4, 1 + fields)


def check_replace(text: Any, old: Any, new: Any) -> None:
    """Of two texts in a third, all of a kind."""
    _searched(text, old)
    check_chars(len(text) + text.count(old) * max(0, len(new) - len(old)))


def check_method(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Charges for a method of a text or of data, and bounds those whose result can be far larger than what goes in."""
    name = getattr(function, "__name__", "")
    if name in ("format", "format_map"):
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", "")
        check_format(owner, (*args, *kwargs.values()), _WIDE_BRACES)
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, (str, bytes)):
        looked(len(owner))
        _check_text_method(owner, name, args, kwargs)
    elif isinstance(owner, (list, tuple)) and name in ("index", "count"):
        measure(owner, *args)
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
    """What an operation made, paid for; an endless number is refused."""
    if isinstance(result, str):
        charge(len(result))
    elif isinstance(result, (list, tuple, dict, bytes)):
        charge(cost=1 + len(result))
    return check_number(result)


def bounded_filters() -> dict[str, Callable[..., Any]]:
    """jinja2's filters, with bounds; and ours. `random` would give a record another prompt in every run."""
    filters = {name: _bounded(name, inner) for name, inner in FILTERS.items() if name not in _CONSTANT and name != "random"}
    ours: dict[str, Callable[..., Any]] = {"join": _join, "list": _list, "string": text, "sum": _sum, "tojson": _to_json}
    return {**filters, **ours, "<count>": count, "<pay>": pay, "<concat>": concat, "<cut>": cut, "<key>": key, "<compare>": compare}


def bounded_tests() -> dict[str, Callable[..., Any]]:
    """jinja2's tests that compare."""
    names = {"eq": "eq", "ne": "ne", "gt": "gt", "ge": "gteq", "lt": "lt", "le": "lteq", "in": "in"}
    ours = {name: lambda left, right, op=op: compare(left, op, right) for name, op in names.items()}
    by_function = {TESTS[name]: ours[name] for name in names}
    return {name: by_function[function] for name, function in TESTS.items() if function in by_function}


def _bounded(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    skip = 1 if hasattr(inner, "jinja_pass_arg") else 0
    check = _CHECKS.get(name, _check_unknown)

    def bounded(*args: Any, **kwargs: Any) -> Any:
        check(*args[skip:], *kwargs.values())
        charge(cost=_FILTER)
        result = inner(*args, **kwargs)
        if name in _LAZY and not isinstance(result, str):
            depth = max((value.depth for value in args if isinstance(value, Lazy)), default=0)
            return Lazy(iter(result), depth + 1)
        return charged(result)

    bounded.__dict__.update(inner.__dict__)  # jinja2's marks: which first argument it passes
    return bounded


def _check_shallow(value: Any, *args: Any) -> None:
    if isinstance(value, str):
        looked(len(value))
    else:
        measure(value, *args)


def _check_unknown(*args: Any) -> None:
    """Of filters that go through a text by regular expressions, or make another one of each character."""
    charge(measure(*args).chars << 3)


def _check_lazy(value: Any, *args: Any) -> None:
    measure(*args)


def _check_trim(value: Any, chars: Any = None) -> None:
    looked(len(value) if isinstance(value, str) else measure(value).chars)
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
    **dict.fromkeys(("lower", "upper", "capitalize", "title"), _check_shallow),
    **dict.fromkeys(("items", "map", "reject", "rejectattr", "select", "selectattr"), _check_lazy),
    "trim": _check_trim,
    "indent": _check_made_of_lines,
    **dict.fromkeys(("batch", "center", "slice", "truncate"), _check_pairs),
    "wordwrap": _check_wrapped,
    "format": lambda pattern, *args: check_format(pattern, args),
    "replace": lambda value, old, new, *count: check_replace(str(value), str(old), str(new)),
}


@pass_eval_context
def _join(eval_context: nodes.EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(eval_context.environment, attribute), value)
    items = _list(value)
    size = measure(items)
    check_chars(size.chars + len(text(d)) * len(items))
    return str(charged(FILTERS["join"](eval_context, items, d)))


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
