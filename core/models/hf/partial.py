"""A transformers model of which only a part is wanted: the rest is as small as its config says, and its weights are not looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...errors import ModelError
from ...weights.source import ModelSource


def make(
    kind: Any, source: ModelSource, config: Any, dtype: torch.dtype, seed: int | None, attention: str | Mapping[str, str]
) -> tuple[Any, Mapping[str, Any]]:
    """(the model, what transformers says of its loading) of a folder's weights; with a seed random ones, of which nothing is said.

    Args:
        kind: a class of transformers' models, or an Auto class.
        attention: transformers' `attn_implementation`.
    """
    if seed is not None:
        from_config = getattr(kind, "from_config", None) or kind._from_config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return from_config(config, dtype=dtype, attn_implementation=attention), {}
    made, said = kind.from_pretrained(
        str(source.path),
        config=config,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        attn_implementation=attention,
    )
    return made, said


def check_weights(said: Mapping[str, Any], is_wanted: Callable[[str], bool]) -> None:
    """Raises ModelError if weights of the wanted part are missing or have another shape."""
    for what in ("missing", "mismatched"):
        names = (one if isinstance(one, str) else one[0] for one in said.get(f"{what}_keys") or ())
        if wrong := sorted(name for name in names if is_wanted(name)):
            raise ModelError(f"{len(wrong)} weights of its tower are {what}: {', '.join(wrong[:3])}")
