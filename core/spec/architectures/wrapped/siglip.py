"""SigLIP: a tower of texts and one of images, whose pairs are scored each by itself (arXiv 2303.15343)."""

from __future__ import annotations

from ...vision import BESIDE, TwoTowers
from .. import Wrapper

TOWERS = TwoTowers(projection="text_model.head", projection_bias=True, size_key="projection_size", fills=True, activation="sigmoid")
ARCHITECTURE = Wrapper(model_type="siglip_text_model", renames={}, media=BESIDE, towers=TOWERS)
