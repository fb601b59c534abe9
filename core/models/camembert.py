"""CamemBERT: RoBERTa trained on French."""

from __future__ import annotations

from . import roberta


class Model(roberta.Model):
    """The same in every layer."""
