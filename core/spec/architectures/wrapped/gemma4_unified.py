"""Gemma 4 Unified: images and sound go into a Gemma 4 as they are, without towers."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="gemma4_unified_text", tie=True)
