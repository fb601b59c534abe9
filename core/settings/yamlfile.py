"""YAML settings files: a preset's name or a path in, a mapping of plain values out."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any

from ..errors import ConfigError, nearest
from .setting import presets

#: No settings file is larger; a larger one is a data file given by mistake.
MAX_BYTES = 1 << 20


def find_config(config: str) -> Path:
    """The file meant by `--config`: a path if there is such a file, else a preset's name."""
    path = Path(config)
    if path.is_file():
        return path
    known = presets()
    if config in known:
        return known[config]
    if path.is_dir():
        raise ConfigError(f"config {config!r} is a folder, not a YAML file")
    raise ConfigError(f"no file or preset named {config!r}{nearest(config, known)} (presets: {', '.join(known)})")


#: Keys of a settings file that are no settings: the file it is built on, the command it is of, and the section of settings.
BASE, COMMAND, ENGINE = "config", "command", "engine"


def layers(config: str) -> list[tuple[Path, dict[str, Any]]]:
    """The file that `config` means and those that it is built on (`config: NAME`), the lowest first, without that key.

    Raises ConfigError for files that are built on each other.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    path: Path | None = find_config(config)
    while path is not None:
        if any(path.resolve() == other.resolve() for other, _ in found):
            raise ConfigError(f"{path.name} is built on itself: {' -> '.join(other.name for other, _ in found)} -> {path.name}")
        content = read_yaml(path)
        base = content.pop(BASE, None)
        found.append((path, content))
        if base is not None and not isinstance(base, str):
            raise ConfigError(f"{path.name}: {BASE} must be the name of a file or preset, not {base!r}")
        beside = path.parent / base if base else None
        path = None if base is None else beside if beside is not None and beside.is_file() else find_config(base)
    return found[::-1]


def settings_in(path: Path, content: dict[str, Any], known: Collection[str], *, others: bool) -> dict[str, Any]:
    """The engine settings in a file: at its top, and under `engine`.

    Args:
        known: names of settings.
        others: what else is in the file is for the caller.

    Raises ConfigError.
    """
    under = content.get(ENGINE) or {}
    if not isinstance(under, dict):
        raise ConfigError(f"{path.name}: {ENGINE} must hold `name: value` lines, not {under!r}")
    found: dict[str, Any] = {}
    for name, value in [*((n, v) for n, v in content.items() if n != ENGINE), *((str(n), v) for n, v in under.items())]:
        if name not in known:
            if others and name in content:
                continue
            raise ConfigError(f"{path.name}: unknown setting {name!r}{nearest(name, known)}")
        if name in found:
            raise ConfigError(f"{path.name}: {name} is given twice, under {ENGINE}: too")
        found[name] = _located(name, value, path.parent)
    return found


#: Settings that may name a file or folder. Other things have names too, so only ./ and ../ say that one is meant.
_PATHS = frozenset({"model", "tokenizer", "generation_config", "download_dir"})


def _located(name: str, value: Any, folder: Path) -> Any:
    """A name that begins with ./ or ../ is beside the file it is in."""
    if name in _PATHS and isinstance(value, str) and value.startswith(("./", "../")):
        return str(folder / value)
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file. Raises ConfigError naming file and line."""
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a key given twice: one of the two would be lost without a word."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, Hashable) and key in seen:
                    raise ConfigError(f"{path.name}, line {key_node.start_mark.line + 1}: {key!r} is given twice")
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 10} KiB; a settings file is a short list of `name: value` lines")
    try:
        content = yaml.load(data, Loader)  # safe: Loader is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path.name}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: must hold `name: value` lines, not a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}
