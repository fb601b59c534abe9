"""XLM-RoBERTa: RoBERTa with a vocabulary of a hundred languages."""

from __future__ import annotations

from .roberta import FAMILY

ARCHITECTURE = FAMILY
