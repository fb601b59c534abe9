"""Qwen2.5-VL: Qwen2-VL with another tower."""

from __future__ import annotations

from ...vision import Vision
from .. import Wrapper
from .qwen2_vl import DEFAULTS, ROPE

ARCHITECTURE = Wrapper(
    model_type="qwen2",
    spellings=("qwen2_5_vl_text",),
    defaults=DEFAULTS,
    vision=Vision(processor="qwen2_5_vl.Qwen2_5_VLProcessor", token=151655, rope=ROPE, video="grid", video_token=151656, pace=4.0),
)
