"""Launch configurations by architecture: data, so that nothing is tuned at start-up.

Of a matrix product the tile decides in which order a row's sums are made: it depends on architecture and dtype, never on the rows.
Attention's tables are in attention_configs.py.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch


class Product(NamedTuple):
    """Tile of a matrix product: rows by outputs, `depth` inputs at a time."""

    rows: int
    outputs: int
    depth: int
    num_warps: int
    num_stages: int


class Pass(NamedTuple):
    """Elements a program works on at a time as it goes along a row."""

    block: int
    num_warps: int


#: Rows of the tables, by the bytes of shared memory that a program of theirs may take.
SHARED = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}

#: (architecture, bytes of an element) -> tile. Shared memory holds num_stages of (rows + outputs) * depth elements. Of 16
#: bits NVIDIA's are wide: a number that is read is used 128 times, and 256 rows by 4,096 outputs are half a GPU's programs still. Elsewhere
#: narrow outputs keep all processors busy where rows are few.
PRODUCTS = {
    ("sm_80", 1): Product(64, 64, 128, 4, 4),
    ("sm_80", 2): Product(128, 128, 64, 8, 4),
    ("sm_80", 4): Product(64, 64, 16, 4, 3),
    ("sm_86", 1): Product(64, 64, 128, 4, 4),
    ("sm_86", 2): Product(128, 128, 64, 8, 3),
    ("sm_86", 4): Product(64, 64, 16, 4, 3),
    ("sm_90", 1): Product(64, 64, 128, 4, 4),
    ("sm_90", 2): Product(128, 128, 64, 8, 4),
    ("sm_90", 4): Product(64, 64, 16, 4, 3),
    ("gfx942", 1): Product(64, 64, 128, 4, 2),
    ("gfx942", 2): Product(64, 64, 64, 4, 2),
    ("gfx942", 4): Product(64, 64, 16, 4, 2),
}

#: (class, architecture, bytes of an element) -> tile of a product with a weight that is widened on the way; `depth` is the weight's own.
#: few: up to 16 rows, where bytes in flight count; some: up to 64; many: enough rows to pay for widening; fixed: any number.
GROUPED_KINDS = ("few", "some", "many", "fixed")
_NVIDIA_GROUPED = {
    ("few", 2): Product(16, 64, 0, 4, 5),
    ("some", 2): Product(64, 64, 0, 4, 4),
    ("many", 2): Product(128, 128, 0, 8, 3),
    ("fixed", 2): Product(64, 64, 0, 8, 4),
    **{(kind, 4): Product(32, 32, 0, 8, 2) for kind in GROUPED_KINDS},
}
_AMD_GROUPED = {
    ("few", 2): Product(16, 64, 0, 4, 2),
    ("some", 2): Product(64, 64, 0, 4, 2),
    ("many", 2): Product(128, 128, 0, 8, 2),
    ("fixed", 2): Product(64, 64, 0, 4, 2),
    **{(kind, 4): Product(32, 32, 0, 4, 2) for kind in GROUPED_KINDS},
}
GROUPED = {
    (kind, row, size): tile for row in SHARED for (kind, size), tile in (_AMD_GROUPED if row.startswith("gfx") else _NVIDIA_GROUPED).items()
}

#: Passes over rows of logits. A block's largest elements bound a row's top_k, if it is no larger than the block.
LOGITS = {"sm_80": Pass(4096, 8), "sm_86": Pass(4096, 8), "sm_90": Pass(4096, 8), "gfx942": Pass(4096, 8)}
#: Activations, and quantization of rows too wide for one block.
ELEMENTS = {"sm_80": Pass(1024, 4), "sm_86": Pass(1024, 4), "sm_90": Pass(2048, 4), "gfx942": Pass(1024, 4)}


@functools.cache
def architecture(device: torch.device) -> str:
    """The row of the tables for this device; the interpreter goes by the one with least shared memory."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "gfx942"
    properties = torch.cuda.get_device_properties(device)
    return row_of((properties.major, properties.minor), properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def row_of(capability: tuple[int, int], shared: int) -> str:
    """The row for an NVIDIA GPU by what it can and by the bytes of shared memory a block may have: newer ones may have less of it than
    their elders. A100 (8.0) has 163 KiB, 8.6, 8.9 and 12.x have 99, 9.0 and 10.x have 227."""
    if capability >= (9, 0) and shared >= SHARED["sm_90"]:
        return "sm_90"
    return "sm_80" if shared >= SHARED["sm_80"] else "sm_86"


def product(x: torch.Tensor) -> Product:
    """The tile of products with rows of this kind."""
    return PRODUCTS[architecture(x.device), x.element_size()]


def grouped(x: torch.Tensor, count: int, *, deterministic: bool) -> Product:
    """The tile of products of `count` rows of this kind and a weight in groups; of any number the same where that is asked for."""
    kind = "fixed" if deterministic else "few" if count <= 16 else "some" if count <= 64 else "many"
    return GROUPED[kind, architecture(x.device), x.element_size()]


def cdiv(count: int, size: int) -> int:
    """`count / size`, rounded up. Triton's own takes ten times as long, for it works in kernels too."""
    return -(-count // size)


@functools.cache
def next_power_of_2(number: int) -> int:
    """The least power of 2 that is no less than `number`, which is above 0."""
    return 1 << (number - 1).bit_length()


def row_warps(block: int, arch: str) -> int:
    """Warps of a program that holds a whole row of `block` elements in registers: 8 to 32 elements a thread, of 1,024 at most."""
    return min(max(block // 1024, 1), 16 if arch.startswith("gfx") else 32)
