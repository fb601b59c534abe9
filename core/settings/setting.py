"""Setting: type, range and help of one engine option, and how values of it are read.

Knows nothing of any particular setting; those are the fields of `EngineArgs` in args.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .values import instead_of

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE)
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_KINDS = {"bool": "bool", "int": "int", "float": "float", "str": "str", "dict[str, Any]": "dict", "list[str]": "list"}
_WANTED = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "dict": "a mapping",
    "list": "a list of strings",
}


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, seen from outside."""

    name: str
    kind: str  # bool, int, float, str, dict, list
    default: Any
    help: str
    group: str
    choices: tuple[str, ...] = ()
    later: tuple[str, ...] = ()  # choices we know and refuse for now
    low: float | None = None
    high: float | None = None
    open_low: bool = False  # the value must be above `low`, not at it
    size: bool = False  # an int that may be written "4GiB"
    pending: bool = False  # only the default works for now
    rule: Callable[[Any], str] | None = None  # what is wrong with a value otherwise fine, or ""
    repeats: bool = False  # a list that a flag gives one by one; a mapping of names is one too, of "name=value"
    metavar: str = ""  # how one value is written, where it repeats; an adapter's unless it is said
    no_effect: tuple[str, ...] = ()  # device types, "pooling", "writing": where it does nothing, for now or for good

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return "INFER_" + self.name.upper()

    def check(self, value: Any) -> Any:
        """`value` (from YAML or a keyword argument) in the setting's own type.

        None stands for "not given" and becomes the default. Raises ConfigError naming the setting.
        """
        if value is None:
            return self.default
        value = self._typed(value)
        self._check_choice(value)
        self._check_range(value)
        if self.rule is not None and (wrong := self.rule(value)):
            raise ConfigError(f"{self.name} {wrong}")
        if self.pending and not self.choices and value != self.default:
            raise ConfigError(f"{self.name}={_shown(value)} is not supported yet")
        return value

    def parse(self, text: str) -> Any:
        """The value written as `text` on a command line or in the environment."""
        return self.check(self._from_text(text.strip()))

    def _from_text(self, text: str) -> Any:
        if self.kind == "bool":
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
        elif self.kind in ("int", "float") and not self.size:
            try:
                return int(text) if self.kind == "int" else float(text)
            except ValueError:
                pass
        elif self.repeats and not text.startswith(("[", "{")):
            return [text]
        elif self.kind in ("dict", "list"):
            try:
                return json.loads(text)
            except ValueError:
                raise ConfigError(f"{self.name} must be {_WANTED[self.kind]} written as JSON, not {text!r}") from None
        else:
            return text
        raise ConfigError(f"{self.name} must be {_WANTED[self.kind]}, not {text!r}")

    def _typed(self, value: Any) -> Any:
        if self.size and isinstance(value, str):
            try:
                return parse_bytes(value)
            except ConfigError as error:
                raise ConfigError(f"{self.name}: {error}") from None
        if self.kind == "str" and isinstance(value, os.PathLike):
            return os.fspath(value)
        if self.repeats and isinstance(value, Mapping):
            return [f"{name}={path}" for name, path in value.items()]
        if self.repeats and isinstance(value, str):
            return [value]
        ok = {
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, (int, float)) and not isinstance(value, bool),
            "str": isinstance(value, str),
            "dict": isinstance(value, Mapping),
            "list": isinstance(value, (list, tuple)),
        }[self.kind]
        if not ok:
            raise ConfigError(f"{self.name} must be {_WANTED[self.kind]}, not {type(value).__name__} {_shown(value)}")
        if self.kind == "float":
            return float(value)
        return dict(value) if self.kind == "dict" else list(value) if self.kind == "list" else value

    def _check_choice(self, value: Any) -> None:
        if not self.choices or value in self.choices or value == self.default:
            return
        if value in self.later:
            raise ConfigError(f"{self.name}={value} is not supported yet; for now: {', '.join(self.choices)}")
        raise ConfigError(
            f"{self.name} must be one of {', '.join(self.choices)}, not {_shown(value)}{instead_of(str(value), self.choices)}"
        )

    def _check_range(self, value: Any) -> None:
        if self.low is None or value == self.default:
            return
        below = value <= self.low if self.open_low else value < self.low
        if below or (self.high is not None and value > self.high) or not math.isfinite(value):
            above = "" if self.high is None else f" and at most {self.high:g}"
            limit = f"{'above' if self.open_low else 'at least'} {self.low:g}{above}"
            raise ConfigError(f"{self.name} must be {limit}, not {_shown(value)}")


def setting(default: Any, help: str, *, group: str, secret: bool = False, **more: Any) -> Any:
    """A dataclass field that is a setting. `more` are fields of `Setting`; a `secret` is kept out of the repr."""
    return dataclasses.field(default=default, repr=not secret, metadata={"help": help, "group": group, **more})


def settings_of(cls: type) -> dict[str, Setting]:
    """Every setting of a dataclass whose fields were all made by `setting`, in order."""
    found = {}
    for f in dataclasses.fields(cls):
        kind = _KINDS[str(f.type).removesuffix(" | None")]
        found[f.name] = Setting(name=f.name, kind=kind, default=f.default, **f.metadata)
    return found


def parse_bytes(text: str) -> int:
    """Bytes in "4GiB", "1.5G" (both binary), "512MB" (decimal) or "1048576". Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write bytes, or a number with a unit such as 4GiB or 512MB")
    number, unit, binary, letter = match.groups()
    base = 1000 if letter and not binary else 1024
    return int(float(number) * base ** _UNITS[unit.lower()]) if unit else int(float(number))


def presets() -> dict[str, Path]:
    """The YAML presets that come with `infer`, by name."""
    from importlib.util import find_spec

    spec = find_spec("infer.configs")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = (p for folder in folders for p in Path(folder).glob("*.yaml") if p.stem != "models")
    return {p.stem: p for p in sorted(found, key=lambda p: p.stem)}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
