"""Mistral 3 (Mistral Small 3.1 and later, Ministral 3): a Pixtral tower before a Mistral."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="mistral", tie=True, vision=Vision(processor="pixtral.PixtralProcessor", token=10))
