"""UMT5 (arXiv 2304.09151): mT5 whose every layer has a bias by distance of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from . import mt5, t5


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return t5.t5(hf, scaled=t5.scales(hf), per_layer=True)


ARCHITECTURE: Architecture = replace(mt5.ARCHITECTURE, stack=stack)
