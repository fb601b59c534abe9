"""The folder for what a run must remember of outputs that lie elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError


def state_folder(asked: str | None = None) -> Path:
    """--state-dir, or $XDG_STATE_HOME/infer, or ~/.local/state/infer; made if need be. Raises ConfigError."""
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = Path(asked).absolute() if asked else (Path(base) if Path(base).is_absolute() else Path.home() / ".local/state") / "infer"
    except RuntimeError:
        raise ConfigError("there is no home folder to keep the state of a run in; give --state-dir DIR") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        raise ConfigError(f"the state of a run cannot be kept in {str(folder)!r}: {error.strerror}; give --state-dir DIR") from None
    return folder
