"""JobSpec: what was asked for with one command, before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import JobOptions

if TYPE_CHECKING:
    from ..settings.args import EngineArgs
    from .tasks.spec import TaskSpec

#: Options of the job itself that can change a byte of its output.
FINGERPRINTED = ("strict", "report_cache", "error_format", "max_line_bytes")


@dataclass(frozen=True)
class JobSpec:
    """
    Args:
        command: its name.
        io: where records come from, where answers go, what becomes of what is there.
        args, origin: the engine's settings, and where each came from.
        task: what becomes of records.
    """

    command: str
    io: JobOptions
    args: EngineArgs
    origin: Mapping[str, str]
    task: TaskSpec
