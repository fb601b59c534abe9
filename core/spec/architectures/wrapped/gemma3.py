"""Gemma 3 from 4 B on: a SigLIP tower before a Gemma 3; the tokens of an image see each other in both directions."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(
    model_type="gemma3_text",
    tie=True,
    vision=Vision(processor="gemma3.Gemma3Processor", token=262144, sees="image"),
)
