"""CamemBERT: RoBERTa trained on French."""

from __future__ import annotations

from .roberta import FAMILY

ARCHITECTURE = FAMILY
