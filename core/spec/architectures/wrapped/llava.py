"""LLaVA 1.5 and what is made like it, Pixtral among them: a tower before any language model."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(
    model_type="llama",
    vision=Vision(processor="llava.LlavaProcessor", token=32000, processors={"pixtral": "pixtral.PixtralProcessor"}),
)
