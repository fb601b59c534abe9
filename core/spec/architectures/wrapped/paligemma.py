"""PaliGemma: a SigLIP tower before a Gemma, or in PaliGemma 2 a Gemma 2, which sees a prompt with an image in both directions."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(
    model_type="gemma",
    tie=True,
    vision=Vision(processor="paligemma.PaliGemmaProcessor", token=256000, sees="prompt", frames_text=True),
)
