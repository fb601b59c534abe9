"""JSON schemas for structured output: checked, and rewritten into the part of the language that a grammar can hold exactly.

The grammar library ignores what it does not know (`uniqueItems`, `not`, a `type` beside `enum`, a reference it cannot follow),
mostly without a word, so its output need not satisfy the schema. Here a schema comes out either as one of which every output
is valid, or as an error naming the place. What may become narrower: objects with `properties` have no others unless the
schema allows them (as in vLLM with this backend), properties keep the order of the schema, patterns match whole strings, strings
with a pattern or a length have no escapes in them unless the pattern spells them, and a keyword for one type in a schema without
`type` means that type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import RecordError
from .regex import normalized as normalized_regex

#: Most subschemas, references followed once.
MAX_SUBSCHEMAS = 5_000
#: Most members of all `enum`s together.
MAX_VALUES = 20_000
MAX_PROPERTIES = 1_000
#: Highest count of characters, items or properties.
MAX_COUNT = 65_536
#: Whole numbers up to here are exact in the library's JSON reader.
MAX_INTEGER = 2**53

FORMATS = frozenset(
    {
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "json-pointer",
        "relative-json-pointer",
        "time",
        "uri",
        "uri-reference",
        "uri-template",
        "uuid",
    }
)
_STRING = ("minLength", "maxLength", "pattern", "format")
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_ARRAY = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "unevaluatedItems")
_OBJECT = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
)
_KEYWORDS = {"string": _STRING, "number": _NUMBER, "integer": _NUMBER, "array": _ARRAY, "object": _OBJECT, "boolean": (), "null": ()}
_TYPED = frozenset({"type", *_STRING, *_NUMBER, *_ARRAY, *_OBJECT})
_COMBINING = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")
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

Schema = dict[str, Any]


def normalized(schema: Any, *, closed: bool = False) -> Schema:
    """A schema of which every output is valid by `schema`; see the file's docstring.

    Args:
        schema: parsed JSON.
        closed: objects without `properties` and `additionalProperties` are empty, instead of open.

    Raises RecordError (grammar_error).
    """
    return _Writer(schema, closed).write()


def _error(path: str, message: str) -> RecordError:
    return RecordError("grammar_error", f"JSON schema, at {path}: {message}")


class _Writer:
    def __init__(self, root: Any, closed: bool) -> None:
        self._root = root
        self._closed = closed
        self._names: dict[str, str] = {}
        """Reference -> where its schema stands in the result."""
        self._num_schemas = 0
        self._num_values = 0

    def write(self) -> Schema:
        result = self.schema(self._root, "#")
        written: Schema = {}
        while len(written) < len(self._names):  # writing one may meet more
            reference, name = list(self._names.items())[len(written)]
            written[name] = self.schema(self._target(reference, reference), reference)
        return {**result, "$defs": written} if written else result

    # -- one schema ----------------------------------------------------------------------------------------------
    def schema(self, schema: Any, path: str) -> Schema:
        self._num_schemas += 1
        if self._num_schemas > MAX_SUBSCHEMAS:
            raise _error(path, f"more than {MAX_SUBSCHEMAS} subschemas")
        if schema is True:
            return {}
        if schema is False:
            raise _error(path, "false accepts nothing")
        if not isinstance(schema, Mapping):
            raise _error(path, f"a schema is an object, true or false, not {type(schema).__name__}")
        for name in _REFUSED:
            if name in schema:
                raise _error(path, f"{name} cannot be enforced")
        if "$id" in schema and path != "#":
            raise _error(path, "$id below the root is not supported")
        combining = [name for name in _COMBINING if name in schema]
        if not combining:
            return self._typed(schema, path)
        beside = [name for name in schema if name in _TYPED]
        if len(combining) > 1:
            raise _error(path, f"{' and '.join(combining)} side by side cannot be enforced")
        name = combining[0]
        if name in ("enum", "const"):
            return self._values(schema, [b for b in beside if b != "type"], path)
        if beside:
            raise _error(path, f"{beside[0]} beside {name} cannot be enforced; move it into the schema(s) {name} names")
        return self._combined(name, schema[name], path)

    def _values(self, schema: Mapping[str, Any], beside: list[str], path: str) -> Schema:
        if beside:
            raise _error(path, f"{beside[0]} beside {'enum' if 'enum' in schema else 'const'} cannot be enforced")
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list):
            raise _error(path, "enum must be a list")
        if "type" in schema:
            types = self._types(schema, path)
            values = [v for v in values if not types.isdisjoint(_types_of(v))]
        if not values:
            raise _error(path, "no value is left")
        self._num_values += len(values)
        if self._num_values > MAX_VALUES:
            raise _error(path, f"more than {MAX_VALUES} values in the enums of the schema")
        for value in values:
            self._check_value(value, path)
        return {"enum": values}

    def _check_value(self, value: Any, path: str) -> None:
        if isinstance(value, (int, float)) and not (abs(value) <= MAX_INTEGER or (isinstance(value, float) and math.isfinite(value))):
            raise _error(path, f"the number {value} cannot be enforced exactly")
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._check_value(inner, path)

    def _combined(self, name: str, value: Any, path: str) -> Schema:
        if name == "$ref":
            if not isinstance(value, str):
                raise _error(path, "$ref must be a string")
            if value == "#":
                return {"$ref": "#"}
            self._target(value, path)
            return {"$ref": f"#/$defs/{self._names.setdefault(value, f'd{len(self._names)}')}"}
        if not isinstance(value, list) or not value:
            raise _error(path, f"{name} must be a list with something in it")
        if name == "allOf" and len(value) > 1:
            raise _error(path, "allOf of several schemas cannot be enforced; write them as one")
        if name == "oneOf" and not self._disjoint(value):
            raise _error(path, "oneOf whose schemas may overlap cannot be enforced; give each its own const or type, or say anyOf")
        branches = [self.schema(branch, f"{path}/{name}/{i}") for i, branch in enumerate(value)]
        return branches[0] if len(branches) == 1 else {"anyOf": branches}

    def _target(self, reference: str, path: str) -> Any:
        """What a reference within the document points to."""
        if not reference.startswith("#/"):
            raise _error(path, f"$ref {reference!r}: only references into the schema itself, #/..., can be followed")
        place = self._root
        for part in unquote(reference[2:]).split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping) and key in place:
                place = place[key]
            elif isinstance(place, list) and key.isascii() and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            else:
                raise _error(path, f"$ref {reference!r} leads nowhere")
        return place

    # -- types ---------------------------------------------------------------------------------------------------
    def _types(self, schema: Mapping[str, Any], path: str) -> frozenset[str]:
        """The types that are stated, or else those that have keywords here; empty if there are none of these either."""
        stated = schema.get("type")
        if stated is None:
            return frozenset(kind for kind, names in _KEYWORDS.items() if kind != "integer" and any(n in schema for n in names))
        types = stated if isinstance(stated, list) else [stated]
        for kind in types:
            if not isinstance(kind, str) or kind not in _KEYWORDS:
                raise _error(path, f"unknown type {kind!r}")
        if not types:
            raise _error(path, "type is empty")
        return frozenset(types)

    def _typed(self, schema: Mapping[str, Any], path: str) -> Schema:
        types = self._types(schema, path)
        if not types:
            return {}
        parts: list[Schema] = []
        for kind in _KEYWORDS:  # in a fixed order
            if kind not in types or (kind == "integer" and "number" in types):
                continue
            own = {"string": self._string, "array": self._array, "object": self._object}.get(kind)
            part = own(schema, path) if own else _number(kind, schema, path) if kind in ("integer", "number") else {}
            parts.append({"type": kind, **part})
        return parts[0] if len(parts) == 1 else {"anyOf": parts}

    def _string(self, schema: Mapping[str, Any], path: str) -> Schema:
        given = [name for name in ("pattern", "format") if name in schema]
        lengths = _counts(schema, "minLength", "maxLength", path)
        if len(given) > 1 or (given and lengths):
            raise _error(path, f"{' and '.join([*given, *lengths])} cannot be enforced together")
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise _error(path, "pattern must be a string")
            try:
                return {"pattern": normalized_regex(schema["pattern"], in_json=True)}
            except RecordError as error:
                raise _error(path, error.message) from None
        if "format" in schema:
            if schema["format"] not in FORMATS:
                raise _error(path, f"format {schema['format']!r} cannot be enforced; known: {', '.join(sorted(FORMATS))}")
            return {"format": schema["format"]}
        return lengths

    def _array(self, schema: Mapping[str, Any], path: str) -> Schema:
        part = _counts(schema, "minItems", "maxItems", path)
        if schema.get("uniqueItems", False) is not False and part.get("maxItems", 2) > 1:
            raise _error(path, "uniqueItems cannot be enforced")
        if schema.get("unevaluatedItems", False) is not False:
            raise _error(path, "unevaluatedItems cannot be enforced; say items")
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise _error(path, "prefixItems must be a list")
        if prefix:
            part["prefixItems"] = [self.schema(item, f"{path}/prefixItems/{i}") for i, item in enumerate(prefix)]
        items = schema.get("items", not prefix or part.get("minItems", 0) > len(prefix))
        if "unevaluatedItems" in schema and "items" not in schema:
            items = False
        if isinstance(items, list):
            raise _error(path, "a list of items is called prefixItems")
        if items is False or part.get("maxItems", len(prefix) + 1) <= len(prefix):
            if part.get("minItems", 0) > len(prefix):
                raise _error(path, "fewer items are allowed than minItems wants")
            if not prefix:
                return {"items": {}, "maxItems": 0}
            part["prefixItems"] = part["prefixItems"][: part.pop("maxItems", len(prefix))]
            return {**part, "items": False} if part["prefixItems"] else {"items": {}, "maxItems": 0}
        return {**part, "items": self.schema(items, f"{path}/items")}

    # -- objects -------------------------------------------------------------------------------------------------
    def _object(self, schema: Mapping[str, Any], path: str) -> Schema:
        part = _counts(schema, "minProperties", "maxProperties", path)
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _error(path, "required must be a list of names")
        others = schema.get("additionalProperties")
        if "unevaluatedProperties" in schema:
            if schema["unevaluatedProperties"] not in (True, False):
                raise _error(path, "unevaluatedProperties cannot be enforced; say additionalProperties")
            others = schema["unevaluatedProperties"] if others is None else others
        if "patternProperties" in schema or "propertyNames" in schema:
            return self._named_by_pattern(schema, part, required, others, path)
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise _error(path, "properties must be an object")
        if others is None:
            others = not self._closed and not properties and not required
        if len(properties) + len(required) > MAX_PROPERTIES:
            raise _error(path, f"more than {MAX_PROPERTIES} properties")
        written = {name: self.schema(inner, f"{path}/properties/{_key(name)}") for name, inner in properties.items()}
        for name in required:
            if name not in written:  # the library would not ask for it
                if "additionalProperties" in schema and others is False:
                    raise _error(path, f"{name!r} is required and not allowed")
                written[name] = self.schema(True if others is False else others, f"{path}/additionalProperties")
        if written:
            part["properties"] = written
        if required:
            part["required"] = list(dict.fromkeys(required))
        if others is False:
            if part.get("minProperties", 0) > len(written):
                raise _error(path, "fewer properties are allowed than minProperties wants")
            return {**part, "additionalProperties": False}
        _check_min_properties(part, len(required), path)
        return {**part, "additionalProperties": self.schema(others, f"{path}/additionalProperties") or True}

    def _named_by_pattern(self, schema: Mapping[str, Any], part: Schema, required: list[str], others: Any, path: str) -> Schema:
        name = "patternProperties" if "patternProperties" in schema else "propertyNames"
        both = "patternProperties" in schema and "propertyNames" in schema
        if schema.get("properties") or required or both:
            other = "properties" if schema.get("properties") else "required" if required else "propertyNames"
            raise _error(path, f"{name} beside {other} cannot be enforced")
        _check_min_properties(part, 0, path)
        if name == "propertyNames":
            if isinstance(others, Mapping) or others is False:
                raise _error(path, "propertyNames beside additionalProperties cannot be enforced")
            names = schema["propertyNames"]
            if isinstance(names, Mapping) and not any(key in names for key in _COMBINING):
                names = {**names, "type": "string"}
            return {**part, "propertyNames": self.schema(names, f"{path}/propertyNames")}
        patterns = schema["patternProperties"]
        if not isinstance(patterns, Mapping) or len(patterns) != 1:
            raise _error(path, "only one pattern of patternProperties can be enforced")
        ((pattern, inner),) = patterns.items()
        try:
            pattern = normalized_regex(pattern, in_json=True)
        except RecordError as error:
            raise _error(path, error.message) from None
        return {**part, "patternProperties": {pattern: self.schema(inner, f"{path}/patternProperties")}, "additionalProperties": False}

    # -- oneOf ---------------------------------------------------------------------------------------------------
    def _disjoint(self, branches: list[Any]) -> bool:
        shapes = [self._followed(branch) for branch in branches]
        return all(_apart(a, self._followed, b) for i, a in enumerate(shapes) for b in shapes[:i])

    def _followed(self, schema: Any) -> Any:
        """A schema behind its references."""
        for _ in range(8):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str) or not schema["$ref"].startswith("#/"):
                break
            schema = self._target(schema["$ref"], schema["$ref"])
        return schema


def _apart(a: Any, followed: Any, b: Any) -> bool:
    """Whether no value can satisfy both, as far as this can be seen at once: by type, by values, or by the values of a required
    property of both."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
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
            return any(_apart(followed(mine[n]), followed, followed(yours[n])) for n in common)
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


def _counts(schema: Mapping[str, Any], low: str, high: str, path: str) -> Schema:
    """The two counts of a type, as far as they say anything."""
    part: Schema = {}
    for name in (low, high):
        value = schema.get(name)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _error(path, f"{name} must be a whole number from 0 up")
        if value > MAX_COUNT:
            raise _error(path, f"{name} is above {MAX_COUNT}")
        if value or name == high:
            part[name] = value
    if part.get(high, MAX_COUNT) < part.get(low, 0):
        raise _error(path, f"{high} is below {low}")
    return part


def _number(kind: str, schema: Mapping[str, Any], path: str) -> Schema:
    part: Schema = {}
    for name in _NUMBER:
        value = schema.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _error(path, f"{name} must be a number")
        if not abs(value) <= MAX_INTEGER:
            raise _error(path, f"{name} is too large to be enforced exactly")
        if kind == "integer" and name != "multipleOf":
            value = math.ceil(value) if name in ("minimum", "exclusiveMaximum") else math.floor(value)
        part[name] = value
    step = part.pop("multipleOf", None)
    if step is None:
        return part
    if kind != "integer" or step != int(step) or step <= 0:
        raise _error(path, "multipleOf can be enforced for whole numbers of type integer only")
    if not part:
        return {"multipleOf": int(step)}
    low = max(part.get("minimum", -math.inf), part.get("exclusiveMinimum", -math.inf) + 1)
    high = min(part.get("maximum", math.inf), part.get("exclusiveMaximum", math.inf) - 1)
    if high - low > MAX_VALUES:  # the library forgets the step beside a bound
        raise _error(path, f"multipleOf beside bounds can be enforced for at most {MAX_VALUES} numbers")
    return {"enum": list(range(-(-low // step) * step, high + 1, step))}


def _check_min_properties(part: Schema, num_required: int, path: str) -> None:
    """Names that are not listed may come twice, which is one property."""
    if part.get("minProperties", 0) > max(1, num_required):
        raise _error(path, "minProperties above 1 cannot be enforced where names are free")


def _key(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
