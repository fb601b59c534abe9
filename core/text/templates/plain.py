"""Plain templates, which are rendered in this process: their operations are cheap or counted.

Nearly all chat templates are. What is left (format strings, bytes, recursion, inheritance, rarely used filters) may run in ways that
no count foresees, so it is rendered in a process with hard limits (`renderer.py`), which costs a round trip. The syntax tells what is
called by the name of an attribute; what a namespace's attribute really is, and whether it is one of METHODS, is looked at in the call.
"""

from __future__ import annotations

from jinja2 import nodes

#: Kinds of syntax. Calls, filters, tests and tuples are looked at more closely.
_SYNTAX = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.Name,
    nodes.NSRef,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.For,
    nodes.If,
    nodes.Assign,
    nodes.AssignBlock,
    nodes.Macro,
    nodes.Break,
    nodes.Continue,
    nodes.Scope,
    nodes.CondExpr,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Compare,
    nodes.Operand,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Mod,
    nodes.Neg,
    nodes.Pos,
    nodes.List,
    nodes.Dict,
    nodes.Pair,
    nodes.Keyword,
    nodes.Tuple,
    nodes.Filter,
    nodes.Test,
    nodes.Call,
)
_FILTERS = frozenset(
    [
        "capitalize",
        "count",
        "d",
        "default",
        "first",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "reject",
        "rejectattr",
        "replace",
        "safe",
        "select",
        "selectattr",
        "string",
        "title",
        "tojson",
        "trim",
        "upper",
    ]
)
_TESTS = frozenset(
    [
        "boolean",
        "defined",
        "eq",
        "equalto",
        "==",
        "ne",
        "!=",
        "false",
        "filter",
        "float",
        "in",
        "integer",
        "iterable",
        "lower",
        "mapping",
        "none",
        "number",
        "sequence",
        "string",
        "true",
        "undefined",
        "upper",
    ]
)
METHODS = frozenset(
    [
        "capitalize",
        "count",
        "endswith",
        "find",
        "get",
        "index",
        "items",
        "join",
        "keys",
        "lower",
        "lstrip",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
        "values",
    ]
)
#: Globals that may be called.
_FUNCTIONS = frozenset({"namespace", "raise_exception", "range", "strftime_now"})


def is_plain(tree: nodes.Template) -> bool:
    """True if a template, as parsed, is made of such operations alone."""
    found: list[nodes.Node] = [tree]
    for node in found:  # which grows
        if not isinstance(node, _SYNTAX):
            return False
        found.extend(node.iter_child_nodes())
    macros = {node.name for node in found if isinstance(node, nodes.Macro)}
    stored = {node.name for node in found if isinstance(node, nodes.Name) and node.ctx != "load"}
    callable_names = (_FUNCTIONS | macros) - stored
    return all(_is_allowed(node, callable_names) for node in found)


def _is_allowed(node: nodes.Node, callable_names: frozenset[str]) -> bool:
    if isinstance(node, nodes.Filter):
        named = node.name == "map" and node.args  # map("upper"): the name of another filter
        return (
            node.name in _FILTERS
            and not (node.dyn_args or node.dyn_kwargs)
            and (not named or _is_one_of(node.args[0], _FILTERS))
            and (node.name not in ("select", "reject") or all(_is_one_of(arg, _TESTS) for arg in node.args[:1]))
            and (node.name not in ("selectattr", "rejectattr") or all(_is_one_of(arg, _TESTS) for arg in node.args[1:2]))
        )
    if isinstance(node, nodes.Test):
        return node.name in _TESTS and not (node.dyn_args or node.dyn_kwargs)
    if isinstance(node, nodes.Call):
        return not (node.dyn_args or node.dyn_kwargs) and _is_callable(node.node, callable_names)
    if isinstance(node, nodes.Tuple):  # of other things it may be nested without end
        return node.ctx != "load" or all(isinstance(item, nodes.Const) for item in node.items)
    if isinstance(node, nodes.Compare):
        return len(node.ops) == 1
    if isinstance(node, nodes.For):
        return not node.recursive
    if isinstance(node, nodes.Getattr):
        return not node.attr.startswith("_")
    return not (isinstance(node, nodes.AssignBlock) and node.filter is not None)


def _is_callable(node: nodes.Node, names: frozenset[str]) -> bool:
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr in METHODS
    return False


def _is_one_of(node: nodes.Node, names: frozenset[str]) -> bool:
    return isinstance(node, nodes.Const) and node.value in names
