"""GLM-4-0414: GLM with norms behind attention and feed-forward part, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import NAMES
from ...stack import StackSpec
from . import glm

SANDWICH = replace(NAMES, attention_out_norm="post_self_attn_layernorm", mlp_out_norm="post_mlp_layernorm")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return glm.stack(hf, SANDWICH)


ARCHITECTURE = replace(glm.ARCHITECTURE, stack=stack)
