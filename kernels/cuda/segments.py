"""Attention within texts side by side, in both directions: rotation first (rope.py), then the kernel (attend.py).

A text's tiles start at its own first token: what a row gets is the same to the bit in any company.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import AttentionConfig, PairBias, Rotation, Rows, Segments
from .attend import attend_texts
from .attention import POINTERS, TRITON_DTYPES, folded, of_config
from .attention_configs import launch
from .configs import architecture
from .rope import rotated
from .signature import TARGETS, Signature


def plan_segments(segments: Segments, num_heads: int, num_kv_heads: int, *, deterministic: bool = False) -> int:
    """The number of texts; reads no tensor's content. `deterministic` changes nothing: results never depend on the company."""
    return segments.starts.shape[0] - 1


def segment_attention(
    qkv: Rows, rotation: Rotation | None, segments: Segments, config: AttentionConfig, bias: PairBias | None = None
) -> Tensor:
    num_texts: int = segments.plan
    x = rotated(qkv, rotation, config)
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    # Zeros beyond the last text, whose end only the device knows.
    out = torch.zeros((x.shape[0], heads * dim), dtype=x.dtype, device=x.device)
    if not num_texts or not len(x):
        return out
    shape = launch("segments" if bias is None else "biased", architecture(x.device), x.dtype, dim)
    tiles = x.shape[0] * (heads // kv_heads) // shape.blocks["BLOCK_M"] + num_texts
    scale, soft_cap = folded(config)
    attend_texts[(tiles, kv_heads)](
        *(out, x, x[:, heads * dim :], x[:, (heads + kv_heads) * dim :], segments.starts),
        *(x if config.alibi_slopes is None else config.alibi_slopes, x if config.sinks is None else config.sinks),
        *(bias or (x, x)),
        *(scale, soft_cap, config.sliding_window or 0, num_texts, x.stride(0)),
        DOT=TRITON_DTYPES[x.dtype],
        **of_config(config),
        HAS_BIAS=bias is not None,
        **shape.blocks,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
        enable_fp_fusion=False,
    )
    return out


def signatures() -> list[Signature]:
    """Heads of every class, as the table launches them on each target."""
    found = []
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    plain = [(bf16, 64, ""), (bf16, 128, ""), (fp16, 256, ""), (fp32, 64, ""), (fp32, 128, ""), (fp32, 128, "bias")]
    for target in TARGETS:
        for dtype, dim, more in [*plain, *((bf16, dim, more) for dim in (64, 128) for more in ("window", "bias", "options"))]:
            shape = launch("biased" if more == "bias" else "segments", target.row, dtype, dim)
            types = dict.fromkeys(("out", "query", "key", "value"), POINTERS[dtype]) | dict.fromkeys(("slopes", "sinks", "bias"), "*fp32")
            types |= {
                "starts": "*i32",
                "places": "*i64",
                "scale": "fp32",
                "soft_cap": "fp32",
                "window": "i32",
                "num_texts": "i32",
                "row_stride": "i32:16",
            }
            constants = of_config(AttentionConfig(12, 12, dim, 1.0)) | shape.blocks | {"DOT": TRITON_DTYPES[dtype]}
            constants |= {"HAS_WINDOW": more == "window", "HAS_BIAS": more == "bias"}
            constants |= dict.fromkeys(("HAS_CAP", "HAS_SLOPES", "HAS_SINKS"), more == "options")
            name = f"attend_texts {POINTERS[dtype][1:]} {dim}" + (f" with {more}" if more else "")
            cores = dtype.itemsize == 2
            launched = (shape.num_warps, shape.num_stages, cores, (target.name,))
            found.append(Signature(attend_texts, name, types, constants, *launched, always=dtype == bf16 and more != "options"))
    return found
