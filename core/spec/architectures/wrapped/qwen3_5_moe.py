"""Qwen3.5-MoE: a tower before a model with gated delta networks and experts."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="qwen3_5_moe_text")
