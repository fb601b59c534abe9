"""LLaVA-OneVision."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="qwen2")
