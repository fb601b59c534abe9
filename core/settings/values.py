"""Hints for values that a setting has not: our word for another program's, or the nearest of ours."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import nearest

#: Names that other programs have for a value of ours.
_VALUES = {
    "bfloat16": "bf16 torch.bfloat16",
    "float16": "fp16 f16 torch.float16",
    "float32": "fp32 f32 full torch.float32",
    "int8": "8bit 8 q8 q8_0 w8a8 load_in_8bit",
    "int4": "4bit 4 q4 q4_0 q4_1 w4a16 nf4 fp4 load_in_4bit",
    "cuda": "gpu nvidia",
    "jsonl": "jsonlines ndjson json-lines ldjson lines",
    "json": "array",
    "tsv": "tab",
    "npy": "numpy np npz",
    "mean": "avg average",
    "last": "eos last-token lasttoken",
    "cls": "first cls-token",
    "gzip": "gz",
    "zstd": "zst",
}
_MEANT = {name: value for value, names in _VALUES.items() for name in names.split()}


def instead_of(value: str, known: Collection[str]) -> str:
    """ "; …" for a value that is not among those known, or an empty string."""
    meant = _MEANT.get(value.lower())
    return f"; use {meant}" if meant in known else nearest(value, known)
