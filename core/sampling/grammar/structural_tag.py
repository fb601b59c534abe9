"""Structural tags in the grammar library's language: free text with parts that follow schemas, regular expressions or grammars.

The format is xgrammar's (`{"type": "structural_tag", "format": {...}}`), or the older `{"structures": [...], "triggers": [...]}`. Free
text ends where the text after it first occurs, so that text has to be known: an `any_text` stands at the very end, or before a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import RecordError
from . import descent, ebnf, regex

_TIMES = {"optional": "?", "star": "*", "plus": "+"}
_OPTIONS = ("style", "any_order", "excludes", "max_tokens", "max_chars", "max_whitespace_cnt")


class StructuralTag:
    """Rules of a structural tag.

    Args:
        tag: parsed JSON.
        specials: text of a special token -> its id. Where a tag spells one, that token stands there.
        json_grammar: makes a grammar of a schema, as the library's JSON for one; raises RecordError.

    Attributes:
        lark: the grammar, from its rule `start`.
        parts: grammars that it refers to by name.

    Raises RecordError (grammar_error, unsupported).
    """

    def __init__(self, tag: Any, specials: Mapping[str, int], json_grammar: Any) -> None:
        self._specials = dict(sorted(specials.items(), key=lambda item: -len(item[0])))
        self._json_grammar = json_grammar
        self._rules: list[str] = []
        self.parts: list[dict[str, Any]] = []
        tag = _modern(tag)
        if not isinstance(tag, Mapping) or not isinstance(tag.get("format"), Mapping):
            raise _error("it needs a format")
        start = self._format(tag["format"], 0, last=True)
        self.lark = "\n".join([f"start: {start}", *self._rules])

    # -- formats -------------------------------------------------------------------------------------------------
    def _format(self, part: Any, depth: int, *, last: bool) -> str:
        """An expression for a format.

        Args:
            last: nothing may follow it.
        """
        if depth > descent.MAX_DEPTH:
            raise _error(f"it is nested deeper than {descent.MAX_DEPTH}")
        if not isinstance(part, Mapping):
            raise _error(f"a format is an object, not {type(part).__name__}")
        kind = part.get("type")
        for name in _OPTIONS:
            if name == "excludes" and kind in ("any_text", "triggered_tags"):
                continue
            if part.get(name) not in (None, False, [], "json", "") and not (name == "max_chars" and kind == "any_text"):
                raise RecordError("unsupported", f"structural tag: {name} of {kind} is not supported")
        if kind == "const_string":
            return self._literal(_text(part, "value"))
        if kind == "json_schema":
            return self._json(part)
        if kind == "regex":
            return self._terminal(_pattern(part))
        if kind == "grammar":
            return self._grammar(part)
        if kind == "token":
            return self._token(part.get("token"))
        if kind == "any_text":
            if not last:
                raise RecordError("unsupported", "structural tag: any_text is supported at the end, or before a text")
            return self._terminal(_free(part))
        if kind == "sequence":
            return self._sequence(_list(part, "elements"), depth, last=last)
        if kind == "or":
            return self._rule(" | ".join(self._format(one, depth + 1, last=last) for one in _list(part, "elements")))
        if kind == "tag":
            return self._tag(part, depth)
        if kind == "triggered_tags":
            return self._triggered(part, depth, last=last)
        if kind == "tags_with_separator":
            return self._separated(part, depth)
        if kind in _TIMES:
            return self._rule(self._rule(self._format(part.get("content"), depth + 1, last=False)) + _TIMES[kind])
        if kind == "repeat":
            return self._repeat(part, depth)
        raise RecordError("unsupported", f"structural tag: a format of type {str(kind)[:100]!r} is not supported")

    def _sequence(self, elements: list[Any], depth: int, *, last: bool) -> str:
        written: list[str] = []
        for i, one in enumerate(elements):
            follows = elements[i + 1] if i + 1 < len(elements) else None
            if isinstance(one, Mapping) and one.get("type") == "any_text" and isinstance(follows, Mapping):
                known = {"const_string": "value", "tag": "begin"}.get(str(follows.get("type")))
                if known is None or not isinstance(follows.get(known), str) or not follows[known]:
                    raise RecordError("unsupported", "structural tag: any_text is supported at the end, or before a text")
                written.append(self._up_to(_free(one), [follows[known]]))
                elements = [*elements[: i + 1], {**follows, known: ""}, *elements[i + 2 :]]
                continue
            written.append(self._format(elements[i], depth + 1, last=last and i + 1 == len(elements)))
        return self._rule(" ".join(written))

    def _tag(self, tag: Any, depth: int, *, begun: int = 0) -> str:
        """A tag without the first `begun` characters of its beginning."""
        if not isinstance(tag, Mapping):
            raise _error("a tag needs begin, content and end")
        begin, ends, content = tag.get("begin"), tag.get("end"), tag.get("content")
        opening = self._token(begin.get("token")) if isinstance(begin, Mapping) else self._literal(_text(tag, "begin")[begun:])
        if isinstance(ends, Mapping):
            closing: list[str] = []
            ending = self._token(ends.get("token"))
        else:
            closing = [ends] if isinstance(ends, str) else ends if isinstance(ends, list) else []
            if not closing or not all(isinstance(text, str) for text in closing):
                raise _error("the end of a tag is a text, a list of texts, or a token")
            ending = self._rule(" | ".join(map(self._literal, closing)))
        if not isinstance(content, Mapping):
            raise _error("the content of a tag is a format")
        kind = content.get("type")
        plain = bool(closing) and all(closing) and not any(self._named(text) for text in closing)
        if kind == "any_text" and plain:
            return self._rule(f"{opening} {self._up_to(_free(content), closing)}")
        if kind == "any_text" and not any(closing):  # up to a special token, or to the end of all
            return self._rule(f"{opening} {self._terminal(_free(content))} {ending}")
        if kind == "regex" and plain:
            return self._rule(f"{opening} {self._up_to(_pattern(content), closing)}")
        return self._rule(f"{opening} {self._format(content, depth + 1, last=False)} {ending}")

    def _triggered(self, part: Mapping[str, Any], depth: int, *, last: bool) -> str:
        triggers, tags = _list(part, "triggers"), _list(part, "tags")
        if not all(isinstance(trigger, str) and trigger for trigger in triggers):
            raise _error("triggers are texts")
        once, now = bool(part.get("stop_after_first")), bool(part.get("at_least_one"))
        if not last and not once:
            raise RecordError("unsupported", "structural tag: triggered_tags without stop_after_first is supported at the end only")
        free = _free(part)
        met, first = [], []
        for tag in tags:
            begin = tag.get("begin") if isinstance(tag, Mapping) else None
            trigger = next((t for t in triggers if isinstance(begin, str) and begin.startswith(t)), None)
            if trigger is None:
                raise _error(f"no trigger begins the tag {str(begin)[:100]!r}")
            if self._named(trigger):
                head = f"{self._terminal(free)} {self._literal(trigger)}"
            else:
                head = self._up_to(free, [trigger])
            met.append(self._rule(f"{head} {self._tag(tag, depth + 1, begun=len(trigger))}"))
            first.append(self._tag(tag, depth + 1))
        some, begins, tail = self._rule(" | ".join(met)), self._rule(" | ".join(first)), self._terminal(free)
        if once:
            return begins if now else self._rule(f"{some} | {tail}")
        return self._rule(f"{begins} {some}* {tail}" if now else f"{some}* {tail}")

    def _separated(self, part: Mapping[str, Any], depth: int) -> str:
        tag = self._rule(" | ".join(self._tag(tag, depth + 1) for tag in _list(part, "tags")))
        some = tag if part.get("stop_after_first") else self._rule(f"{tag} ({self._literal(_text(part, 'separator'))} {tag})*")
        return some if part.get("at_least_one") else self._rule(f"{some}?")

    def _repeat(self, part: Mapping[str, Any], depth: int) -> str:
        low, high = part.get("min"), part.get("max")
        if (
            type(low) is not int
            or type(high) is not int
            or not 0 <= low <= descent.MAX_COUNT
            or high > descent.MAX_COUNT
            or -1 < high < low
        ):
            raise _error("the counts of a repeat are whole numbers, the lower one first")
        if not high:
            return '""'
        inner = self._rule(self._format(part.get("content"), depth + 1, last=False))
        return self._rule(f"{inner}{{{low},{'' if high < 0 else high}}}")

    # -- what they are made of -----------------------------------------------------------------------------------
    def _rule(self, body: str) -> str:
        name = f"t{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = f"T{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _up_to(self, text: str, ends: list[str]) -> str:
        """A text (of a terminal's body) to the first place where one of `ends` completes it, which is included."""
        terminal = self._terminal(f"({text}) /(?:{'|'.join(map(regex.spelled, ends))})/")
        name = f"t{len(self._rules)}"
        self._rules.append(f"{name}[lazy]: {terminal}")
        return name

    def _named(self, text: str) -> bool:
        return any(name in text for name in self._specials)

    def _literal(self, text: str) -> str:
        """A text, with the special tokens that it spells."""
        for name, token in self._specials.items():
            before, found, after = text.partition(name)
            if found:
                return " ".join(filter(None, (before and self._literal(before), f"<[{token}]>", after and self._literal(after))))
        return ebnf.literal(text)

    def _token(self, token: Any) -> str:
        number = self._specials.get(token) if isinstance(token, str) else token if type(token) is int else None
        if number is None or number not in self._specials.values():
            raise _error(f"{str(token)[:100]!r} is not a special token of this model")
        return f"<[{number}]>"

    def _json(self, part: Mapping[str, Any]) -> str:
        if "json_schema" not in part:
            raise _error("a json_schema needs its json_schema")
        name = f"json{len(self.parts)}"
        self.parts.append({"name": name, "json_schema": self._json_grammar(part["json_schema"])})
        return f"@{name}"

    def _grammar(self, part: Mapping[str, Any]) -> str:
        text = _text(part, "grammar")
        if part.get("syntax", "ebnf") != "ebnf":
            raise RecordError("unsupported", "structural tag: grammars are supported in EBNF")
        prefix = f"g{len(self._rules)}_"
        self._rules.append(ebnf.to_lark(text, prefix))
        return f"{prefix}root"


def _pattern(part: Mapping[str, Any]) -> str:
    """The body of a terminal for a regular expression."""
    return f"/{regex.normalized(_text(part, 'pattern'))}/"


def _free(part: Mapping[str, Any]) -> str:
    """The body of a terminal for the free text of a format."""
    most = part.get("max_chars")
    if most is not None and (type(most) is not int or not 0 <= most <= descent.MAX_COUNT):
        raise _error(f"max_chars is a whole number up to {descent.MAX_COUNT}")
    text = "/(?s:.*)/" if most is None else f"/(?s:.{{0,{most}}})/"
    excludes = part.get("excludes") or []
    if not isinstance(excludes, list) or not all(isinstance(one, str) and one for one in excludes):
        raise _error("excludes are texts")
    return text if not excludes else f"{text} & ~/(?s:.*)(?:{'|'.join(map(regex.spelled, excludes))})(?s:.*)/"


def _modern(tag: Any) -> Any:
    """The older form, {"structures": [{begin, schema, end}], "triggers": [...]}, in today's words."""
    if not isinstance(tag, Mapping) or "structures" not in tag:
        return tag
    try:
        tags = [
            {"type": "tag", "begin": s["begin"], "content": {"type": "json_schema", "json_schema": _parsed(s["schema"])}, "end": s["end"]}
            for s in tag["structures"]
        ]
        triggered = {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    except (KeyError, TypeError, ValueError) as error:
        raise _error(f"structures need begin, schema and end, and triggers ({type(error).__name__})") from None
    return {"type": "structural_tag", "format": triggered}


def _parsed(schema: Any) -> Any:
    return json.loads(schema) if isinstance(schema, str) else schema


def _text(part: Mapping[str, Any], name: str) -> str:
    if not isinstance(part.get(name), str):
        raise _error(f"{name} of {part.get('type', 'a tag')} must be a string")
    text: str = part[name]
    return text


def _list(part: Mapping[str, Any], name: str) -> list[Any]:
    value = part.get(name)
    if not isinstance(value, list) or not value:
        raise _error(f"{name} of {part.get('type')} must be a list with something in it")
    return value


def _error(message: str) -> RecordError:
    return RecordError("grammar_error", f"structural tag: {message}")
