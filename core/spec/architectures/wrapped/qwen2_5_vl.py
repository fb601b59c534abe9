"""Qwen2.5-VL: Qwen2-VL with another tower."""

from __future__ import annotations

from .. import Wrapper
from .qwen2_vl import DEFAULTS

ARCHITECTURE = Wrapper(model_type="qwen2", spellings=("qwen2_5_vl_text",), defaults=DEFAULTS)
