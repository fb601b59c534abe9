"""Content shapes: what a chat template expects of content and of calls' arguments, read from its syntax tree.

A template that loops over `message['content']` takes a list of parts (vLLM calls it the "openai" format); one that does not,
takes a string. The same names are followed as in vLLM: lists made of `messages`, messages taken from those, contents of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jinja2 import nodes


@dataclass(frozen=True)
class ContentFormat:
    """`parts`: the template loops over a message's content. `wrap`: it does so without asking whether it is a string.
    `text_arguments`: see `takes_text_arguments`. `names`: of the variables that the template looks at."""

    parts: bool
    wrap: bool
    text_arguments: bool = False
    names: frozenset[str] = frozenset()

    @classmethod
    def named(cls, name: str, tree: nodes.Template) -> ContentFormat:
        """By what a user says of it: "openai" is parts whatever the template does, "string" none, "auto" what the template takes."""
        if name == "auto":
            return cls.of(tree)
        found = cls.of(tree)
        return replace(found, parts=name == "openai", wrap=name == "openai")

    @classmethod
    def of(cls, tree: nodes.Template) -> ContentFormat:
        names = _Names()
        while names.learn(tree):
            pass
        parts = any(names.is_content(loop.iter) for loop in tree.find_all(nodes.For))
        asks = any(test.name == "string" for test in tree.find_all(nodes.Test))
        used = frozenset(node.name for node in tree.find_all(nodes.Name))
        return cls(parts=parts, wrap=parts and not asks, text_arguments=takes_text_arguments(tree), names=used)


#: Filters that leave a text a text.
_OF_TEXT = frozenset({"default", "d", "e", "escape", "replace", "safe", "string", "trim"})


def takes_text_arguments(tree: nodes.Template) -> bool:
    """True if a template writes the `arguments` of a call as they are, so that they must be the text of JSON (DeepSeek's do).

    One that asks for their type, walks through them or makes JSON of them takes objects.
    """
    names: set[str] = set()

    def is_arguments(node: nodes.Node | None) -> bool:
        while isinstance(node, nodes.Filter) and node.name in _OF_TEXT:
            node = node.node
        if isinstance(node, nodes.Getattr):
            return node.attr == "arguments"
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "arguments"
        return _variable(node) in names

    for assign in tree.find_all(nodes.Assign):
        if is_arguments(assign.node) and (name := _variable(assign.target)) is not None:
            names.add(name)
    walked = (
        any(is_arguments(test.node) for test in tree.find_all(nodes.Test))
        or any(is_arguments(filter_.node) for filter_ in tree.find_all(nodes.Filter) if filter_.name not in _OF_TEXT)
        or any(is_arguments(loop.iter) for loop in tree.find_all(nodes.For))
        or any(is_arguments(part.node) for part in tree.find_all(nodes.Getattr))
        or any(is_arguments(part.node) for part in tree.find_all(nodes.Getitem))
    )
    written = (
        any(is_arguments(node) for output in tree.find_all(nodes.Output) for node in output.nodes)
        or any(is_arguments(node) for joined in tree.find_all(nodes.Concat) for node in joined.nodes)
        or any(is_arguments(node) for added in tree.find_all(nodes.Add) for node in (added.left, added.right))
    )
    return written and not walked


class _Names:
    """The template's variables that hold lists of messages, messages, and contents."""

    def __init__(self) -> None:
        self._lists = {"messages"}
        self._messages: set[str] = set()
        self._contents: set[str] = set()

    def learn(self, tree: nodes.Template) -> bool:
        """One pass over assignments and loops; whether it found new names."""
        before = len(self._lists) + len(self._messages) + len(self._contents)
        for loop in tree.find_all(nodes.For):
            if self._is_list(loop.iter) and isinstance(loop.target, nodes.Name):
                self._messages.add(loop.target.name)
        for assign in tree.find_all(nodes.Assign):
            name = _variable(assign.target)
            if name is None:
                continue
            if self._is_list(assign.node):
                self._lists.add(name)
            elif self._is_message(assign.node):
                self._messages.add(name)
            elif self.is_content(assign.node):
                self._contents.add(name)
        return len(self._lists) + len(self._messages) + len(self._contents) > before

    def _is_list(self, node: nodes.Node | None) -> bool:
        node = _peel(node)
        return _variable(node) in self._lists

    def _is_message(self, node: nodes.Node | None) -> bool:
        node = _peel(node)
        if _variable(node) in self._messages:
            return True
        return isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice) and self._is_list(node.node)

    def is_content(self, node: nodes.Node | None) -> bool:
        """True if an expression is the content of a message."""
        node = _peel(node)
        if _variable(node) in self._contents:
            return True
        if isinstance(node, nodes.Getattr):
            return node.attr == "content" and self._is_message(node.node)
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content" and self._is_message(node.node)
        return False


def _variable(node: nodes.Node | None) -> str | None:
    """The name of a variable or of a namespace's attribute, as one string."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


def _peel(node: nodes.Node | None) -> nodes.Node | None:
    """The expression under filters and slices."""
    while isinstance(node, nodes.Filter) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
        node = node.node
    return node
