"""Last look at a finished JSON output: whether it is valid by the schema that was asked for.

A grammar allows too much in a few places: a name that comes twice is one property, and a number is rounded when it is read.
`jsonschema` has the last word, and is imported when the first output ends. What it would judge by regular expressions (`pattern`,
`format`, the names of `patternProperties`) the grammar holds exactly, and is left to that: matching anew could take for ever. Its work
is counted, for there are schemas that make it try each branch at each level.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

#: Most keywords applied for one output; one with many members counts for more.
MAX_STEPS = 50_000
_MAX_MESSAGE = 300

_Keyword = Callable[[Any, Any, Any, dict[str, Any]], Iterator[Any]]


class _TooMuchWork(Exception):
    pass


class _Steps(threading.local):
    """The work left for one output. A thread looks at one output after another."""

    left = 0

    def counted(self, keyword: _Keyword) -> _Keyword:
        def apply(validator: Any, value: Any, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
            self.left -= 1 + (len(value) // 32 if isinstance(value, (list, dict)) else 0)
            if self.left < 0:
                raise _TooMuchWork
            return keyword(validator, value, instance, schema) or iter(())

        return apply


def problem_of(text: str, schema: Any) -> str | None:
    """The reason why an output is not valid, or None if it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return "the output is not JSON"
    except RecursionError:
        return "the output is nested too deeply to be validated"
    make, steps = _validator()
    steps.left = MAX_STEPS
    try:
        error = next(make(schema).iter_errors(value), None)
    except _TooMuchWork:
        return f"the output cannot be validated in {MAX_STEPS} steps"
    except RecursionError:
        return "the schema leads too deep to validate the output"
    except Exception as failure:  # of a schema that the library reads and the validator does not
        return f"the output cannot be validated ({type(failure).__name__})"
    if error is None:
        return None
    place = "".join(f"/{part}" for part in error.absolute_path)
    return f"the output is not valid at #{place} by {error.validator} of the schema"[:_MAX_MESSAGE]


@cache
def _validator() -> tuple[Callable[[Any], Any], _Steps]:
    import jsonschema
    import referencing
    from jsonschema import validators

    steps = _Steps()
    keywords: dict[str, Any] = {name: steps.counted(apply) for name, apply in jsonschema.Draft202012Validator.VALIDATORS.items()}
    others = keywords["additionalProperties"]

    def additional(validator: Any, value: Any, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
        return iter(()) if schema.get("patternProperties") else others(validator, value, instance, schema)

    def named_by_pattern(validator: Any, patterns: Any, instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
        for inner in patterns.values() if isinstance(instance, dict) else ():  # there is one, and the grammar allows no other names
            for name, value in instance.items():
                yield from validator.descend(value, inner, path=name)

    def left_alone(*_: Any) -> Iterator[Any]:
        return iter(())

    changes = {"pattern": left_alone, "format": left_alone, "additionalProperties": additional, "patternProperties": named_by_pattern}
    kinds = validators.extend(jsonschema.Draft202012Validator, validators={**keywords, **changes})
    registry: Any = referencing.Registry()  # what is not in the schema is nowhere: nothing is fetched
    return lambda schema: kinds(schema, registry=registry), steps
