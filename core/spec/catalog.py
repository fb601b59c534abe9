"""The list of architectures, as their files say it: what each is, and what becomes of model types that have no file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InferError
from . import architectures
from .read import read_spec
from .support import refuse_unsupported
from .task import choose_task


@dataclass(frozen=True, slots=True)
class Entry:
    """One model_type."""

    model_type: str
    code: str
    """"infer": a file of ours; "transformers": its code there, with our attention and cache; "": none, it is refused."""
    use: str
    """"generate", "embed" (texts, or images too), "images" (and text), or "text alone" of a wrapper that reads no images; empty where there
    is no file."""
    about: str
    """The first sentence of its file; of what is refused, why."""


def ours() -> Iterator[Entry]:
    """Every architecture that there is a file for, by use and then by name."""
    wrapped = {kind: architectures.wrapper_of(kind) for kind in architectures.wrappers()}
    sees = [kind for kind, one in wrapped.items() if one is not None and one.vision is not None]
    both = [kind for kind, one in wrapped.items() if one is not None and one.towers is not None]
    blind = [kind for kind in wrapped if kind not in (*sees, *both)]
    embed = (*architectures.encoders(), *both)
    uses = {"generate": architectures.decoders(), "embed": embed, "images": sees, "text alone": blind}
    for use, kinds in uses.items():
        yield from (Entry(kind, "infer", use, _about(kind)) for kind in kinds)


def others() -> Iterator[Entry]:
    """The language models that transformers has beside them. Imports transformers, and asks each config class of it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    known = {*architectures.named(), *architectures.wrappers()}
    for kind, name in sorted(NAMES.items()):
        if kind not in known:
            yield _other(kind, name if isinstance(name, str) else name[0])


def _other(kind: str, class_name: str) -> Entry:
    try:
        spec = read_spec({"model_type": kind, "architectures": [class_name]})
        refuse_unsupported(spec, kind, task=choose_task("auto", "auto", "auto", spec, None))
    except InferError as error:
        return Entry(kind, "", "", str(error).removeprefix(f"{kind}: model_type {kind!r} ({class_name}) ").partition("; supported")[0])
    return Entry(kind, "transformers", "generate", "")


def _about(kind: str) -> str:
    text = inspect.getdoc(importlib.import_module(architectures.module_of(kind)))
    assert text is not None, "every module has a docstring"
    return text.partition("\n\n")[0].replace("\n", " ")
