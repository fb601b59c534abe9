"""JSON schemas for structured output: brought into the form of which every text that the grammar library lets through is valid.

The library refuses by name what it cannot enforce. What is done here: choices that are ours to make (below), keywords it lacks and
that can be said in others (`propertyNames`, `unevaluatedProperties` of a lone object, `oneOf` of schemas that are plainly apart),
regular expressions and formats in its dialect, and bounds on what it does exactly, or in reasonable time.

Narrower than the standard: objects with `properties` have no others unless the schema allows them (as in vLLM), properties keep the
order of the schema, patterns match whole strings, and a keyword for one type in a schema without `type` means that type. Where
several schemas hold for one value (`allOf`, or keywords beside `anyOf` and `$ref`), objects stay open: closing each would leave
nothing.

The file is as long as the list of keywords: one short method for each kind of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ...errors import RecordError
from .formats import FORMATS
from .number_bounds import MAX_INTEGER, tighten
from .regex import normalized as normalized_regex
from .regex import spelled

#: Most subschemas, references followed once.
MAX_SUBSCHEMAS = 5_000
#: Most members of all `enum`s together.
MAX_VALUES = 20_000
#: Most properties of one object: the library's work grows with their square.
MAX_PROPERTIES = 1_000
#: Highest count of characters, items or properties.
MAX_COUNT = 2**31 - 1

_KEYWORDS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "unevaluatedItems"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "unevaluatedProperties",
    ),
}
_TYPES = ("string", "number", "integer", "array", "object", "boolean", "null")
_TYPED = frozenset(name for names in _KEYWORDS.values() for name in names)
_SEVERAL = ("anyOf", "oneOf", "allOf")
_COUNTED = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REFUSED = (
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
)
#: Said of a schema, and nothing of its values; `x-guidance` would set the library's options.
_DROPPED = ("x-guidance", "$schema", "$dynamicAnchor", "$recursiveAnchor")

Schema = dict[str, Any]


def normalized(schema: Any, *, closed: bool = False) -> Schema:
    """A schema of which every text that the library lets through is valid by `schema`; see the file's docstring.

    Args:
        schema: parsed JSON.
        closed: objects without `properties` and `additionalProperties` are empty, instead of open.

    Raises RecordError (grammar_error).
    """
    if isinstance(schema, bool):
        if not schema:
            raise _error("#", "false accepts nothing")
        return {}
    return _Writer(copy.deepcopy(schema), closed).write()


def _error(path: str, message: str) -> RecordError:
    return RecordError("grammar_error", f"JSON schema, at {path}: {message}")


class _Writer:
    """Rewrites a document in place: references into it go on leading where they led."""

    def __init__(self, root: Schema, closed: bool) -> None:
        self._root = root
        self._closed = closed
        self._num_values = 0
        self._met: dict[int, tuple[Schema, str]] = {}
        """Schemas by identity, in the order they were met, and where they are."""
        self._joined: set[int] = set()
        """Those that hold for a value beside others."""
        self._names: dict[int, Any] = {}
        """Schema by identity -> what its `propertyNames` were."""

    def write(self) -> Schema:
        self._visit()
        for schema, path in list(self._met.values()):
            self._rewrite(schema, path)
        return self._root

    def _visit(self) -> None:
        """Finds the schemas that count, and which of them hold beside others."""
        todo: list[tuple[Any, str, bool]] = [(self._root, "#", False)]
        while todo:
            schema, path, joined = todo.pop()
            if isinstance(schema, bool):
                continue
            if not isinstance(schema, dict):
                raise _error(path, f"a schema is an object, true or false, not {type(schema).__name__}")
            key = id(schema)
            if key in self._met and (not joined or key in self._joined):
                continue
            self._met.setdefault(key, (schema, path))
            if joined:
                self._joined.add(key)
            if len(self._met) > MAX_SUBSCHEMAS:
                raise _error(path, f"more than {MAX_SUBSCHEMAS} subschemas")
            for name in _REFUSED:
                if name in schema:
                    raise _error(path, f"{name} cannot be enforced")
            if "$id" in schema and path != "#":
                raise _error(path, "$id below the root is not supported")
            todo += self._inner(schema, path, joined)

    def _inner(self, schema: Schema, path: str, joined: bool) -> Iterator[tuple[Any, str, bool]]:
        """The schemas in a schema, and whether they hold beside others."""
        combining = [name for name in ("$ref", *_SEVERAL) if name in schema]
        beside = joined or len(combining) > 1 or (bool(combining) and any(name in _TYPED for name in schema))
        if beside and combining:
            self._joined.add(id(schema))
        for name in _SEVERAL:
            branches = schema.get(name, [])
            if not isinstance(branches, list) or (name in schema and not branches):
                raise _error(path, f"{name} must be a list with something in it")
            for i, branch in enumerate(branches):
                yield branch, f"{path}/{name}/{i}", beside or (name == "allOf" and len(branches) > 1)
        if "$ref" in schema:
            yield self._target(schema["$ref"], path), str(schema["$ref"]), beside
        for name in ("properties", "patternProperties"):
            inner = schema.get(name, {})
            if not isinstance(inner, dict):
                raise _error(path, f"{name} must be an object")
            for key, value in inner.items():
                yield value, f"{path}/{name}/{_key(key)}", joined
        if "propertyNames" in schema:
            self._names[id(schema)] = copy.deepcopy(schema["propertyNames"])
        if isinstance(schema.get("items"), list):
            raise _error(path, "a list of items is called prefixItems")
        for name in ("additionalProperties", "items"):
            if name in schema:
                yield schema[name], f"{path}/{name}", joined
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise _error(path, "prefixItems must be a list")
        for i, item in enumerate(prefix):
            yield item, f"{path}/prefixItems/{i}", joined

    def _target(self, reference: Any, path: str) -> Any:
        """The target of a reference within the document."""
        if not isinstance(reference, str):
            raise _error(path, "$ref must be a string")
        if reference != "#" and not reference.startswith("#/"):
            raise _error(path, f"$ref {reference!r}: only references into the schema itself, #/..., can be followed")
        place: Any = self._root
        for part in unquote(reference[2:]).split("/") if reference != "#" else ():
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(place, dict) and key in place:
                place = place[key]
            elif isinstance(place, list) and key.isascii() and key.isdigit() and len(key) < 9 and int(key) < len(place):
                place = place[int(key)]
            else:
                raise _error(path, f"$ref {reference!r} leads nowhere")
        return place

    # -- one schema ----------------------------------------------------------------------------------------------
    def _rewrite(self, schema: Schema, path: str) -> None:
        for name in _DROPPED:
            schema.pop(name, None)
        joined = id(schema) in self._joined
        self._types(schema, path, joined)
        _counts(schema, path)
        try:
            tighten(schema, joined=joined)
        except ValueError as error:
            raise _error(path, str(error)) from None
        self._values(schema, path)
        self._string(schema, path)
        self._array(schema, path, joined)
        self._object(schema, path, joined)
        if "oneOf" in schema:
            self._one_of(schema, path)

    def _types(self, schema: Schema, path: str, joined: bool) -> None:
        """A schema without a type has those of its keywords, where no other schema may say it."""
        if "type" in schema:
            stated = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            for kind in stated:
                if not isinstance(kind, str) or kind not in _TYPES:
                    raise _error(path, f"unknown type {str(kind)[:100]!r}")
            if not stated:
                raise _error(path, "type is empty")
        elif not joined and not any(name in schema for name in ("$ref", "enum", "const", *_SEVERAL)):
            meant = [kind for kind, names in _KEYWORDS.items() if any(name in schema for name in names)]
            if meant:
                schema["type"] = meant[0] if len(meant) == 1 else meant

    def _values(self, schema: Schema, path: str) -> None:
        values = [schema["const"]] if "const" in schema else []
        if "enum" in schema:
            if not isinstance(schema["enum"], list):
                raise _error(path, "enum must be a list")
            values += schema["enum"]
        self._num_values += len(values)
        if self._num_values > MAX_VALUES:
            raise _error(path, f"more than {MAX_VALUES} values in the enums of the schema")
        for value in values:
            _check_value(value, path)

    def _string(self, schema: Schema, path: str) -> None:
        patterns = []
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise _error(path, "pattern must be a string")
            patterns.append(schema.pop("pattern"))
        if "format" in schema:
            name = schema.pop("format")
            if not isinstance(name, str) or name not in FORMATS:
                raise _error(path, f"format {str(name)[:100]!r} cannot be enforced; known: {', '.join(sorted(FORMATS))}")
            patterns.append(FORMATS[name])
        if patterns:
            schema["pattern"] = _pattern(patterns[0], path)
        if len(patterns) > 1:
            schema["allOf"] = [*schema.get("allOf", []), {"pattern": _pattern(patterns[1], path)}]

    def _array(self, schema: Schema, path: str, joined: bool) -> None:
        if "uniqueItems" in schema and (schema["uniqueItems"] is False or schema.get("maxItems", 2) <= 1):
            del schema["uniqueItems"]
        if "uniqueItems" in schema:
            raise _error(path, "uniqueItems cannot be enforced")
        if "unevaluatedItems" in schema:
            if not isinstance(schema["unevaluatedItems"], bool) or joined:
                raise _error(path, "unevaluatedItems cannot be enforced; say items")
            schema.setdefault("items", schema.pop("unevaluatedItems"))
        prefix = schema.get("prefixItems")
        if prefix and "items" not in schema and not joined and schema.get("minItems", 0) <= len(prefix):
            schema["items"] = False

    # -- objects -------------------------------------------------------------------------------------------------
    def _object(self, schema: Schema, path: str, joined: bool) -> None:
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _error(path, "required must be a list of names")
        if "unevaluatedProperties" in schema:
            if not isinstance(schema["unevaluatedProperties"], bool) or joined:
                raise _error(path, "unevaluatedProperties cannot be enforced; say additionalProperties")
            schema.setdefault("additionalProperties", schema.pop("unevaluatedProperties"))
        properties = schema.get("properties", {})
        if len({*properties, *required}) > MAX_PROPERTIES:
            raise _error(path, f"more than {MAX_PROPERTIES} properties")
        for name in ("patternProperties", "propertyNames"):
            if name in schema:
                self._named_by_pattern(name, schema, path)
        if "additionalProperties" in schema or "patternProperties" in schema:
            return
        stated = schema.get("type", [])
        is_object = "object" in (stated if isinstance(stated, list) else [stated])
        closing = (is_object and not joined) and (properties or required or self._closed)
        if self._closed and joined and (properties or required):
            raise _error(path, "disable_additional_properties cannot be enforced where several schemas hold for one object")
        if closing:
            if required:
                schema["properties"] = {**properties, **{name: True for name in required if name not in properties}}
            schema["additionalProperties"] = False

    def _named_by_pattern(self, name: str, schema: Schema, path: str) -> None:
        """Brings names that follow a pattern into the one form that is exact: one pattern, and nothing beside it."""
        others = [n for n in ("properties", "required", "patternProperties", "propertyNames") if n != name and schema.get(n)]
        if others:
            raise _error(path, f"{name} beside {others[0]} cannot be enforced")
        if name == "patternProperties":
            if len(schema[name]) != 1:
                raise _error(path, "only one pattern of patternProperties can be enforced")
            ((pattern, inner),) = schema[name].items()
            schema[name] = {_pattern(pattern, path): inner}
        else:
            inner = schema.get("additionalProperties", True)
            if inner is False:
                raise _error(path, "propertyNames beside additionalProperties cannot be enforced")
            del schema[name]
            schema["patternProperties"] = {_names(self._names[id(schema)], f"{path}/propertyNames"): inner}
        schema["additionalProperties"] = False

    # -- oneOf ---------------------------------------------------------------------------------------------------
    def _one_of(self, schema: Schema, path: str) -> None:
        """`oneOf` of schemas that are plainly apart is `anyOf`. (The library sees others too, but not what was made narrower here.)"""
        shapes = [self._followed(branch) for branch in schema["oneOf"]]
        if not all(_apart(a, self._followed, b) for i, a in enumerate(shapes) for b in shapes[:i]):
            raise _error(path, "oneOf whose schemas may overlap cannot be enforced; give each its own const or type, or say anyOf")
        branches = schema.pop("oneOf")
        if "anyOf" in schema:
            schema["allOf"] = [*schema.get("allOf", []), {"anyOf": branches}]
        else:
            schema["anyOf"] = branches

    def _followed(self, schema: Any) -> Any:
        """A schema behind its references."""
        for _ in range(8):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                break
            schema = self._target(schema["$ref"], schema["$ref"])
        return schema


def _apart(a: Any, followed: Any, b: Any, depth: int = 8) -> bool:
    """True if no value can satisfy both, as far as this can be seen at once: by type, by values, or by the values of a required
    property of both."""
    if not depth or not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return False
    one, two = _stated_types(a), _stated_types(b)
    if one and two and one.isdisjoint(two):
        return True
    if (values := _stated_values(a)) is not None and (others := _stated_values(b)) is not None:
        return not any(v == w and isinstance(v, bool) == isinstance(w, bool) for v in values for w in others)
    if one == two == {"object"}:
        mine, yours = a.get("properties"), b.get("properties")
        needs = [r if isinstance(r := s.get("required"), list) else [] for s in (a, b)]
        if isinstance(mine, Mapping) and isinstance(yours, Mapping):
            common = [n for n in mine if n in yours and all(n in r for r in needs)]
            return any(_apart(followed(mine[n]), followed, followed(yours[n]), depth - 1) for n in common)
    return False


def _stated_types(schema: Mapping[str, Any]) -> set[str]:
    """The types a schema allows, "number" standing for "integer" too; empty if it does not say."""
    values = _stated_values(schema)
    if values is not None:
        return {kind for value in values for kind in _types_of(value) if kind != "integer"}
    stated = schema.get("type", [])
    types = stated if isinstance(stated, list) else [stated]
    return {"number" if kind == "integer" else kind for kind in types if isinstance(kind, str)}


def _stated_values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _types_of(value: Any) -> set[str]:
    """The type names that a JSON value satisfies."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, (int, float)):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object" if value is not None else "null"}


def _pattern(pattern: str, path: str) -> str:
    """A regular expression that matches a whole string, in the library's dialect."""
    try:
        return f"^(?:{normalized_regex(pattern)})$"
    except RecordError as error:
        raise _error(path, error.message) from None


def _names(names: Any, path: str) -> str:
    """The pattern of the names that a schema of strings allows."""
    said = {k: v for k, v in names.items() if k in _TYPED or k in ("enum", "const", "$ref", *_SEVERAL)} if isinstance(names, dict) else {}
    if names is True or (isinstance(names, dict) and not said):
        return "^(?s:.*)$"
    if set(said) == {"pattern"} and isinstance(said["pattern"], str):
        return _pattern(said["pattern"], path)
    if set(said) in ({"enum"}, {"const"}):
        values = said["enum"] if "enum" in said else [said["const"]]
        texts = [spelled(v) for v in values if isinstance(v, str)] if isinstance(values, list) else []
        if texts:
            return f"^(?:{'|'.join(texts)})$"
    if said and set(said) <= {"minLength", "maxLength"}:
        _counts(said, path)
        return f"^(?s:.{{{said.get('minLength', 0)},{said.get('maxLength', '')}}})$"
    raise _error(path, "propertyNames can be enforced by one of pattern, enum, const, or lengths")


def _check_value(value: Any, path: str) -> None:
    if isinstance(value, (int, float)) and not (abs(value) <= MAX_INTEGER or (isinstance(value, float) and math.isfinite(value))):
        raise _error(path, f"the number {str(value)[:50]} cannot be enforced exactly")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_value(inner, path)


def _counts(schema: Schema, path: str) -> None:
    for name in _COUNTED:
        value = schema.get(name)
        if isinstance(value, float) and value.is_integer():
            value = schema[name] = int(value)
        if name not in schema:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _error(path, f"{name} must be a whole number from 0 up")
        if value > MAX_COUNT:
            raise _error(path, f"{name} is above {MAX_COUNT}")


def _key(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
