"""A tower: transformers' code for what reads images, projector included, without the language model behind it.

One image goes in at a time, and linear layers are ours, row by row: what comes out depends on the image alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
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

#: Of a language model that is not wanted: the least that transformers' classes make one of.
_LEAST = {"num_hidden_layers": 1, "vocab_size": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


class Tower:
    """
    Args:
        model: transformers' model without its language model: it has `get_image_features`.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model
        self._dtype, self._device = dtype, device

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Embeddings float32 [tokens, features] of one image or video, on the CPU; those for later layers beside them where a family has
        some."""
        read = self._model.get_video_features if "pixel_values_videos" in inputs else self._model.get_image_features
        takes = inspect.signature(read).parameters
        given = {name: self._moved(tensor) for name, tensor in inputs.items() if name in takes}
        with quiet():
            made = read(**given, return_dict=True)
        rows = [_rows(made.pooler_output), *(_rows(deep) for deep in getattr(made, "deepstack_features", None) or ())]
        return torch.cat(rows, dim=1).float().cpu()

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)


def load(
    source: ModelSource, config: Mapping[str, Any], ops: Ops, dtype: torch.dtype, device: torch.device, *, dummy_seed: int | None = None
) -> Tower:
    """The tower of a model's folder with its weights; no other tensor is read.

    Args:
        config: the content of its config.json.
        dummy_seed: random weights by this seed instead of the checkpoint's.

    Raises ModelError.
    """
    if not source.path.is_dir():
        raise ModelError(f"{source.name}: what reads images is read of a Hugging Face folder only")
    with quiet(), explained(source), torch.no_grad():
        made = _made(source, config, dtype, dummy_seed)
        model = getattr(made, "model", made)
        for name, child in list(model.named_children()):
            if child is model.get_decoder() or name == "language_model":
                setattr(model, name, None)
        model = model.eval().requires_grad_(False).to(device)
        swap_all(model, ops, dtype)
        return Tower(model, dtype, device)


def _made(source: ModelSource, hf_config: Mapping[str, Any], dtype: torch.dtype, seed: int | None) -> Any:
    """The whole model, the language model in it as small as can be."""
    from transformers import AutoModelForImageTextToText

    config = transformers_config({key: value for key, value in hf_config.items() if key != "quantization_config"})
    text = config.get_text_config()
    for key, value in _LEAST.items():
        if getattr(text, key, None) is not None:
            setattr(text, key, value)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    # The language model, which is not wanted, need not have the tower's kind of attention.
    attention = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}
    made, said = partial.make(AutoModelForImageTextToText, source, config, dtype, seed, attention)
    model = getattr(made, "model", made)
    decoder = next(name for name, module in made.named_modules() if module is model.get_decoder())
    partial.check_weights(said, lambda name: not name.startswith((decoder + ".", "lm_head.")))
    return made


def _rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    """[tokens, features] of one image, in whichever form it came."""
    whole = features if isinstance(features, Tensor) else torch.cat([one.reshape(-1, one.shape[-1]) for one in features])
    return whole.reshape(-1, whole.shape[-1])
