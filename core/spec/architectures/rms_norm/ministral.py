"""Ministral (8 B of 2024): Mistral whose layers are of kinds that config.json lists."""

from __future__ import annotations

from .mistral import ARCHITECTURE as MISTRAL

ARCHITECTURE = MISTRAL
