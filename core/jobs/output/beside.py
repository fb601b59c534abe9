"""The place of a file that a run writes beside its output, and who else may not have it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...errors import ConfigError
from ...remote.url import is_remote, shown_name
from .files import followed, is_folder
from .opening import reserved_ending


def place_beside(option: str, name: str, *, taken: Iterable[str]) -> Path:
    """The file that `option` names, links followed. Raises ConfigError for folders, other files of the run and names of ours.

    Args:
        taken: the other files of the run, as they were named; `-` is none.
    """
    if is_remote(name):
        raise ConfigError(f"{option} {shown_name(name)!r}: it is written all the time, so it needs a local file")
    path = followed(name, f"{option} {name!r}")
    if is_folder(path) or not is_folder(path.parent):
        where = Path(name).parent if not is_folder(Path(name).parent) else path.parent
        what = "it is a folder" if is_folder(path) else f"there is no folder {str(where)!r}"
        raise ConfigError(f"{option} {name!r}: {what}")
    if any(one != "-" and path == Path(os.path.realpath(one)) for one in taken):
        raise ConfigError(f"{option} {name!r} is the input or the output; choose another file")
    if ending := reserved_ending(name):
        raise ConfigError(f"{option} {name!r} ends in {ending}, as files that belong to outputs do; choose another name")
    return path
