"""One line of JSON, in and out: bytes to a dict, a dict to bytes.

orjson is fast and strict, but not in every case as an answer file needs it; the differences are settled here:
depth (it reads 1024 levels and writes 254), integers over 64 bits (it makes them floats), NaN (it writes null: nobody hands it one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import orjson

from ..errors import RecordError

#: Deepest nesting of [ and { a line may have; deeper ones could be read but not echoed.
MAX_DEPTH = 200

_LONG_DIGITS = re.compile(rb"[0-9]{19}")
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")
_SLICE = 1 << 16
#: Control characters a terminal acts on that JSON need not escape: DEL and the C1 set (U+009B starts an escape sequence).
_TERMINAL_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


def loads(line: bytes) -> dict[str, Any]:
    """The JSON object on `line`. Raises RecordError: too_deep, invalid_encoding, invalid_json."""
    if _deeper_than(line, MAX_DEPTH):
        raise RecordError("too_deep", f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _why_not_json(line, error) from None
    if not isinstance(value, dict):
        raise RecordError("invalid_json", f"a line must be a JSON object, not {json_type(value)}")
    # orjson has already refused what only the standard library accepts
    return json.loads(line) if _LONG_DIGITS.search(line) else value


def exact(line: bytes) -> Any:
    """The JSON on a line that we wrote, integers of any size as they are. Raises ValueError."""
    return json.loads(line) if _LONG_DIGITS.search(line) else orjson.loads(line)


def dumps(row: dict[str, Any]) -> bytes:
    """`row` as one line without its newline. Numpy arrays are lists of numbers; they must be finite, or null is written."""
    try:
        return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # an integer over 64 bits in what is echoed, or half a surrogate pair in the message of a template
        return json.dumps(row, default=_listed, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def escape_for_terminal(line: bytes) -> bytes:
    """The same JSON with the control characters that orjson leaves raw written as escapes."""
    return _TERMINAL_CONTROLS.sub(lambda m: b"\\u%04x" % ord(m[0].decode()), line)


def json_type(value: object) -> str:
    """The JSON name of a parsed value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def wrong_type(name: str, wanted: str, value: Any, *, param: str | None = None) -> RecordError:
    """The error for a field that is not what is `wanted`."""
    return RecordError("invalid_type", f"{name} must be {wanted}, not {json_type(value)}", param=param or name)


def _listed(array: Any) -> Any:
    """A numpy array as numbers with the digits that orjson gives them: the shortest of their own type."""
    if not hasattr(array, "__array_interface__"):
        raise TypeError(f"{type(array).__name__} is not JSON")
    text = orjson.dumps(array.copy(), option=orjson.OPT_SERIALIZE_NUMPY)  # a copy is contiguous, as orjson wants them
    if b"null" in text:
        raise ValueError("NaN and infinity are not JSON")
    return orjson.loads(text)


def _deeper_than(line: bytes, limit: int) -> bool:
    """True if brackets outside strings nest deeper than `limit`. Cheap for lines with few brackets, flat in memory for all."""
    if line.count(b"[") + line.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _brackets(line):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False


def _brackets(line: bytes) -> Iterator[int]:
    plain = line.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote opens or closes a string
    in_string = 0
    for start in range(0, len(plain), _SLICE):
        parts = plain[start : start + _SLICE].split(b'"')
        yield from b"".join(parts[in_string::2]).translate(None, _NOT_BRACKETS)
        in_string ^= (len(parts) - 1) & 1


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> RecordError:
    """invalid_encoding for bytes that are not UTF-8 or escapes that are no character, else invalid_json."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return RecordError("invalid_encoding", f"invalid UTF-8 at byte {bad.start} of the line")
    try:
        json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_finite)
    except ValueError:
        return RecordError("invalid_json", f"not JSON: {_without_line(error)}")
    # The standard library takes it and every number is finite: what is left is a lone surrogate.
    return RecordError("invalid_encoding", f"a \\u escape is half of a surrogate pair: {_without_line(error)}")


def _without_line(error: orjson.JSONDecodeError) -> str:
    """orjson's message with the place in the line alone: its "line 1" would be read as the file's."""
    return f"{error.msg} (position {error.pos})" if error.msg else str(error)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number too large for a double")
    return value


def spelled(value: Any) -> Any:
    """The same with names that are not UTF-8 in a form that is: JSON has no other."""
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            return _bytes_of(value).decode(errors="backslashreplace")
    if isinstance(value, Path):
        return spelled(str(value))
    if isinstance(value, Mapping):
        return {spelled(key): spelled(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(one) for one in value]
    return value


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode(errors="surrogateescape")  # a name
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")
