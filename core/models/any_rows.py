"""Which models give each row the same bits in a step of any number of rows, so that a step of one need not be padded to sixteen."""

from __future__ import annotations

from itertools import chain

from ..layers.attention import Attention
from ..layers.mlp import MLP
from .decoder import Decoder
from .decoder_layer import DecoderLayer
from .language_model import LanguageModel


def takes_any_rows(model: LanguageModel) -> bool:
    """True if all that happens to rows is done by kernels that take any number (`Ops.any_rows`), or is exact as sums and products of
    two numbers are. Torch rounds exponentials and sums of many numbers otherwise at the end of a tensor than in its middle, so layers
    that use those need tensors of whole sixteens; and so do ranks' sums. Known once there are weights."""
    if not isinstance(model, Decoder) or model.group.size > 1 or model.stack.logits_soft_cap is not None:
        return False
    if model.per_layer is not None or not all(map(_by_kernels, model.layers)):
        return False
    entry, end = model.projection if model.stage.is_first else None, (model.output_projection, model.head) if model.stage.is_last else ()
    ends = [linear for linear in (entry, *end) if linear is not None]
    # Not `model.linears()`: it has each layer brought where it is computed, and nothing is.
    return all(linear.method.any_rows for linear in chain(ends, *(layer.linears() for layer in model.layers)))


def _by_kernels(layer: DecoderLayer) -> bool:
    attention, mlp = layer.attention, layer.mlp
    if not isinstance(attention, Attention) or attention.norms or attention.spec.growth is not None:
        return False
    return layer.mixer is None and layer.beside is None and type(mlp) is MLP and mlp.learned is None
