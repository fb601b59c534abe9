"""One file an architecture; its name is config.json's `model_type` ("-" as "_"), and adding it adds the architecture. No torch.

Each says in `ARCHITECTURE` how its config.json is read: which layers it stands for (`StackSpec`), what absent keys mean and which
values are none. The code that computes them is in models/ and layers/, the same for all. What has no file here runs through
transformers' code, see models/hf.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..hf_values import Kind
from ..model_spec import StackSpec


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The reading of config.json for one model_type."""

    stack: Callable[[Mapping[str, Any]], StackSpec]
    """From `hf_config.effective`. Raises KeyError for what is missing, ModelError for what we lack."""
    defaults: Mapping[str, Any]
    """Absent keys: those of transformers' config class."""
    values: Mapping[str, Kind]
    """Kinds of values, more than those of every model."""
    is_encoder: bool = False
    theta: float | None = None
    """Base of rotation where config.json names none; None: `stack` reads rotation by itself, or there is none."""
    end_token: int | None = None
    """The one that is meant where no file names any."""
    unsafe_dtypes: frozenset[str] = field(default_factory=frozenset)
    """Whose range its activations leave."""
    other_names: Mapping[str, str] = field(default_factory=dict)
    """Keys that stand for others and go before them, as transformers' config class has them."""
    old_names: str = ""
    """A key of first releases that had names of their own, which `stack` reads: `defaults` are not theirs."""
    pooling_key: str = ""
    """The key that names the pooling of its classifier, if there is one."""


@cache
def named() -> tuple[str, ...]:
    """Every model_type that there is a file for."""
    files = (path for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return tuple(sorted(_SPELLED.get(path.stem, path.stem) for path in files))


def of(model_type: Any) -> Architecture | None:
    """The architecture of a model_type; None where there is no file for it."""
    if model_type not in named():
        return None
    found: Architecture = importlib.import_module(f".{model_type.replace('-', '_')}", __package__).ARCHITECTURE
    return found


def decoders() -> tuple[str, ...]:
    """The model types of language models there are files for."""
    return tuple(one for one in named() if not _of(one).is_encoder)


def encoders() -> tuple[str, ...]:
    """The model types of bidirectional models there are files for."""
    return tuple(one for one in named() if _of(one).is_encoder)


def _of(model_type: str) -> Architecture:
    found = of(model_type)
    assert found is not None, model_type
    return found


#: Model types with a character that file names do not have.
_SPELLED = {"xlm_roberta": "xlm-roberta", "deberta_v2": "deberta-v2"}
