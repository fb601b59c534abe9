"""Gemma 4: towers of images and sound before a Gemma 4."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="gemma4_text", tie=True)
