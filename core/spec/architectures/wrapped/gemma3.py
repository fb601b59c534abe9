"""Gemma 3 from 4 B on: a SigLIP tower before a Gemma 3."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="gemma3_text", tie=True)
