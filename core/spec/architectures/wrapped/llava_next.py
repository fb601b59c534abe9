"""LLaVA 1.6: an image is seen whole and in tiles."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="llama", vision=Vision(processor="llava_next.LlavaNextProcessor", token=32000))
