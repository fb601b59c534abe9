"""Falcon-Mamba: Mamba with norms, without weights, of what times, B and C are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...hf_values import POSITIVE
from ...stack import StackSpec
from .. import Architecture
from . import mamba


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return mamba.stack(hf, norm_eps=hf["mixer_rms_eps"])


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=mamba.MAMBA_DEFAULTS | {"mixer_rms_eps": 1e-6},
    values=mamba.VALUES_OF_MAMBA | {"mixer_rms_eps": POSITIVE},
    end_token=0,
)
