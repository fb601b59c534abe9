"""The attention kernels: query tiles over a paged cache or over texts side by side.

See attention.py and segments.py.

Numbers that change from step to step are not specialized on: a step must not wait for a compiler.

A tile's BLOCK_M rows are (token, head of the group) pairs of one sequence, so that the heads that share keys fill a tile
together: row r is token r // GROUP, head r % GROUP. Key tiles start at multiples of BLOCK_N of the sequence.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .narrow import load_as, store_as
from .tiles import dot, finish, merge, piece_of, piece_start, soften, tanh

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def find_tile(starts, count, tile, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """(entry, its tile) of tile number `tile`, where entry e has those from starts[e] * GROUP // BLOCK_M + e on.

    That many are always enough, and the host need not know the lengths to know how many tiles there are at most. All starts are read
    side by side: a search by halves would wait for memory again and again.
    """
    at = tl.arange(0, 256)
    found = tile * 0 - 1
    for base in range(0, count, 256):
        entry = base + at
        real = entry < count
        first = tl.load(starts + entry, mask=real, other=0) * GROUP // BLOCK_M + entry
        found += tl.sum((real & (first <= tile)).to(tl.int32), 0)
    return found, tile - (tl.load(starts + found) * GROUP // BLOCK_M + found)


@triton.jit
def visit(
    best, total, acc, query, position, first, last, slopes, biases,
    key, value, table, start, stop, block_stride, token_stride, scale, soft_cap, window,
    D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPES: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SPANS: tl.constexpr,
):  # fmt: skip
    """The rows' state after the key tiles of [start, stop), in order; BLOCK_SIZE 0: keys are not paged.

    `first`, `last`: with HAS_SPANS, a row sees keys up to `last`, and a window hides none from `first` on.
    Nothing before `start` or from `stop` on is read. Not MASKED: every row sees every key, and the tiles are whole.
    """
    d = tl.arange(0, D_PAD)
    for tile in range(start // BLOCK_N, tl.cdiv(stop, BLOCK_N)):
        n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        here = (n >= start) & (n < stop)
        if BLOCK_SIZE > 0:
            block = tl.load(table + n // BLOCK_SIZE, mask=here, other=0).to(tl.int64)
            places = block * block_stride + (n % BLOCK_SIZE) * token_stride
        else:
            places = n.to(tl.int64) * token_stride
        offsets = places[:, None] + d[None, :]
        if MASKED:
            mask = here[:, None] & (d < D)[None, :]
        elif D < D_PAD:
            mask = tl.broadcast_to((d < D)[None, :], offsets.shape)
        else:
            mask = None
        scores = dot(query, tl.trans(load_as(key + offsets, mask, query.dtype))) * scale
        distance = position[:, None] - n[None, :]
        if HAS_CAP:
            scores = tanh(scores) * soft_cap
        if HAS_SLOPES:
            scores = tl.fma(tl.broadcast_to(slopes[:, None], scores.shape), -tl.abs(distance).to(tl.float32), scores)
        if HAS_BIAS:
            added = biases[:, None] + n[None, :]
            if MASKED:
                counted = tl.broadcast_to(here[None, :], scores.shape)
                if CAUSAL:
                    counted = counted & (distance >= 0)
                added = tl.load(added, mask=counted, other=0)
            else:
                added = tl.load(added)
            scores = tl.fma(added, _LOG2_E, scores)
        if MASKED:
            seen = tl.broadcast_to(here[None, :], scores.shape)
            if HAS_SPANS:
                seen = seen & (n[None, :] <= last[:, None])
            elif CAUSAL:
                seen = seen & (distance >= 0)
            if HAS_WINDOW:
                near = tl.abs(distance) < window
                if HAS_SPANS:
                    near = near | (n[None, :] >= first[:, None])
                seen = seen & near
            scores = tl.where(seen, scores, float("-inf"))
        best, total, acc = soften(best, total, acc, scores, load_as(value + offsets, mask, query.dtype))
    return best, total, acc


@triton.jit(do_not_specialize=["window", "num_prompts", "table_stride", "pieces_at_most", "of_head", "own"])
def attend_paged(
    out, partial_acc, partial_stats, query, key, value, query_start, kv_lens, tables, prompts, prompt_starts, spans,
    slopes, sinks, distances, shared, scale, soft_cap, window, num_prompts, table_stride, pieces_at_most, of_head, own,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DOT: tl.constexpr, DECODE: tl.constexpr, PIECES: tl.constexpr, PARTIAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPES: tl.constexpr, HAS_SINKS: tl.constexpr,
    HAS_DISTANCES: tl.constexpr, HAS_SPANS: tl.constexpr, HAS_SHARED: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, KV_HEADS, programs that share a tile's pieces; 1 unless PARTIAL).

    DECODE: the sequences with one query token, each with the tiles of one group; otherwise all the others.
    PIECES: the context goes piece by piece, and states are merged in order, at once or (PARTIAL) by `merge_pieces`.
    HAS_SHARED: the first shared[sequence] keys, as far as they are whole pieces, are in the rows' states already (see `attend_prefixes`).
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head = tl.program_id(1)
    if DECODE:
        TILES: tl.constexpr = (GROUP + BLOCK_M - 1) // BLOCK_M
        sequence = tl.program_id(0) // TILES
        tile = tl.program_id(0) % TILES
    else:
        # The last tiles of a prompt have most keys: they go first.
        prompt, tile = find_tile(prompt_starts, num_prompts, tl.num_programs(0) - 1 - tl.program_id(0), GROUP, BLOCK_M)
        if tile * BLOCK_M >= (tl.load(prompt_starts + prompt + 1) - tl.load(prompt_starts + prompt)) * GROUP:
            return
        sequence = tl.load(prompts + prompt)
    first_token = tl.load(query_start + sequence)
    tokens = tl.load(query_start + sequence + 1) - first_token
    if (tokens == 1) != DECODE:
        return
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < tokens * GROUP
    before = tl.load(kv_lens + sequence) - tokens
    position = tl.where(real, before + row // GROUP, -1)
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, D_PAD)
    of_row = ((first_token + row // GROUP).to(tl.int64) * HEADS + head)[:, None] * D + d[None, :]
    mask = real[:, None] & (d < D)[None, :]
    q = tl.load(query + of_row, mask=mask, other=0).to(DOT)
    slope = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SLOPES:
        slope = tl.load(slopes + head, mask=real, other=0) * _LOG2_E
    sink = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks + head, mask=real, other=0) * _LOG2_E

    # What each row adds to the score of key n is at biases + n; the rows beyond the last read what that one does.
    biases = slope
    if HAS_DISTANCES:
        biases = distances + (tl.where(real, head, 0) * of_head + own - tl.where(real, position, before + tokens - 1))

    # Of the keys [0, stop) that the tile's last row sees, the first row sees none before `start`.
    stop = before + tl.minimum((tile + 1) * BLOCK_M - 1, tokens * GROUP - 1) // GROUP + 1
    start = 0
    if HAS_WINDOW:
        start = tl.maximum(before + tile * BLOCK_M // GROUP - window + 1, 0)
    from_key = position
    to_key = position
    if HAS_SPANS:  # of neighbouring tokens none sees less far ahead, or further back, than the one before it
        of_tokens = spans + 2 * (first_token + row // GROUP)
        from_key = tl.load(of_tokens, mask=real, other=0)
        to_key = tl.load(of_tokens + 1, mask=real, other=-1)
        stop = tl.max(to_key, axis=0) + 1
        if HAS_WINDOW:
            start = tl.minimum(start, tl.load(spans + 2 * (first_token + tile * BLOCK_M // GROUP)))
    token_stride = D
    block_stride = KV_HEADS * BLOCK_SIZE * D
    key += kv_head * BLOCK_SIZE * D
    value += kv_head * BLOCK_SIZE * D
    table = tables + sequence.to(tl.int64) * table_stride

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D_PAD), tl.float32)
    if PIECES:
        last = piece_of(tl.maximum(stop - 1, 0))
        first_piece = piece_of(start) + tl.program_id(2)
        if HAS_SHARED:
            first_piece = piece_of(tl.load(shared + sequence))
            begun = row < tl.where(first_piece > 0, tokens * GROUP, 0)
            state = sequence.to(tl.int64) * HEADS + head
            best = tl.load(partial_stats + state * 2, mask=begun, other=float("-inf"))
            total = tl.load(partial_stats + state * 2 + 1, mask=begun, other=0)
            acc = tl.load(partial_acc + state[:, None] * D + d[None, :], mask=begun[:, None] & mask, other=0)
        for piece in range(first_piece, last + 1, tl.num_programs(2)):
            part_best, part_total, part_acc = visit(
                tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D_PAD), tl.float32),
                q, position, from_key, to_key, slope, biases, key, value, table,
                tl.maximum(piece_start(piece), start), tl.minimum(piece_start(piece + 1), stop), block_stride, token_stride,
                scale, soft_cap, window, D, D_PAD, BLOCK_SIZE, BLOCK_N, True, True, HAS_WINDOW, HAS_CAP, HAS_SLOPES, HAS_DISTANCES,
                HAS_SPANS,
            )  # fmt: skip
            if PARTIAL:
                place = (sequence.to(tl.int64) * HEADS + head) * pieces_at_most + piece
                tl.store(partial_acc + place[:, None] * D + d[None, :], part_acc, mask=mask)
                tl.store(partial_stats + place * 2, part_best, mask=real)
                tl.store(partial_stats + place * 2 + 1, part_total, mask=real)
            else:
                best, total, acc = merge(best, total, acc, part_best, part_total, part_acc)
    else:
        whole = start
        if not (HAS_WINDOW or DECODE):
            # Tiles that even the first row sees as a whole need no mask.
            whole = tl.maximum(before + tile * BLOCK_M // GROUP + 1, 0) // BLOCK_N * BLOCK_N
            best, total, acc = visit(
                best, total, acc, q, position, from_key, to_key, slope, biases, key, value, table, start, whole, block_stride, token_stride,
                scale, soft_cap, window, D, D_PAD, BLOCK_SIZE, BLOCK_N, True, False, False, HAS_CAP, HAS_SLOPES, HAS_DISTANCES, HAS_SPANS,
            )  # fmt: skip
        best, total, acc = visit(
            best, total, acc, q, position, from_key, to_key, slope, biases, key, value, table, whole, stop, block_stride, token_stride,
            scale, soft_cap, window, D, D_PAD, BLOCK_SIZE, BLOCK_N, True, True, HAS_WINDOW, HAS_CAP, HAS_SLOPES, HAS_DISTANCES, HAS_SPANS,
        )  # fmt: skip
    if not PARTIAL:
        result = finish(best, total, acc, sink, HAS_SINKS)
        store_as(out + of_row, result, mask)


@triton.jit(do_not_specialize=["num_groups", "table_stride"])
def attend_prefixes(
    state_acc, state_stats, query, key, value, query_start, kv_lens, tables, members, starts, lengths, slopes, scale, soft_cap,
    num_groups, table_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DOT: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPES: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, KV_HEADS): what decodes have in common goes by once for all of a tile's sequences. Row r of a group's tiles is member
    r // GROUP, head r % GROUP. `attend_paged` goes on from the state that is left for each row (HAS_SHARED).

    Of a prefix whole pieces are taken, whose keys every row sees. They are computed in tiles of the same sizes and merged in the same
    order as when a row is alone, so that its bits are the same in any company. What this takes for granted is what `deterministic` does:
    a product's row does not depend on its place in the tile. In Triton's interpreter tests show that; of tensor cores it is expected, and
    not yet seen on one, so that nobody asks for it where bits are promised (runner.py).
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head = tl.program_id(1)
    group, tile = find_tile(starts, num_groups, tl.program_id(0), GROUP, BLOCK_M)
    first = tl.load(starts + group)
    count = tl.load(starts + group + 1) - first
    if tile * BLOCK_M >= count * GROUP:
        return
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < count * GROUP
    sequence = tl.load(members + first + row // GROUP, mask=real, other=0).to(tl.int64)
    token = tl.load(query_start + sequence, mask=real, other=0).to(tl.int64)
    position = tl.where(real, tl.load(kv_lens + sequence, mask=real, other=0) - 1, -1)
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, D_PAD)
    mask = real[:, None] & (d < D)[None, :]
    q = tl.load(query + (token * HEADS + head)[:, None] * D + d[None, :], mask=mask, other=0).to(DOT)
    slope = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SLOPES:
        slope = tl.load(slopes + head, mask=real, other=0) * _LOG2_E
    block_stride = KV_HEADS * BLOCK_SIZE * D
    key += kv_head * BLOCK_SIZE * D
    value += kv_head * BLOCK_SIZE * D
    table = tables + tl.load(members + first).to(tl.int64) * table_stride

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D_PAD), tl.float32)
    for piece in range(0, piece_of(tl.load(lengths + group))):
        part_best, part_total, part_acc = visit(
            tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M, D_PAD), tl.float32),
            q, position, position, position, slope, slope, key, value, table, piece_start(piece), piece_start(piece + 1), block_stride, D,
            scale, soft_cap, 0, D, D_PAD, BLOCK_SIZE, BLOCK_N, True, True, False, HAS_CAP, HAS_SLOPES, False, False,
        )  # fmt: skip
        best, total, acc = merge(best, total, acc, part_best, part_total, part_acc)
    place = sequence * HEADS + head
    tl.store(state_acc + place[:, None] * D + d[None, :], acc, mask=mask)
    tl.store(state_stats + place * 2, best, mask=real)
    tl.store(state_stats + place * 2 + 1, total, mask=real)


@triton.jit(do_not_specialize=["window", "pieces_at_most"])
def merge_pieces(
    out, partial_acc, partial_stats, query_start, kv_lens, sinks, window, pieces_at_most,
    HEADS: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, ROWS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads by ROWS): merges what `attend_paged` left of the sequences with one query token, in order."""
    sequence = tl.program_id(0)
    token = tl.load(query_start + sequence)
    if tl.load(query_start + sequence + 1) - token != 1:
        return
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real = head < HEADS
    d = tl.arange(0, D_PAD)
    mask = real[:, None] & (d < D)[None, :]
    stop = tl.load(kv_lens + sequence)
    start = 0
    if HAS_WINDOW:
        start = tl.maximum(stop - window, 0)
    first = piece_of(start)
    last = piece_of(tl.maximum(stop - 1, 0))
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D_PAD), tl.float32)
    sink = tl.zeros((ROWS,), tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks + head, mask=real, other=0) * _LOG2_E
    for piece in tl.range(first, last + 1, loop_unroll_factor=4):
        place = (sequence.to(tl.int64) * HEADS + head) * pieces_at_most + piece
        part_acc = tl.load(partial_acc + place[:, None] * D + d[None, :], mask=mask, other=0)
        part_best = tl.load(partial_stats + place * 2, mask=real, other=0)
        part_total = tl.load(partial_stats + place * 2 + 1, mask=real, other=0)
        best, total, acc = merge(best, total, acc, part_best, part_total, part_acc)
    result = finish(best, total, acc, sink, HAS_SINKS)
    store_as(out + (token.to(tl.int64) * HEADS + head)[:, None] * D + d[None, :], result, mask)


@triton.jit(do_not_specialize=["window", "num_texts"])
def attend_texts(
    out, query, key, value, starts, slopes, sinks, bias, places,
    scale, soft_cap, window, num_texts, row_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DOT: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPES: tl.constexpr, HAS_SINKS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, KV_HEADS). Query, key and value are rows `row_stride` apart; tokens of a text see each other, both ways."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    kv_head = tl.program_id(1)
    text, tile = find_tile(starts, num_texts, tl.program_id(0), GROUP, BLOCK_M)
    first_token = tl.load(starts + text)
    tokens = tl.load(starts + text + 1) - first_token
    if tile * BLOCK_M >= tokens * GROUP:
        return
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < tokens * GROUP
    position = row // GROUP
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, D_PAD)
    mask = real[:, None] & (d < D)[None, :]
    token = (first_token + position).to(tl.int64)
    q = tl.load(query + token[:, None] * row_stride + (head * D)[:, None] + d[None, :], mask=mask, other=0).to(DOT)
    slope = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SLOPES:
        slope = tl.load(slopes + head, mask=real, other=0) * _LOG2_E
    sink = tl.zeros((BLOCK_M,), tl.float32)
    if HAS_SINKS:
        sink = tl.load(sinks + head, mask=real, other=0) * _LOG2_E

    biases = tl.zeros((BLOCK_M,), tl.int64)
    if HAS_BIAS:
        of_text = places + text * 3
        biases = bias + (tl.load(of_text) + head * tl.load(of_text + 1) + tl.where(real, position, 0) * tl.load(of_text + 2))

    key += first_token.to(tl.int64) * row_stride + kv_head * D
    value += first_token.to(tl.int64) * row_stride + kv_head * D
    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, D_PAD), tl.float32)
    start = 0
    stop = tokens
    whole = 0
    if HAS_WINDOW:
        start = tl.maximum(tile * BLOCK_M // GROUP - window + 1, 0)
        stop = tl.minimum(((tile + 1) * BLOCK_M - 1) // GROUP + window, tokens)
        whole = start
    else:
        whole = tokens // BLOCK_N * BLOCK_N
        best, total, acc = visit(
            best, total, acc, q, position, position, position, slope, biases, key, value, starts, start, whole, 0, row_stride, scale,
            soft_cap, window, D, D_PAD, 0, BLOCK_N, False, False, False, HAS_CAP, HAS_SLOPES, HAS_BIAS, False,
        )  # fmt: skip
    best, total, acc = visit(
        best, total, acc, q, position, position, position, slope, biases, key, value, starts, whole, stop, 0, row_stride, scale,
        soft_cap, window, D, D_PAD, 0, BLOCK_N, False, True, HAS_WINDOW, HAS_CAP, HAS_SLOPES, HAS_BIAS, False,
    )  # fmt: skip
    result = finish(best, total, acc, sink, HAS_SINKS)
    store_as(out + (token * HEADS + head)[:, None] * D + d[None, :], result, mask)
