"""SigLIP 2 with images of any shape (NaFlex, arXiv 2502.14786); the one of one size calls itself siglip."""

from __future__ import annotations

from ...vision import BESIDE
from .. import Wrapper
from .siglip import TOWERS

ARCHITECTURE = Wrapper(model_type="siglip_text_model", spellings=("siglip2_text_model",), renames={}, media=BESIDE, towers=TOWERS)
