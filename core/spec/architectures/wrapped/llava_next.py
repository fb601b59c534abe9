"""LLaVA 1.6."""

from __future__ import annotations

from .. import Wrapper

ARCHITECTURE = Wrapper(model_type="llama")
