"""YAML settings files: a preset's name or a path in, a mapping of plain values out."""

from __future__ import annotations

from collections.abc import Hashable
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
