"""InternVL 3 and later, in the form that transformers has: a tower before a Qwen2 or Qwen3."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="qwen2", vision=Vision(processor="internvl.InternVLProcessor", token=151667, video="frames"))
