"""The package `infer` itself: `from infer import LLM, SamplingParams`. What it has is `infer.core`'s, imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infer.core import *  # noqa: F403

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("infer-jsonl")
    core = import_module("infer.core")
    if name not in core.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(core, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("infer.core").__all__, "__version__"})
