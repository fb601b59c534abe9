"""One file an architecture; its name is config.json's `model_type` ("-" as "_"), and adding it adds the architecture. No torch.

In which of the folders it lies is for readers alone, but for wrapped/, whose files say where in config.json the language model is.

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
from ..names import Stack
from ..stack import StackSpec
from ..vision import TwoTowers, Vision

#: Beginnings of tensors' names that wrappers have for what reads images or sound.
_TOWERS = (
    "vision_tower.",
    "visual.",
    "vision_model.",
    "multi_modal_projector.",
    "image_newline",
    "audio_tower.",
    "embed_vision.",
    "embed_audio.",
    "vision_embedder.",
    "connector.",
)
MEDIA = (*_TOWERS, *(f"model.{one}" for one in _TOWERS))


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
    encoder_key: str = ""
    """The key that makes an encoder of it where it is true."""
    partial: float | None = None
    """The share of a head that turns where config.json names none; None: whole heads turn, whatever it names."""
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


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """A model of images or sound and text: the language model is under one of config.json's keys, and what reads images beside it."""

    model_type: str
    """The language model's, where its config names none."""
    spellings: tuple[str, ...] = ()
    """Other model types in its config that mean the same."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Absent keys of it, where they are others than those of its architecture."""
    tie: bool = False
    """Of embeddings, where the wrapper's config.json says nothing of it."""
    key: str = "text_config"
    renames: Mapping[str, str] = field(default_factory=lambda: {"language_model.model.": "", "language_model.": ""})
    """As of `Naming`: from names in the wrapper's files to those of the language model, without its prefix."""
    media: tuple[str, ...] = MEDIA
    """As of `Naming`, here and below."""
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    vision: Vision | None = None
    """How images enter it; None: the language model is used for text alone."""
    towers: TwoTowers | None = None
    """Of a model that makes vectors of texts and of images, whose "language model" is the tower of texts."""


@cache
def _files() -> Mapping[str, str]:
    """The module, relative to this package, of every model_type that there is a file for."""
    files = (path for path in Path(__file__).parent.glob("*/*.py") if path.stem != "__init__")
    return {_SPELLED.get(path.stem, path.stem): f".{path.parent.name}.{path.stem}" for path in sorted(files, key=lambda path: path.stem)}


def module_of(model_type: str) -> str:
    """The name of the module of a model_type that there is a file for."""
    return f"{__package__}{_files()[model_type]}"


def named() -> tuple[str, ...]:
    """Every model_type that there is a file for, wrappers left out."""
    return tuple(one for one, module in _files().items() if not module.startswith(".wrapped."))


def wrappers() -> tuple[str, ...]:
    """The model types of models of images or sound and text."""
    return tuple(one for one, module in _files().items() if module.startswith(".wrapped."))


def of(model_type: Any) -> Architecture | None:
    """The architecture of a model_type; None where there is no file for it."""
    found = _found(model_type)
    return found if isinstance(found, Architecture) else None


def wrapper_of(model_type: Any) -> Wrapper | None:
    """The same of a wrapper."""
    found = _found(model_type)
    return found if isinstance(found, Wrapper) else None


def _found(model_type: Any) -> Architecture | Wrapper | None:
    module = _files().get(model_type) if isinstance(model_type, str) else None
    if module is None:
        return None
    found: Architecture | Wrapper = importlib.import_module(module, __package__).ARCHITECTURE
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
