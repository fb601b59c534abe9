"""Tiny models that read images, one of each family for all tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from .families import Maker, Tiny, make


@pytest.fixture(scope="session")
def tiny_family(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    made: dict[str, Tiny] = {}

    def find(kind: str) -> Tiny:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp(kind)
            made[kind] = make(kind, folder)
        return made[kind]

    return find
