"""Attention within whole texts: which rows and heads go together, and the kernel's call.

See src/segments.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ops import AttentionConfig, PairBias, Rotation, Rows, ScaledRows, Segments
from . import library
from .threads import threads

#: Items for every thread from which work is even enough, if there is so much of it.
ITEMS_A_THREAD = 8
#: Rows (tokens by heads of a group) that the kernel takes through keys together: fewer are not worth laying out keys for.
BAND = 96
#: What laying out a token's keys and values costs, in keys that a row looks at.
LAYING_OUT = 32

_attention = library.function("infer_segment_attention", "pppppp" + "ippi" + "iiii" + "ff" + "pppp" + "i")


@dataclass(slots=True)
class SegmentItems:
    items: Tensor
    """int32 [I, 5]: text, first and last + 1 of its key/value heads, first and last + 1 of its tokens; most work first."""
    total: int
    """Rows of all texts."""


def plan_segments(segments: Segments, num_heads: int, num_kv_heads: int) -> SegmentItems:
    """An item is a text with all its heads, or where that is too much for one thread some heads, or some rows of one head."""
    starts = segments.starts.numpy().astype(np.int64)
    lens = np.diff(starts)
    work = lens * (lens + LAYING_OUT)
    share = max(1.0, work.sum() / (ITEMS_A_THREAD * threads()))
    wanted = np.ceil(work / share).astype(np.int64)  # items of each text
    heads = np.maximum(1, num_kv_heads // np.maximum(1, wanted))
    head_parts = -(-num_kv_heads // heads)
    band = max(1, BAND * num_kv_heads // num_heads)
    row_parts = np.clip(wanted // num_kv_heads, 1, -(-lens // band))
    tokens = -(-lens // np.maximum(1, row_parts * band)) * band
    row_parts = -(-lens // np.maximum(1, tokens))  # none for a text without tokens

    parts = head_parts * row_parts
    text = np.repeat(np.arange(len(lens)), parts)
    number = np.arange(len(text)) - np.repeat(np.cumsum(parts) - parts, parts)
    h0 = number // row_parts[text] * heads[text]
    first = number % row_parts[text] * tokens[text]
    h1, last = np.minimum(h0 + heads[text], num_kv_heads), np.minimum(first + tokens[text], lens[text])
    order = np.argsort(-(h1 - h0) * (last - first) * lens[text], kind="stable")
    items = np.stack([text, h0, h1, first, last], axis=1).astype(np.int32)[order]
    return SegmentItems(torch.from_numpy(items), int(starts[-1]))


def segment_attention(
    qkv: Rows, rotation: Rotation | None, segments: Segments, config: AttentionConfig, bias: PairBias | None = None
) -> Tensor:
    plan: SegmentItems = segments.plan
    values, scale = qkv if isinstance(qkv, ScaledRows) else (qkv, None)
    values = values.contiguous()
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    assert values.shape[1] == (heads + 2 * kv_heads) * dim
    positions, cos, sin = rotation or (None, None, None)
    out = values.new_empty(values.shape[0], heads * dim)
    out[plan.total :].zero_()
    _attention(
        *(out, values, scale, positions, cos, sin),
        *(0 if cos is None else cos.shape[1], segments.starts, plan.items, len(plan.items)),
        *(heads, kv_heads, dim, config.sliding_window or 0),
        *(config.scale, config.soft_cap or 0.0),
        *(config.alibi_slopes, config.sinks, *(bias or (None, None))),
        library.DTYPES[values.dtype],
    )
    return out
