"""One file a scheme: how a linear layer stores and applies its weight.

A scheme is a `LinearMethod`; adding a file and a row here adds it.
"""

from __future__ import annotations

from .base import LinearMethod
from .fp8 import Fp8
from .int4 import Int4
from .int8 import Int8

#: What `--quantization` names.
SCHEMES: dict[str, type[LinearMethod]] = {"int8": Int8, "int4": Int4, "fp8": Fp8}
