// Paged attention for prefill and decode in one kernel: what is alike whatever keys and values are kept in.
//
// A row is one (token, query head). Its keys are visited in tiles of 64 positions that start at multiples of 64 of the sequence,
// with a running softmax; within a tile every sum runs in one fixed order. So a row's bits depend on its own query and keys alone:
// not on which rows are computed beside it, nor on how a prompt was cut into chunks. The heads that share a key/value head, and
// neighbouring tokens, go through a tile together, up to ROWS of them in registers; so do sequences that share it (attention_items.h).
//
// What knows the cache's layout is a store: Floats in attention.cpp, Codes in attention_int8.cpp. A store S has
//   Row       type of queries and results
//   Tile      where a tile's keys and values are
//   Scratch   one thread's memory: queries in the form that products want, and the copy of a tile
//   room(a, rows, s)                                        room for so many queries
//   pack(a, s, r, x)                                        puts query x there as number r
//   find_tile(a, place)                                     a tile in the cache
//   copy_tile(a, place, s)                                  the same if blocks have fewer than 16 tokens
//   ROWS                                                    that go together, at most: what has room in registers
//   BATCH                                                   blocks (ROWS rows by a tile) whose scores come before the values of any of them:
//                                                           weights wait for their row's largest score, and other blocks' products fill that time
//   STEPS_AHEAD                                             how many tiles later `next` is. It is asked for line after line: all at once
//                                                           they would wait for each other, and the work for them
//   scores<R, AHEAD>(a, s, r, tile, next, groups, out)             out[i * TILE + t] = query r + i . key t, in at least so many groups of tokens
//   weigh(score, scale, best)                               puts weights 2^(score * scale - best), or what it makes of them, in the place of
//                                                           a row's scores, 0 for -infinity; their sum, lane by lane
//   add_values<R, AHEAD>(a, weights, seen, shrink, tile, next, sums, width)  sums[i * width...] = sums * shrink[i] + weight t of row i * value t
// and with AHEAD asks meanwhile for the memory of `next`, a tile that will be worked on soon: once is enough. Where BATCH is more than 1, `next` is
// what is read right after `tile` of the same kind, as keys; for that there is
//   values_as_keys(tile)                                    a tile whose values are in the place of keys
#pragma once

#include <algorithm>
#include <atomic>

#include "attention_items.h"
#include "parallel.h"

namespace infer {

struct Problem {
    void *out;
    const void *query, *key, *value;
    Items items;
    int64_t num_heads, num_kv_heads, head_dim, block_size, window;
    float scale, soft_cap;  // log2(e) in both
    const float *alibi, *sinks;
    const float *distances;  // [head][of_head]: what is added to the score of a key so many positions away; the query's own is in column `own`
    int64_t of_head, own;
    int64_t pairs() const { return (head_dim + 1) / 2; }
    int64_t group() const { return num_heads / num_kv_heads; }
    // More is done to scores than to multiply them by a positive scale.
    bool special() const { return soft_cap > 0 || alibi || distances || !(scale > 0); }
};

// Attention over keys and values in int8, of queries in `dtype`; otherwise as infer_attention.
void attend_int8(const Problem &a, int64_t num_items, int64_t heads_together, int64_t dtype);

inline Item find_item(const Problem &a, int64_t number, int64_t heads_together) {
    const int64_t parts = (a.num_kv_heads + heads_together - 1) / heads_together, h0 = number % parts * heads_together;
    return {a.items.parts[number / parts], h0, std::min(a.num_kv_heads, h0 + heads_together)};
}

// An item's rows of one key/value head, ordered by member, token, head of the group.
struct Rows {
    const int32_t *positions, *lows, *lasts;
    int64_t group, count;
    int64_t low_of_any, end_of_all;  // all of them see the positions between these
    int64_t position(int64_t r) const { return positions[r]; }
    int64_t low(int64_t r) const { return lows[r]; }    // the first position that it sees
    int64_t last(int64_t r) const { return lasts[r]; }  // and the last
};

// The tokens of a tile that some rows see: row r those from low[r] to high[r]; all of them those from `from` to `to`.
template <int ROWS> struct Seen {
    int low[ROWS], high[ROWS], from, to;
    int most;      // the largest of `high`
    bool partial;  // some row does not see all of the tile
    bool alike;    // all see the same

    void find(const Rows &rows, int64_t r0, int count, int64_t start) {
        partial = start < rows.low_of_any || start + TILE > rows.end_of_all;
        alike = true, from = 0, to = most = TILE;
        if (!partial) return;
        int least = TILE;
        from = 0, to = TILE, most = 0;
        for (int r = 0; r < count; r++) {
            low[r] = (int)std::clamp<int64_t>(rows.low(r0 + r) - start, 0, TILE);
            high[r] = (int)std::clamp<int64_t>(rows.last(r0 + r) + 1 - start, 0, TILE);
            from = std::max(from, low[r]), least = std::min(least, low[r]);
            to = std::min(to, high[r]), most = std::max(most, high[r]);
        }
        partial = from > 0 || to < TILE;
        alike = from == least && to == most;
    }
};

// Rows of a head that go through a tile together: `count` of them, from r0 on.
template <class S> struct Block {
    typename S::Tile tile, next;
    int64_t start, head, r0, base;  // `base` rows of other heads stand before in the scratch
    int count;
    bool ahead;
    Seen<S::ROWS> seen;
    alignas(64) float shrink[LANES], score[S::ROWS * TILE];
};

// One thread's memory; grows to its largest item.
template <class S> struct Scratch : S::Scratch {
    Buffer<float> sums;    // [rows][width]: weighted sums of values
    Buffer<float> best;    // [rows]: largest score yet
    Buffer<f32x16> total;  // [rows]: sums of weights, lane by lane
    Buffer<int32_t> positions, lows, lasts, first_row;  // of the rows of a head; each member's first one, and their number
    Buffer<int64_t> offset;                             // of the rows of the first head: elements in query and out
    Block<S> blocks[S::BATCH];
};

// What the running softmax of R rows makes of a tile's scores: weights, and what the sums up to here shrink by.
template <class S, bool SPECIAL, int R, bool AHEAD>
void weigh(const Problem &a, const Rows &rows, const typename S::Tile &next, Block<S> &b, Scratch<S> &s) {
    const int64_t r0 = b.r0, number = b.base + r0, head0 = b.head * rows.group;
    float *score = b.score;
    Seen<S::ROWS> &seen = b.seen;
    seen.find(rows, r0, R, b.start);
    // Of rows enough to be those of a prompt, and by pieces of all, groups that none of them sees are left out.
    const int groups = R == S::ROWS || BY_PIECES ? (seen.most + LANES - 1) / LANES : GROUPS;
    S::template scores<R, AHEAD>(a, s, number, b.tile, next, groups, score);

    const i32x16 lane = lane_numbers();
    const f32x16 nothing = splat(-INFINITY);
    f32x16 top[R];
    for (int r = 0; r < R; r++) {
        float *mine = score + r * TILE;
        f32x16 x[GROUPS];
        for (int g = 0; g < GROUPS; g++) x[g] = load(mine + g * LANES);
        if (SPECIAL) {
            const int64_t head = head0 + (r0 + r) % rows.group, first = b.start - rows.position(r0 + r);  // of the tile's keys, from the query on
            if (a.soft_cap > 0)
                for (int g = 0; g < GROUPS; g++) x[g] = capped(x[g], a.scale / a.soft_cap, a.soft_cap);
            else
                for (int g = 0; g < GROUPS; g++) x[g] *= a.scale;
            if (a.alibi) {
                const f32x16 distance = convert<f32x16>(lane + (int32_t)first), slope = splat(a.alibi[head] * LOG2E);
                for (int g = 0; g < GROUPS; g++) x[g] = vfma(distance + (float)(g * LANES), slope, x[g]);
            }
            if (a.distances) {
                const float *added = a.distances + head * a.of_head + a.own + first;
                for (int g = 0; g < GROUPS; g++)  // of what lies ahead of the query nothing counts
                    if (first + g * LANES <= 0) x[g] = vfma(load(added + g * LANES), splat(LOG2E), x[g]);
            }
        }
        // What a masked token's slot holds must not show: its score is replaced, its value never multiplied.
        if (seen.partial)
            for (int g = 0; g < GROUPS; g++) x[g] = select((lane + g * LANES >= seen.low[r]) & (lane + g * LANES < seen.high[r]), x[g], nothing);
        if (SPECIAL || seen.partial)
            for (int g = 0; g < GROUPS; g++) store(mine + g * LANES, x[g]);
        top[r] = vmax(vmax(x[0], x[1]), vmax(x[2], x[3]));
    }

    // All rows' maxima at once, row r's in lane r.
    const float scale = SPECIAL ? 1.0f : a.scale;
    const f32x16 before = load(s.best.data + number), now = vmax(before, largest_of_rows<R>(top) * scale);
    // Rows that have seen nothing keep -infinity; 0 stands in so that no -infinity is taken from another.
    const f32x16 pivots = select(now == nothing, splat(0.0f), now);
    alignas(64) float pivot[LANES];
    store(pivot, pivots);
    store(b.shrink, select(before == nothing, splat(0.0f), exp2_below(before - pivots)));
    store_first<R>(s.best.data + number, now);
    for (int r = 0; r < R; r++) {
        f32x16 &total = s.total.data[number + r];
        total = total * b.shrink[r] + S::weigh(score + r * TILE, scale, pivot[r]);
    }
}

// Calls BODY with the number of rows, and whether to ask for what comes next, as constants.
template <class S, class Body> void with_rows(int rows, bool ahead, const Body &body) {
    if (rows == S::ROWS && !ahead) return body(std::integral_constant<int, S::ROWS>(), std::false_type());
    switch (rows) {
#define INFER_ROWS(R) \
    case R: \
        if constexpr (R <= S::ROWS) body(std::integral_constant<int, R>(), std::true_type()); \
        break;
        INFER_ROWS(1) INFER_ROWS(2) INFER_ROWS(3) INFER_ROWS(4) INFER_ROWS(5) INFER_ROWS(6)
        INFER_ROWS(7) INFER_ROWS(8) INFER_ROWS(9) INFER_ROWS(10) INFER_ROWS(11) INFER_ROWS(12)
#undef INFER_ROWS
    }
}

// The first `count` blocks of the scratch, and after them the tile `after`.
template <class S, bool SPECIAL>
void absorb(const Problem &a, const Rows &rows, int count, const typename S::Tile &after, Scratch<S> &s, int64_t width) {
    typedef typename S::Tile Tile;
    // The block after number i that asks for what comes next, or null.
    const auto asks_after = [&](int i) -> const Block<S> * {
        while (++i < count)
            if (s.blocks[i].ahead) return s.blocks + i;
        return nullptr;
    };
    const auto next_of = [&](int i, bool values) -> Tile {
        if constexpr (S::BATCH > 1) {
            if (!s.blocks[i].ahead) return after;
            const Block<S> *then = asks_after(i);
            if (values) return then ? S::values_as_keys(then->tile) : after;
            return then ? then->tile : S::values_as_keys(asks_after(-1)->tile);
        } else {
            return s.blocks[i].next;
        }
    };
    for (int i = 0; i < count; i++) {
        Block<S> &b = s.blocks[i];
        const Tile next = next_of(i, false);
        with_rows<S>(b.count, b.ahead, [&](auto r, auto ahead) { weigh<S, SPECIAL, r.value, ahead.value>(a, rows, next, b, s); });
    }
    for (int i = 0; i < count; i++) {
        const Block<S> &b = s.blocks[i];
        const Tile next = next_of(i, true);
        with_rows<S>(b.count, b.ahead, [&](auto r, auto ahead) {
            S::template add_values<r.value, ahead.value>(a, b.score, b.seen, b.shrink, b.tile, next, s.sums.data + (b.base + b.r0) * width, width);
        });
    }
}

// Lists the rows of a head of `item`.
template <class S> Rows list_rows(const Problem &a, const Item &item, Scratch<S> &s) {
    const int64_t group = a.group(), members = item.parts.last - item.parts.first;
    int64_t count = 0, r = 0, low_of_any = 0, end_of_all = INT64_MAX;
    int32_t *first_row = s.first_row.room(members + 1);
    for (int64_t m = 0; m < members; m++) first_row[m] = (int32_t)count, count += a.items.members[item.parts.first + m].tokens * group;
    first_row[members] = (int32_t)count;
    int32_t *positions = s.positions.room(count), *lows = s.lows.room(count), *lasts = s.lasts.room(count);
    int64_t *offset = s.offset.room(count);
    for (int64_t m = 0; m < members; m++) {
        const Member &member = a.items.members[item.parts.first + m];
        const int64_t row = a.items.row(member);
        for (int64_t t = 0; t < member.tokens; t++) {
            const int64_t position = a.items.position(member) + t, last = a.items.last(member, t);
            const int64_t low = a.window > 0 ? std::max<int64_t>(0, std::min(position + 1 - a.window, a.items.first(member, t))) : 0;
            low_of_any = std::max(low_of_any, low), end_of_all = std::min(end_of_all, last + 1);
            for (int64_t g = 0; g < group; g++, r++) {
                positions[r] = (int32_t)position, lows[r] = (int32_t)low, lasts[r] = (int32_t)last;
                offset[r] = ((row + t) * a.num_heads + item.h0 * group + g) * a.head_dim;
            }
        }
    }
    return {positions, lows, lasts, group, count, low_of_any, end_of_all};
}

// Computes `item`; the tiles that `then` begins with are on their way when it ends.
template <class S, bool SPECIAL> void attend(const Problem &a, const Item &item, const Item &then, Scratch<S> &s) {
    typedef typename S::Row Row;
    typedef typename S::Tile Tile;
    const int64_t group = a.group(), dim = a.head_dim, width = (dim + LANES - 1) / LANES * LANES;
    const Rows rows = list_rows(a, item, s);
    const int64_t count = rows.count, all = count * item.heads();
    // Calls BODY(row in the scratch, its offset in query and out, its head): ordered by head of the item, and then as `rows`.
    auto each_row = [&](auto body) {
        for (int64_t h = 0, r = 0; h < item.heads(); h++)
            for (int64_t i = 0; i < count; i++, r++) body(r, s.offset.data[i] + h * group * dim, (item.h0 + h) * group + i % group);
    };

    S::room(a, all, s);
    std::fill_n(s.best.room(all + LANES), all + LANES, -INFINITY);  // whole vectors are read
    std::fill_n(s.total.room(all), all, f32x16{});
    std::fill_n(s.sums.room(all * width), all * width, 0.0f);
    each_row([&](int64_t r, int64_t offset, int64_t) { S::pack(a, s, r, (const Row *)a.query + offset); });

    int blocks = 0;
    const auto flush = [&](const Tile &after) {
        absorb<S, SPECIAL>(a, rows, blocks, after, s, width);
        blocks = 0;
    };
    const bool copied = a.block_size < LANES;
    const int32_t *first_row = s.first_row.data - item.parts.first;
    Walk walk(a.items, item), ahead = walk;
    for (int i = 0; i < S::STEPS_AHEAD; i++) ahead.step_into(then);
    Tile next = {};
    for (bool begun = false; !walk.ended(); walk.step(), ahead.step_into(then), begun = true) {
        const Place place = walk.place();
        if (copied) next = S::copy_tile(a, place, s);
        const Tile tile = copied || (begun && S::STEPS_AHEAD == 1) ? next : S::find_tile(a, place);
        if (!copied) next = S::find_tile(a, ahead.place());
        const int64_t last = first_row[walk.on().last];
        int64_t r = first_row[walk.on().first];
        if (walk.on().last - walk.on().first == 1)
            while (r < last && rows.last(r) < place.start) r += group;  // earlier tokens do not see the tile
        // The rows of a head go together.
        if (blocks + (last - r + S::ROWS - 1) / S::ROWS > S::BATCH && blocks) flush(tile);
        for (const int64_t first = r; r < last; r += S::ROWS) {
            if (blocks == S::BATCH) flush(next);
            Block<S> &b = s.blocks[blocks++];
            b.tile = tile, b.next = next, b.start = place.start, b.head = place.head;
            b.r0 = r, b.base = (place.head - item.h0) * count, b.count = (int)std::min<int64_t>(S::ROWS, last - r), b.ahead = r == first;
        }
        if (copied) flush(next);
    }
    flush(next);

    each_row([&](int64_t r, int64_t offset, int64_t head) {
        float total = reduce_add(s.total.data[r]), factor = 1.0f;
        if (a.sinks) {
            const float sink = a.sinks[head] * LOG2E, best = std::max(s.best.data[r], sink);
            factor = exp2_one(s.best.data[r] - best);
            total = total * factor + exp2_one(sink - best);
        }
        const f32x16 share = splat(factor / total);
        Row *out = (Row *)a.out + offset;
        const float *sums = s.sums.data + r * width;
        over_row(dim, [&](int64_t i, int n) { store_n(out + i, load(sums + i) * share, n); });
    });
}

template <class S> void attend_all(const Problem &a, int64_t num_items, int64_t heads_together) {
    const int64_t count = num_items * ((a.num_kv_heads + heads_together - 1) / heads_together);
    std::atomic<int64_t> taken{0};
    in_team(
        [&] {
            Scratch<S> s;
            // A thread takes its next item while it has one, so that it knows what to ask memory for.
            for (int64_t number = taken++, next; number < count; number = next) {
                next = taken++;
                const Item item = find_item(a, number, heads_together), then = next < count ? find_item(a, next, heads_together) : item;
                a.special() ? attend<S, true>(a, item, then, s) : attend<S, false>(a, item, then, s);
            }
        },
        count > 1);
}

}  // namespace infer
