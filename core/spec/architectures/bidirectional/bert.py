"""BERT and what is shaped like it (MiniLM, bge, e5, gte): post-norm, learned positions, token types, plain feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...encoder import DEFAULTS, VALUES, learned
from ...model_spec import StackSpec
from .. import Architecture


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return learned(hf, "bert.")


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, is_encoder=True)
