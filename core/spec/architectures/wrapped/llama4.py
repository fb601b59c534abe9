"""Llama 4: a tower before the language model."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="llama4_text")
