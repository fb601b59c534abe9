"""The language model of Gemma 4 Unified: a Gemma 4 without per-layer embeddings and experts."""

from __future__ import annotations

from dataclasses import replace

from .gemma4_text import ARCHITECTURE as GEMMA4
from .gemma4_text import PLAIN_DEFAULTS

MORE = {"max_position_embeddings": 262144, "sliding_window": 1024, "use_bidirectional_attention": "vision"}
ARCHITECTURE = replace(GEMMA4, defaults=PLAIN_DEFAULTS | MORE)
