"""The tower of images of a model of two (CLIP, SigLIP): transformers' code, without the tower of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from infer.kernels.ops import Ops

from ...errors import ModelError
from ...spec.support import transformers_config
from ...weights.source import ModelSource
from . import partial
from .linear import swap_all
from .loading import explained, quiet
from .tower import Tower

#: Of the tower of texts, which is not wanted: the least that transformers' classes make one of.
_LEAST = {"num_hidden_layers": 1, "vocab_size": 8, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
_TEXTS = ("text_model.", "text_projection.")


def load(
    source: ModelSource, config: Mapping[str, Any], ops: Ops, dtype: torch.dtype, device: torch.device, *, dummy_seed: int | None = None
) -> Tower:
    """Arguments and errors as of `tower.load`; it gives [1, size] of an image, projected."""
    if not source.path.is_dir():
        raise ModelError(f"{source.name}: what reads images is read of a Hugging Face folder only")
    with quiet(), explained(source), torch.no_grad():
        model = _made(source, config, dtype, dummy_seed)
        model.text_model = None
        model = model.eval().requires_grad_(False).to(device)
        swap_all(model, ops, dtype)
        return Tower(model, dtype, device)


def _made(source: ModelSource, hf_config: Mapping[str, Any], dtype: torch.dtype, seed: int | None) -> Any:
    from transformers import AutoModel

    config = transformers_config(hf_config)
    for key, value in _LEAST.items():
        setattr(config.text_config, key, value)
    made, said = partial.make(AutoModel, source, config, dtype, seed, "sdpa")
    partial.check_weights(said, lambda name: not name.startswith(_TEXTS))
    return made
