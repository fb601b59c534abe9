"""Idefics 3: a SigLIP tower before a Llama; an image is seen in tiles and whole."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(
    model_type="llama",
    renames={"text_model.": ""},
    vision=Vision(processor="idefics3.Idefics3Processor", token=128257),
)
