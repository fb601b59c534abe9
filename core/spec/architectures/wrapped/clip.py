"""CLIP: a tower of texts and one of images (arXiv 2103.00020)."""

from __future__ import annotations

from ...vision import BESIDE, TwoTowers
from .. import Wrapper

TOWERS = TwoTowers(projection="text_projection", projection_bias=False, size_key="projection_dim", fills=False, activation="softmax")
ARCHITECTURE = Wrapper(model_type="clip_text_model", renames={}, media=BESIDE, towers=TOWERS)
