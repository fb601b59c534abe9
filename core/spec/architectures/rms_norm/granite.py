"""Granite: Llama with factors of embeddings, scores, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, biased, decoder, gated, without
from ...hf_values import POSITIVE
from ...stack import StackSpec
from .. import Architecture

FACTORS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")
GRANITE_DEFAULTS = without(DEFAULTS, "head_dim") | {"attention_bias": False, "mlp_bias": False} | dict.fromkeys(FACTORS, 1.0)


def stack(hf: Mapping[str, Any], *, attention: Mapping[str, Any] | None = None, **more: Any) -> StackSpec:
    """`attention`: further differences; `more`: other arguments of `decoder`."""
    return decoder(
        hf,
        attention={**biased(hf), "scale": float(hf["attention_multiplier"]), **(attention or {})},
        embedding_scale=float(hf["embedding_multiplier"]),
        scales_given=True,
        residual_scale=float(hf["residual_multiplier"]),
        logits_scale=1 / hf["logits_scaling"],
        **{"feed_forward": gated(hf, bias=hf.get("mlp_bias", False)), **more},
    )


ARCHITECTURE = Architecture(
    stack=stack, defaults=GRANITE_DEFAULTS, values=VALUES | dict.fromkeys(FACTORS, POSITIVE), theta=1e4, end_token=2
)
