"""mT5 (arXiv 2010.11934): T5 1.1, whose hidden states go to the head as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from . import t5


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return t5.t5(hf, scaled=False)


ARCHITECTURE = Architecture(
    stack=stack,
    defaults={**t5.DEFAULTS, "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"},
    values=t5.VALUES,
    other_names=t5.OTHER_NAMES,
    end_token=1,
    unsafe_dtypes=frozenset({"float16"}),
)
