"""Templates as the rest of `infer` uses them: sandboxed, bounded, and every failure a RecordError of its record.

A template made of operations whose cost is counted is rendered here, any other in a process with hard limits.

jinja2 is imported when the first template is compiled, not before: plain `infer generate` has none.
"""

from __future__ import annotations

import contextlib
import copy
import re
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, EngineError, RecordError, nearest

if TYPE_CHECKING:
    from jinja2 import nodes

_LONGEST_MESSAGE = 2000
#: Names of a record's fields that a message shows.
_SHOWN = 8
#: What templates call to tell the time.
_CLOCK = "strftime_now"
#: Characters of a template: some thirty times the longest there are.
_LONGEST_SOURCE = 1_000_000


class TemplateSourceError(ValueError):
    """The text is not a jinja2 template. The message says what and in which line."""


class Template:
    """A compiled template.

    Args:
        source: jinja2 text.
        strict: whether using a missing variable is an error.

    Raises TemplateSourceError.
    """

    def __init__(self, source: str, *, strict: bool = False) -> None:
        from jinja2 import TemplateSyntaxError

        from .plain import METHODS, is_plain
        from .sandbox import Sandbox

        if len(source) > _LONGEST_SOURCE:
            raise TemplateSourceError(f"{len(source):,} characters, more than {_LONGEST_SOURCE:,}")
        self._environment = Sandbox(strict=strict)
        self._source, self._strict, self._methods = source, strict, METHODS
        self._now: datetime | None = None
        try:
            tree = self.parse()
            self._is_plain = is_plain(tree)  # before the tree becomes that of what is run
            self._template = self._environment.from_string(tree)
        except TemplateSyntaxError as e:
            raise TemplateSourceError(f"line {e.lineno}: {e.message}") from e
        except Exception as e:  # an unknown filter, nesting beyond Python's limits
            raise TemplateSourceError(f"{type(e).__name__}: {e}") from e

    def parse(self) -> nodes.Template:
        """The syntax tree, as written."""
        return self._environment.parse(self._source)

    def at(self, now: datetime) -> Template:
        """This template at that time, whenever it is rendered."""
        twin = copy.copy(self)
        twin._now = now
        return twin

    def readings(self, now: datetime) -> dict[str, str]:
        """The times that it can tell: pattern -> text; under "" the whole time if a pattern is made while rendering."""
        from jinja2 import nodes

        tree = self.parse()
        patterns: set[str] = set()
        known: set[int] = set()  # the uses of the name that were understood
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == _CLOCK and len(call.args) == 1:
                pattern = call.args[0]
                if isinstance(pattern, nodes.Const) and isinstance(pattern.value, str) and not call.kwargs:
                    patterns.add(pattern.value)
                    known.add(id(call.node))
        for test in tree.find_all(nodes.Test):
            if test.name == "defined":
                known.add(id(test.node))
        if any(name.name == _CLOCK and id(name) not in known for name in tree.find_all(nodes.Name)):
            return {"": now.isoformat()}
        return {pattern: now.strftime(pattern) for pattern in sorted(patterns)}

    def render(self, variables: Mapping[str, Any], *, what: str = "template", param: str | None = None) -> str:
        """The text for these variables, which stay as they are.

        Raises RecordError (template_error) for whatever the template raises and for templates that use too much; `what` begins
        its message and `param` is the field it blames.
        """
        try:
            return self._render(variables)
        except EngineError:
            raise
        except Exception as e:
            raise RecordError("template_error", f"{what}{_why(e)}", param=param) from e

    def _render(self, variables: Mapping[str, Any]) -> str:
        from .sandbox import UncountedError, render  # one import, and the next one not for plain templates: each costs 1 us a record

        if self._is_plain:
            with contextlib.suppress(UncountedError):
                return render(self._template, variables, self._now, methods=self._methods)
        from .renderer import renderer

        return renderer.render(self._source, self._strict, self._now, variables)

    def render_here(self, variables: Mapping[str, Any]) -> str:
        """The text, made in this process whatever it costs. Raises whatever the template raises, and LimitError."""
        from .sandbox import render

        return render(self._template, variables, self._now)


def _why(error: Exception) -> str:
    """The end of a message about a rendering that failed."""
    from .budget import LimitError
    from .renderer import Failed, NotPlainData

    if isinstance(error, LimitError):
        return f": stopped, it needs {error}"
    if isinstance(error, NotPlainData):
        return f": it is rendered in a process of its own, which takes plain data alone ({error})"
    return str(error) if isinstance(error, Failed) else described(error)


class RecordTemplate:
    """`--template FILE`: makes a prompt of a record.

    The record's fields are the template's variables, and `record` is the whole of it (for names that jinja2 cannot spell) unless
    a field has that name. A missing field is an error; `{{ x | default("") }}` and `x is defined` work.
    """

    def __init__(self, template: Template) -> None:
        self._template = template

    @classmethod
    def load(cls, source: str) -> RecordTemplate:
        """Raises ConfigError naming the line if the text is no template."""
        try:
            return cls(Template(source, strict=True))
        except TemplateSourceError as e:
            raise ConfigError(f"--template: {e}") from e

    def at(self, now: datetime) -> RecordTemplate:
        """This template at that time."""
        return RecordTemplate(self._template.at(now))

    def readings(self, now: datetime) -> dict[str, str]:
        """See `Template`."""
        return self._template.readings(now)

    def render(self, record: Mapping[str, Any]) -> str:
        """The prompt for one record. Raises RecordError (template_error) naming a missing field or saying what went wrong."""
        try:
            return self._template.render({"record": record, **record}, what="--template")
        except RecordError as error:
            missing = re.search(r"'(\w+)' is undefined$", error.message)
            if missing is None or missing[1] in record:
                raise
            hint = nearest(missing[1], record) or f" (the record has: {', '.join([*record][:_SHOWN])})"
            raise RecordError(error.code, error.message + hint) from error


def described(error: BaseException) -> str:
    """The line of the template in which an error arose, and the error."""
    return f"{_line(error)}: {_cause(error)}"


def _line(error: BaseException) -> str:
    """` line 3`, the innermost line of the template in the error's traceback, if there is one."""
    lines = [lineno for frame, lineno in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f" line {lines[-1]}" if lines else ""


def _cause(error: BaseException) -> str:
    from jinja2 import TemplateError

    text = str(error)
    if not isinstance(error, TemplateError) or not text:  # jinja2's own errors, and raise_exception's, say it themselves
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"
