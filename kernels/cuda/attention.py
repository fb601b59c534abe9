"""Paged attention: how a step is cut into tiles and pieces, and the kernels' calls.

See attend.py and tiles.py.

Sequences with one query token (decodes) and all others go through the same kernel in two launches. How many programs there are
hangs on the shapes of the step's tensors alone, never on lengths: nothing waits for the device, and a step of decodes can be
captured in a CUDA graph and replayed for other lengths. Programs with nothing to do end at once.

Decodes of a small batch are cut into pieces, for there would be too few programs otherwise; a second kernel merges the pieces in
order. In a captured step the batch is as large as the step has room for: `decode_launch` tells up to which size it is small. What
decodes of a larger one have in common is read once for several of them, where the host has said it. Where `deterministic` is asked for,
everything is cut into pieces, prompts too, with the same tiles for both, and merged in the same order: what a row gets is then decided by
its own query and keys, to the bit, whatever brings it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..ops import KEYS_AHEAD, AttentionConfig, AttentionMeta, DecodeLaunch, KVCache, Prefixes, Prompts
from .attend import attend_paged, attend_prefixes, merge_pieces
from .attention_configs import DECODE_ROWS, Launch, launch
from .configs import architecture, cdiv, next_power_of_2
from .latent.attend import attend_latents
from .latent.configs import latent_launch, of_latents
from .narrow import readable
from .signature import TARGETS, Signature, Target
from .tiles import LOG2_E, count_pieces

#: Programs that keep a device busy: with so many, decodes are not cut into pieces (but for `deterministic`).
ENOUGH_PROGRAMS = 256
#: Programs among which the pieces of a small batch are shared out.
MOST_PROGRAMS = 1024
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
}
#: By their name: the tiles where a number is added to each pair's score, if others than without.
_BIASED = {"prefill": "biased", "fixed": "fixed biased"}
TRITON_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(slots=True)
class StepShape:
    """The launch of a step, as its shapes decide it."""

    decodes_alone: bool
    """As many tokens as sequences: each has one."""
    pieces: int
    """That the longest context the block tables have room for would be cut into."""
    deterministic: bool
    prompts: Prompts
    """As the host has said, or every sequence."""


def plan_attention(meta: AttentionMeta, num_heads: int, num_kv_heads: int, *, deterministic: bool = False) -> StepShape:
    """Reads no tensor's content. Sequences may have no tokens or an empty context: their rows, if any, become zeros.

    A step of no more tokens than sequences must not have two of one sequence: it is taken for one of decodes.
    """
    most = count_pieces(meta.block_tables.shape[1] * meta.block_size)
    total, count = meta.slots.shape[0], meta.kv_lens.shape[0]
    prompts = meta.prompts
    if prompts is None:
        prompts = Prompts(torch.arange(count, dtype=torch.int32, device=meta.kv_lens.device), meta.query_start, total)
    return StepShape(total <= count, most, deterministic, prompts)


def decode_launch(config: AttentionConfig, *, deterministic: bool = False) -> DecodeLaunch:
    """See `Ops.decode_launch`. Fixed tiles may have more rows: then decodes are cut a little longer than it says."""
    programs = config.num_kv_heads * cdiv(config.num_heads // config.num_kv_heads, DECODE_ROWS)
    return DecodeLaunch(cdiv(ENOUGH_PROGRAMS, programs), joins=not deterministic and _joins(config, DECODE_ROWS))


def attention(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Tensor:
    plan: StepShape = meta.plan
    query = query.contiguous()
    rows, total = query.shape[0], meta.slots.shape[0]
    out = query.new_empty(rows, config.num_heads * config.value_dim)
    out[total:].zero_()
    if total:
        _decode(out, query, cache, meta, config, plan)
        if not plan.decodes_alone:
            _prefill(out, query, cache, meta, config, plan)
    return out


def _decode(out: Tensor, query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig, plan: StepShape) -> None:
    """The rows of sequences with one query token."""
    shape = _shape("fixed" if plan.deterministic else "decode", query, cache, config)
    kv_heads, sequences = config.num_kv_heads, meta.kv_lens.shape[0]
    tiles = sequences * cdiv(config.num_heads // kv_heads, shape.blocks["BLOCK_M"])
    shared_by = 1
    if tiles * kv_heads < ENOUGH_PROGRAMS and meta.spans is None:  # `merge_pieces` knows windows of causal tokens
        shared_by = min(plan.pieces, cdiv(MOST_PROGRAMS, tiles * kv_heads))
    if shared_by == 1:
        states = _prefixes(query, cache, meta, config, shape)
        return _attend(out, states, query, cache, meta, config, (tiles, kv_heads, 1), shape, decode=True, goes_on=states is not None)
    counts = (sequences, config.num_heads, plan.pieces)
    partial = tuple(torch.empty((*counts, n), dtype=torch.float32, device=query.device) for n in (config.value_dim, 2))
    _attend(out, partial, query, cache, meta, config, (tiles, kv_heads, shared_by), shape, decode=True)
    merge_pieces[(sequences, config.num_heads)](
        *(out, *partial, meta.query_start, meta.kv_lens, _or(config.sinks, out), config.sliding_window or 0, plan.pieces),
        HEADS=config.num_heads,
        D=config.value_dim,
        D_PAD=padded(config.value_dim),
        ROWS=1,
        HAS_WINDOW=config.sliding_window is not None,
        HAS_SINKS=config.sinks is not None,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return None


def _prefixes(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig, shape: Launch) -> tuple[Tensor, ...] | None:
    """The states [S, H, value_dim] and [S, H, 2] of rows after the whole pieces of the prefixes that they share; None where nothing is
    shared, or nothing is gained by it."""
    group, rows = config.num_heads // config.num_kv_heads, shape.blocks["BLOCK_M"]
    prefixes: Prefixes | None = meta.prefixes
    if prefixes is None or not _joins(config, rows):
        return None
    counts = (meta.kv_lens.shape[0], config.num_heads)
    states = tuple(torch.empty((*counts, n), dtype=torch.float32, device=query.device) for n in (config.value_dim, 2))
    groups = len(prefixes.lengths)
    scale, soft_cap = folded(config)
    attend_prefixes[(len(prefixes.members) * group // rows + groups, config.num_kv_heads)](
        *(*states, query, readable(cache.key), readable(cache.value), meta.query_start, meta.kv_lens, meta.block_tables),
        *(prefixes.members, prefixes.starts, prefixes.lengths, _or(config.alibi_slopes, query)),
        *(scale, soft_cap, groups, meta.block_tables.stride(0)),
        HEADS=config.num_heads,
        KV_HEADS=config.num_kv_heads,
        D=config.head_dim,
        D_PAD=padded(config.head_dim),
        BLOCK_SIZE=meta.block_size,
        DOT=TRITON_DTYPES[operand_dtype(query.dtype, cache.key.dtype)],
        HAS_CAP=bool(config.soft_cap),
        HAS_SLOPES=config.alibi_slopes is not None,
        **shape.blocks,
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
        enable_fp_fusion=False,
    )
    return states


def _joins(config: AttentionConfig, rows: int) -> bool:
    """True if a tile of so many rows has room for several sequences, and each sees all of what they have in common."""
    fits = rows >= 2 * (config.num_heads // config.num_kv_heads)
    return fits and not config.latent and config.sliding_window is None and config.distances is None


def _prefill(out: Tensor, query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig, plan: StepShape) -> None:
    """The rows of all other sequences."""
    shape = _shape("fixed" if plan.deterministic else "prefill", query, cache, config)
    rows = plan.prompts.tokens * (config.num_heads // config.num_kv_heads)
    tiles = rows // shape.blocks["BLOCK_M"] + len(plan.prompts.sequences)
    _attend(out, None, query, cache, meta, config, (tiles, config.num_kv_heads, 1), shape, decode=False)


def _attend(
    out: Tensor,
    partial: tuple[Tensor, ...] | None,
    query: Tensor,
    cache: KVCache,
    meta: AttentionMeta,
    config: AttentionConfig,
    grid: tuple[int, int, int],
    shape: Launch,
    *,
    decode: bool,
    goes_on: bool = False,
) -> None:
    """The kernel's call; `partial` takes the states of the pieces [S, H, pieces, value_dim] and [S, H, pieces, 2], or (`goes_on`) has those
    that `_prefixes` left."""
    plan: StepShape = meta.plan
    constants = {
        "BLOCK_SIZE": meta.block_size,
        "DOT": TRITON_DTYPES[operand_dtype(query.dtype, cache.key.dtype)],
        "DECODE": decode,
        "PIECES": plan.deterministic or partial is not None,
        "PARTIAL": partial is not None and not goes_on,
        **shape.blocks,
    }
    launched = {"num_warps": shape.num_warps, "num_stages": shape.num_stages, "enable_fp_fusion": False}  # tiles.py fuses by hand
    if config.latent:
        attend_latents[grid](
            *(out, *(partial or (query, query)), query, readable(cache.key), meta.query_start, meta.kv_lens, meta.block_tables),
            *(plan.prompts.sequences, plan.prompts.starts),
            *(config.scale * LOG2_E, len(plan.prompts.sequences), meta.block_tables.stride(0), plan.pieces),
            **of_latents(config.num_heads, config.head_dim, config.latent),
            **constants,
            **launched,
        )
        return
    scale, soft_cap = folded(config)
    attend_paged[grid](
        *(out, *(partial or (query, query)), query, readable(cache.key), readable(cache.value)),
        *(meta.query_start, meta.kv_lens, meta.block_tables, plan.prompts.sequences, plan.prompts.starts),
        *(_or(meta.spans, meta.kv_lens), _or(config.alibi_slopes, query), _or(config.sinks, query), _or(config.distances, query)),
        meta.prefixes.shared if goes_on and meta.prefixes is not None else meta.kv_lens,
        *(scale, soft_cap, config.sliding_window or 0, len(plan.prompts.sequences), meta.block_tables.stride(0), plan.pieces),
        *((0, 0) if config.distances is None else (config.distances.shape[1], config.distances.shape[1] - KEYS_AHEAD - 1)),
        **of_config(config),
        HAS_DISTANCES=config.distances is not None,
        HAS_SPANS=meta.spans is not None,
        HAS_SHARED=goes_on,
        **constants,
        **launched,
    )


def _shape(kernel: str, query: Tensor, cache: KVCache, config: AttentionConfig) -> Launch:
    if config.latent:
        return latent_launch(kernel, architecture(query.device), operand_dtype(query.dtype, cache.key.dtype), cache.key.dtype)
    kernel = kernel if config.distances is None else _BIASED.get(kernel, kernel)
    return launch(kernel, architecture(query.device), operand_dtype(query.dtype, cache.key.dtype), query.shape[2], cache.key.dtype)


def folded(config: AttentionConfig) -> tuple[float, float]:
    """(factor of q k^T, factor of the tanh of that): scores come out times log2(e)."""
    if config.soft_cap:
        return config.scale / config.soft_cap, config.soft_cap * LOG2_E
    return config.scale * LOG2_E, 0.0


def of_config(config: AttentionConfig) -> dict[str, Any]:
    """Constants of the kernels that a layer decides."""
    return {
        "HEADS": config.num_heads,
        "KV_HEADS": config.num_kv_heads,
        "D": config.head_dim,
        "D_PAD": padded(config.head_dim),
        "HAS_WINDOW": config.sliding_window is not None,
        "HAS_CAP": bool(config.soft_cap),
        "HAS_SLOPES": config.alibi_slopes is not None,
        "HAS_SINKS": config.sinks is not None,
    }


def padded(head_dim: int) -> int:
    """Features of a tile: a power of two, and what tensor cores take at least."""
    return max(16, next_power_of_2(head_dim))


def operand_dtype(query: torch.dtype, cache: torch.dtype) -> torch.dtype:
    """The type that queries and the cache's numbers are multiplied in: for float8 the queries' type."""
    return query if cache.itemsize == 1 else torch.promote_types(query, cache)


def signatures() -> list[Signature]:
    """Prompts, decodes in pieces, and both with fixed tiles, plain and with options, each as the table launches it on each target."""
    bf16, fp16, fp32, e4m3 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
    half = [(bf16, bf16, 64), (bf16, bf16, 128), (fp16, fp16, 256), (bf16, e4m3, 128)]
    cases = {
        "prefill": [*half, (fp32, fp32, 128)],
        "decode": [*half, (fp32, fp32, 128), (fp16, torch.float8_e5m2, 80)],
        "fixed": [*half, (fp16, fp16, 80)],
        "fixed decode": [(bf16, bf16, 64), (bf16, bf16, 128)],
        "decode behind prefixes": [(bf16, bf16, 64), (bf16, bf16, 128)],
        "prefill with options": [(bf16, bf16, 64), (bf16, bf16, 128), (bf16, bf16, 256), (bf16, e4m3, 64)],
        "fixed with options": [(bf16, bf16, 64), (bf16, bf16, 128)],
        **{f"{kind} with slopes": [(bf16, bf16, 128)] for kind in ("prefill", "decode", "fixed")},
        **{f"{kind} with distances": [(bf16, bf16, 64), (bf16, bf16, 128)] for kind in ("prefill", "decode", "fixed", "fixed decode")},
        "prefill with spans": [(bf16, bf16, 256)],
        "fixed with spans": [(bf16, bf16, 256)],
    }
    found = [_signature(kind, target, *case) for target in TARGETS for kind in cases for case in cases[kind]]
    behind = [(bf16, bf16, 64, ""), (bf16, bf16, 128, ""), (bf16, bf16, 128, " with options"), (fp32, fp32, 128, "")]
    found += [_of_prefixes(target, *case) for target in TARGETS for case in behind]
    types = dict.fromkeys(("query_start", "kv_lens"), "*i32") | dict.fromkeys(("partial_acc", "partial_stats", "sinks"), "*fp32")
    types |= {"window": "i32", "pieces_at_most": "i32"}
    merged = []
    for dtype, dim, options in (("bf16", 128, True), ("fp16", 64, False)):
        constants = {"HEADS": 32, "D": dim, "D_PAD": dim, "ROWS": 1, "HAS_WINDOW": options, "HAS_SINKS": options}
        name = f"merge_pieces {dtype} {dim}{' with options' if options else ''}"
        merged.append(Signature(merge_pieces, name, types | {"out": f"*{dtype}"}, constants, num_warps=1))
    latents = {"prefill": [(bf16, bf16), (bf16, e4m3)], "decode": [(bf16, bf16), (bf16, e4m3), (fp32, fp32)]}
    latents["fixed"] = latents["prefill"]
    found += [_of_latents(kind, target, *case) for target in TARGETS for kind in latents for case in latents[kind]]
    return [*found, *merged]


def _signature(kind: str, target: Target, query: torch.dtype, cache: torch.dtype, dim: int) -> Signature:
    table, decode = kind.split(maxsplit=1)[0], "decode" in kind
    shape = launch(_BIASED.get(table, table) if "with distances" in kind else table, target.row, query, dim, cache)
    stored = "*u8" if cache == torch.float8_e4m3fn and not target.converts_e4m3 else POINTERS[cache]
    types = dict.fromkeys(("query_start", "kv_lens", "tables", "prompts", "prompt_starts", "spans", "shared"), "*i32")
    types |= dict.fromkeys(("slopes", "sinks", "distances"), "*fp32")
    types |= dict.fromkeys(("partial_acc", "partial_stats"), "*fp32" if decode else POINTERS[query])
    types |= {"out": POINTERS[query], "query": POINTERS[query], "key": stored, "value": stored, "scale": "fp32", "soft_cap": "fp32"}
    types |= dict.fromkeys(("window", "num_prompts", "table_stride", "pieces_at_most", "of_head", "own"), "i32")
    constants = of_config(AttentionConfig(32, 8, dim, 1.0)) | shape.blocks | {"BLOCK_SIZE": 16, "DOT": TRITON_DTYPES[query]}
    constants |= {
        "DECODE": decode,
        "PIECES": decode or table == "fixed",
        "PARTIAL": decode and "behind" not in kind,
        "HAS_DISTANCES": "with distances" in kind,
        "HAS_SLOPES": "with slopes" in kind,
        "HAS_SPANS": "with spans" in kind,
        "HAS_SHARED": "behind prefixes" in kind,
    }
    if "with options" in kind or "with spans" in kind:
        constants |= dict.fromkeys(("HAS_WINDOW", "HAS_CAP", "HAS_SINKS"), True)
    name = f"attend_paged {kind} {POINTERS[query][1:]} {POINTERS[cache][1:]} {dim}"
    launched = (shape.num_warps, shape.num_stages, query.itemsize == 2, (target.name,))
    # Triton 3.6 leaves these fewer registers than there are, and 8 bytes spill.
    limit = 8 if (kind, target.name, dim) == ("prefill with options", "sm_90", 256) else 0
    if table == "fixed" and target.name == "sm_86":
        limit = 12  # it has one row with sm_120, where what fits here would spill 72
    always = query == cache == torch.bfloat16 and not (constants["HAS_SLOPES"] or constants["HAS_DISTANCES"])
    return Signature(attend_paged, name, types, constants, *launched, always=always, spill_limit=limit)


def _of_prefixes(target: Target, query: torch.dtype, cache: torch.dtype, dim: int, options: str) -> Signature:
    shape = launch("decode", target.row, query, dim, cache)
    stored = "*u8" if cache == torch.float8_e4m3fn and not target.converts_e4m3 else POINTERS[cache]
    types = dict.fromkeys(("query_start", "kv_lens", "tables", "members", "starts", "lengths"), "*i32")
    types |= dict.fromkeys(("state_acc", "state_stats", "slopes"), "*fp32") | dict.fromkeys(("scale", "soft_cap"), "fp32")
    types |= {"query": POINTERS[query], "key": stored, "value": stored} | dict.fromkeys(("num_groups", "table_stride"), "i32")
    constants = of_config(AttentionConfig(32, 8, dim, 1.0)) | shape.blocks | {"BLOCK_SIZE": 16, "DOT": TRITON_DTYPES[query]}
    constants = {name: value for name, value in constants.items() if name not in ("HAS_WINDOW", "HAS_SINKS")}
    constants |= dict.fromkeys(("HAS_CAP", "HAS_SLOPES"), bool(options))
    name = f"attend_prefixes {POINTERS[query][1:]} {POINTERS[cache][1:]} {dim}{options}"
    launched = (shape.num_warps, shape.num_stages, query.itemsize == 2, (target.name,))
    # Triton 3.9 spills 12 bytes of heads of 64 on sm_86, and up to 64 in float32.
    always = query == cache == torch.bfloat16 and not options
    return Signature(attend_prefixes, name, types, constants, *launched, always=always, spill_limit=64)


def _of_latents(kind: str, target: Target, query: torch.dtype, cache: torch.dtype) -> Signature:
    """With DeepSeek's sizes."""
    shape, decode = latent_launch(kind, target.row, query, cache), kind == "decode"
    stored = "*u8" if cache == torch.float8_e4m3fn and not target.converts_e4m3 else POINTERS[cache]
    types = dict.fromkeys(("query_start", "kv_lens", "tables", "prompts", "prompt_starts"), "*i32")
    types |= dict.fromkeys(("partial_acc", "partial_stats"), "*fp32" if decode else POINTERS[query])
    types |= {"out": POINTERS[query], "query": POINTERS[query], "latents": stored, "scale": "fp32"}
    types |= dict.fromkeys(("num_prompts", "table_stride", "pieces_at_most"), "i32")
    constants = of_latents(16, 576, 512) | shape.blocks | {"BLOCK_SIZE": 16, "DOT": TRITON_DTYPES[query]}
    constants |= {"DECODE": decode, "PIECES": decode or kind == "fixed", "PARTIAL": decode}
    name = f"attend_latents {kind} {POINTERS[query][1:]} {POINTERS[cache][1:]}"
    launched = (shape.num_warps, shape.num_stages, query.itemsize == 2, (target.name,))
    # Triton 3.9 compiles for two programs a processor where it can, and 24 or 32 bytes spill; with four warps 3.6 spills 112.
    limit = 32 if decode and query == cache == torch.bfloat16 else 0
    return Signature(attend_latents, name, types, constants, *launched, always=query == cache == torch.bfloat16, spill_limit=limit)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Kernels take a tensor, if one they do not look at."""
    return other if tensor is None else tensor
