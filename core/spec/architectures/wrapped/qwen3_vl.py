"""Qwen3-VL: a tower before a Qwen3, whose layers get images at several depths."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper

ROPE = {"mrope_section": [24, 20, 20], "mrope_interleaved": True}
VISION = Vision(processor="qwen3_vl.Qwen3VLProcessor", token=151655, rope=ROPE, video="shared grid", video_token=151656)
ARCHITECTURE = Wrapper(
    model_type="qwen3",
    spellings=("qwen3_vl_text",),
    defaults={"rope_theta": 5e5, "max_position_embeddings": 128000},
    vision=VISION,
)
