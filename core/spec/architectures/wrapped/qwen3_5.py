"""Qwen3.5: a tower before a model with gated delta networks."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="qwen3_5_text")
