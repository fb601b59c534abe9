"""XLM-RoBERTa: RoBERTa with a vocabulary of a hundred languages."""

from __future__ import annotations

from . import roberta


class Model(roberta.Model):
    """The same in every layer."""
