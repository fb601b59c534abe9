"""SmolVLM: Idefics 3 in small sizes."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(
    model_type="llama",
    renames={"text_model.": ""},
    vision=Vision(processor="smolvlm.SmolVLMProcessor", token=128257, video="batch"),
)
