"""The tower of sound: transformers' encoder of Whisper, without the decoder behind it. Linear layers are ours, as in tower.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ...errors import ModelError
from ...spec.support import transformers_config
from ...weights.source import ModelSource
from . import partial
from .linear import swap_all
from .loading import explained, quiet

#: Beginning of the names of its tensors.
_OURS = "model.encoder."


class Hearing:
    """
    Args:
        encoder: transformers'.
    """

    def __init__(self, encoder: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._encoder, self._dtype, self._device = encoder, dtype, device

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hidden states float32 [positions, features] of `input_features` [1, mel bins, frames] of one window, on the CPU."""
        features = inputs["input_features"].to(self._device, self._dtype)
        with quiet():
            made = self._encoder(features, return_dict=True).last_hidden_state
        return made[0].float().cpu()


def load(
    source: ModelSource, config: Mapping[str, Any], ops: Ops, dtype: torch.dtype, device: torch.device, *, dummy_seed: int | None = None
) -> Hearing:
    """The tower of a model's folder with its weights; no other tensor is read. Arguments as of `tower.load`. Raises ModelError."""
    if not source.path.is_dir():
        raise ModelError(f"{source.name}: what reads sound is read of a Hugging Face folder only")
    with quiet(), explained(source), torch.no_grad():
        encoder = _made(source, config, dtype, dummy_seed).get_encoder().eval().requires_grad_(False).to(device)
        swap_all(encoder, ops, dtype)
        return Hearing(encoder, dtype, device)


def _made(source: ModelSource, hf_config: Mapping[str, Any], dtype: torch.dtype, seed: int | None) -> Any:
    """The whole model with a decoder without layers."""
    from transformers import WhisperForConditionalGeneration

    config = transformers_config({key: value for key, value in hf_config.items() if key != "quantization_config"})
    config.decoder_layers = 0
    made, said = partial.make(WhisperForConditionalGeneration, source, config, dtype, seed, "sdpa")
    partial.check_weights(said, lambda name: name.startswith(_OURS))
    return made
