"""Marian, of the OPUS-MT translators: BART's layers, positions that are sines and cosines, no norm of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...hf_values import COUNT, FLAG, NULL
from ...stack import StackSpec
from .. import Architecture
from . import bart


def stack(hf: Mapping[str, Any]) -> StackSpec:
    if hf.get("decoder_vocab_size") not in (None, hf["vocab_size"]):
        raise ModelError("config.json: decoder_vocab_size is not vocab_size, which is not supported")
    return bart.bart(
        hf,
        pre_norm=False,
        embedding_norm=False,
        shared=hf["share_encoder_decoder_embeddings"],
        num_positions=hf["max_position_embeddings"],
        sinusoids="exclusive",
    )


ARCHITECTURE = Architecture(
    stack=stack,
    defaults={
        **bart.DEFAULTS,
        **{"vocab_size": 58101, "pad_token_id": 58100, "eos_token_id": 0, "decoder_start_token_id": 58100},
        "share_encoder_decoder_embeddings": True,
    },
    values={**bart.VALUES, "share_encoder_decoder_embeddings": FLAG, "decoder_vocab_size": COUNT | NULL},
    other_names=bart.OTHER_NAMES,
    end_token=0,
)
