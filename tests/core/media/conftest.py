"""Tiny models that read images, one of each family for all tests of a session."""

from __future__ import annotations

from .families import tiny_family

__all__ = ["tiny_family"]
