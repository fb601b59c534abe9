"""The kernel: query tiles over a paged cache of latents.

See ../attend.py, which this follows, and ../attention.py, which launches both. A cache row is TURNED features that rotate and RANK that
do not, which are the value too. All heads of a token see the same row, so a tile's rows are (token, head) pairs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..attend import find_tile
from ..narrow import load_as, store_as
from ..tiles import dot, dot_add, finish, merge, piece_of, piece_start, soften


@triton.jit
def _visit(
    best, total, acc, still, turning, position, latents, table, start, stop, scale,
    RANK: tl.constexpr, RANK_PAD: tl.constexpr, TURNED: tl.constexpr, TURNED_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The rows' state after the tiles of [start, stop), in order; `still` and `turning` are the two parts of queries.

    Nothing before `start` or from `stop` on is read. Not MASKED: every row sees every position, and the tiles are whole.
    """
    d = tl.arange(0, RANK_PAD)
    e = tl.arange(0, TURNED_PAD)
    for tile in range(start // BLOCK_N, tl.cdiv(stop, BLOCK_N)):
        n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        here = (n >= start) & (n < stop)
        block = tl.load(table + n // BLOCK_SIZE, mask=here, other=0).to(tl.int64)
        row = (block * BLOCK_SIZE + n % BLOCK_SIZE) * (TURNED + RANK)
        still_at = (row + TURNED)[:, None] + d[None, :]
        turned_at = row[:, None] + e[None, :]
        if MASKED:
            still_mask = here[:, None] & (d < RANK)[None, :]
            turned_mask = here[:, None] & (e < TURNED)[None, :]
        else:
            still_mask = tl.broadcast_to((d < RANK)[None, :], still_at.shape) if RANK < RANK_PAD else None
            turned_mask = tl.broadcast_to((e < TURNED)[None, :], turned_at.shape) if TURNED < TURNED_PAD else None
        latent = load_as(latents + still_at, still_mask, still.dtype)
        turned = load_as(latents + turned_at, turned_mask, still.dtype)
        scores = dot_add(turning, tl.trans(turned), dot(still, tl.trans(latent))) * scale
        if MASKED:
            scores = tl.where(here[None, :] & (position[:, None] >= n[None, :]), scores, float("-inf"))
        best, total, acc = soften(best, total, acc, scores, latent)
    return best, total, acc


@triton.jit(do_not_specialize=["num_prompts", "table_stride", "pieces_at_most"])
def attend_latents(
    out, partial_acc, partial_stats, query, latents, query_start, kv_lens, tables, prompts, prompt_starts,
    scale, num_prompts, table_stride, pieces_at_most,
    HEADS: tl.constexpr, RANK: tl.constexpr, RANK_PAD: tl.constexpr, TURNED: tl.constexpr, TURNED_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DOT: tl.constexpr,
    DECODE: tl.constexpr, PIECES: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, 1, programs that share a tile's pieces; 1 unless PARTIAL). The flags are those of `attend_paged`."""
    if DECODE:
        TILES: tl.constexpr = (HEADS + BLOCK_M - 1) // BLOCK_M
        sequence = tl.program_id(0) // TILES
        tile = tl.program_id(0) % TILES
    else:
        # The last tiles of a prompt have most positions before them: they go first.
        prompt, tile = find_tile(prompt_starts, num_prompts, tl.num_programs(0) - 1 - tl.program_id(0), HEADS, BLOCK_M)
        if tile * BLOCK_M >= (tl.load(prompt_starts + prompt + 1) - tl.load(prompt_starts + prompt)) * HEADS:
            return
        sequence = tl.load(prompts + prompt)
    first_token = tl.load(query_start + sequence)
    tokens = tl.load(query_start + sequence + 1) - first_token
    if (tokens == 1) != DECODE:
        return
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < tokens * HEADS
    before = tl.load(kv_lens + sequence) - tokens
    position = tl.where(real, before + row // HEADS, -1)
    head = row % HEADS
    d = tl.arange(0, RANK_PAD)
    e = tl.arange(0, TURNED_PAD)
    of_row = first_token.to(tl.int64) * HEADS + row
    place = query + of_row[:, None] * (TURNED + RANK)
    of_latent = real[:, None] & (d < RANK)[None, :]
    turning = tl.load(place + e[None, :], mask=real[:, None] & (e < TURNED)[None, :], other=0).to(DOT)
    still = tl.load(place + TURNED + d[None, :], mask=of_latent, other=0).to(DOT)

    stop = before + tl.minimum((tile + 1) * BLOCK_M - 1, tokens * HEADS - 1) // HEADS + 1
    table = tables + sequence.to(tl.int64) * table_stride
    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, RANK_PAD), tl.float32)
    if PIECES:
        last = piece_of(tl.maximum(stop - 1, 0))
        for piece in range(tl.program_id(2), last + 1, tl.num_programs(2)):
            part_best, part_total, part_acc = _visit(
                tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, RANK_PAD), tl.float32),
                still, turning, position, latents, table, piece_start(piece), tl.minimum(piece_start(piece + 1), stop), scale,
                RANK, RANK_PAD, TURNED, TURNED_PAD, BLOCK_SIZE, BLOCK_N, True,
            )  # fmt: skip
            if PARTIAL:
                at = (sequence.to(tl.int64) * HEADS + head) * pieces_at_most + piece
                tl.store(partial_acc + at[:, None] * RANK + d[None, :], part_acc, mask=of_latent)
                tl.store(partial_stats + at * 2, part_best, mask=real)
                tl.store(partial_stats + at * 2 + 1, part_total, mask=real)
            else:
                best, total, acc = merge(best, total, acc, part_best, part_total, part_acc)
    else:
        whole = 0
        if not DECODE:
            # Tiles that even the first row sees as a whole need no mask.
            whole = tl.maximum(before + tile * BLOCK_M // HEADS + 1, 0) // BLOCK_N * BLOCK_N
            best, total, acc = _visit(
                best, total, acc, still, turning, position, latents, table, 0, whole, scale,
                RANK, RANK_PAD, TURNED, TURNED_PAD, BLOCK_SIZE, BLOCK_N, False,
            )  # fmt: skip
        best, total, acc = _visit(
            best, total, acc, still, turning, position, latents, table, whole, stop, scale,
            RANK, RANK_PAD, TURNED, TURNED_PAD, BLOCK_SIZE, BLOCK_N, True,
        )  # fmt: skip
    if not PARTIAL:
        result = finish(best, total, acc, best, False)
        store_as(out + of_row[:, None] * RANK + d[None, :], result, of_latent)
