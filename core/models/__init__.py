"""Models: stacks of layers that a spec describes (`decoder.py`, `encoder.py`), and transformers' code for other decoders (`hf/`).

Architectures are files of spec/architectures. `language_model.py` says what the engine uses of a model that writes, and
`pooling_model.py` of one whose hidden states are wanted.
"""

from __future__ import annotations

from infer.kernels.ops import Ops

from ..errors import ModelError, nearest
from ..quant.choice import Choose, choosing
from ..spec.architectures import decoders, encoders
from ..spec.model_spec import ModelSpec
from .decoder import Decoder
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder


def build(spec: ModelSpec, ops: Ops, *, choose: Choose | None = None) -> Decoder | EncoderDecoder:
    """The language model of a spec, without weights.

    Args:
        choose: how linear layers store their weights; None: plainly.

    Raises ModelError for one that we have no code for.
    """
    if spec.is_encoder:
        raise ModelError(
            f"model_type {spec.model_type!r} reads texts and cannot write any; it is a model for infer embed, score or classify"
        )
    if spec.stack is None and not spec.lacking:
        known = decoders()
        raise ModelError(
            f"model_type {spec.model_type!r} is not supported (supported: {', '.join(known)}){nearest(spec.model_type, known)}"
        )
    with choosing(choose):
        stack = spec.need_stack()
        return Decoder(stack, ops) if not spec.has_encoder else EncoderDecoder(stack, ops)


def build_encoder(spec: ModelSpec, ops: Ops, *, labels: int = 0, choose: Choose | None = None) -> Encoder:
    """The encoder of a spec, without weights.

    Args:
        labels: with the head of its `...ForSequenceClassification` for so many; 0: without.
        choose: as of `build`.

    Raises ModelError for one that we have no code for.
    """
    if not spec.is_encoder:
        raise ModelError(f"model_type {spec.model_type!r} is not a supported encoder (supported: {', '.join(encoders())})")
    with choosing(choose):
        return Encoder(spec.need_stack(), ops, labels=labels)
