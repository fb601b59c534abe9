// Paged attention for prefill and decode in one kernel.
//
// A row is one (token, query head). Its keys are visited in tiles of 64 positions that start at multiples of 64 of the sequence,
// with a running softmax; within a tile every sum runs in one fixed order. So a row's bits depend on its own query and keys alone:
// not on which rows are computed beside it, nor on how a prompt was cut into chunks. The heads that share a key/value head, and
// neighbouring tokens, go through a tile together, up to ROWS of them in registers.
//
// key cache    [block][kv head][dim pair][token][2]   a dot product covers 16 tokens at once, without horizontal sums
// value cache  [block][kv head][token][dim]
//
// It is one kernel for three types of values, and so one file.

#include <algorithm>
#include <atomic>

#include "scores.h"

namespace infer {
namespace {

// A decode step reads each key and value once, from memory. While a tile is worked on, line after line of the one so many steps
// later is asked for: all at once they would wait for each other, and the work for them (9 in place of 18 GB/s a core).
constexpr int AHEAD = 3;

struct Problem {
    void *out;
    const void *query, *key, *value;
    const int32_t *query_start, *kv_lens, *tables, *items;
    int64_t table_stride, num_heads, num_kv_heads, head_dim, block_size, window;
    float scale, soft_cap;
    const float *alibi, *sinks;
    int64_t pairs() const { return (head_dim + 1) / 2; }
    int64_t group() const { return num_heads / num_kv_heads; }
};

// -- one tile -----------------------------------------------------------------------------------------------------
// Where the tile's tokens are, 16 by 16; rows of a group are consecutive tokens.
template <class T> struct Tile : Keys<T> {
    const T *value[GROUPS];
};

// sums[r] += weights[r][t] * value t for t in [first, last), in order; NV * 16 dims from `column` on, `tail` of them in the last 16.
template <class T, int R, int NV, bool WHOLE>
inline void values(const float *weights, const Tile<T> &tile, const Tile<T> &next, int first, int last, int64_t dim, int64_t column, int tail, float *sums, int64_t width) {
    f32x16 sum[R][NV];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) sum[r][n] = load(sums + r * width + column + n * LANES);
    for (int t = first; t < last;) {
        const T *row = tile.value[t / LANES] + t % LANES * dim + column;
        const T *row_soon = next.value[t / LANES] + t % LANES * dim + column;
        for (const int end = std::min(last, (t / LANES + 1) * LANES); t < end; t++, row += dim, row_soon += dim) {
            f32x16 v[NV];
#pragma GCC unroll 4
            for (int n = 0; n < NV; n += 64 / (LANES * (int)sizeof(T))) soon(row_soon + n * LANES);
#pragma GCC unroll 4
            for (int n = 0; n < NV - 1; n++) v[n] = load(row + n * LANES);
            v[NV - 1] = WHOLE ? load(row + (NV - 1) * LANES) : load_partial(row + (NV - 1) * LANES, tail);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                f32x16 w = splat(weights[r * TILE + t]);
#pragma GCC unroll 4
                for (int n = 0; n < NV; n++) sum[r][n] = vfma(w, v[n], sum[r][n]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) store(sums + r * width + column + n * LANES, sum[r][n]);
}

template <class T, int R> void all_values(const float *weights, const Tile<T> &tile, const Tile<T> &next, int first, int last, int64_t dim, float *sums, int64_t width) {
    if (first >= last) return;
    int64_t column = 0;
    for (; column + 4 * LANES <= dim; column += 4 * LANES) values<T, R, 4, true>(weights, tile, next, first, last, dim, column, LANES, sums, width);
    for (; column < dim; column += LANES) {
        const int tail = (int)std::min<int64_t>(LANES, dim - column);
        if (tail == LANES) values<T, R, 1, true>(weights, tile, next, first, last, dim, column, tail, sums, width);
        else values<T, R, 1, false>(weights, tile, next, first, last, dim, column, tail, sums, width);
    }
}

// -- one item: neighbouring tokens of a sequence, one key/value head ------------------------------------------------
// One thread's memory; grows to its largest item.
template <class T> struct Scratch {
    Buffer<typename Query<T>::Pair> query;  // [rows][pairs]
    Buffer<float> sums;                     // [rows][width]: weighted sums of values
    Buffer<float> best;                     // [rows]: largest score yet
    Buffer<f32x16> total;                   // [rows]: sums of weights, lane by lane
    Buffer<T> copy;                         // a tile of a cache whose blocks have fewer than 16 tokens
};

struct Rows {
    int64_t count, first_position, group;
    int64_t position(int64_t r) const { return first_position + r / group; }
};

// The running softmax of R rows from r0 on, of which `base` rows of other heads stand before in the scratch, over one tile.
// `low` and `high` bound the tile's tokens that a row sees.
template <class T, bool SPECIAL, int R>
void absorb(const Problem &a, const Tile<T> &tile, const Tile<T> &next, int64_t start, const Rows &rows, int64_t r0, int64_t base, int64_t head0, Scratch<T> &s,
            int64_t width) {
    alignas(64) float score[R * TILE];
    int low[R], high[R];
    for (int r = 0; r < R; r++) {
        int64_t position = rows.position(r0 + r);
        high[r] = (int)std::clamp<int64_t>(position + 1 - start, 0, TILE);
        low[r] = SPECIAL && a.window > 0 ? (int)std::clamp<int64_t>(position + 1 - a.window - start, 0, TILE) : 0;
    }
    int from = *std::max_element(low, low + R), to = *std::min_element(high, high + R);
    const bool partial = *std::max_element(low, low + R) > 0 || to < TILE;
    if (R > 1 && from >= to) {  // the rows share no token: one at a time
        for (int r = 0; r < R; r++) absorb<T, SPECIAL, 1>(a, tile, next, start, rows, r0 + r, base, head0, s, width);
        return;
    }
    if (from >= to) return;
    Query<T>::template scores<R, GROUPS, true>(s.query.data + (base + r0) * a.pairs(), tile, next, a.pairs(), score, TILE);

    const i32x16 lane = lane_numbers();
    for (int r = 0; r < R; r++) {
        f32x16 x[GROUPS];
        for (int g = 0; g < GROUPS; g++) x[g] = load(score + r * TILE + g * LANES) * a.scale;
        if (SPECIAL) {
            if (a.soft_cap > 0)
                for (int g = 0; g < GROUPS; g++) x[g] = capped(x[g], a.soft_cap);
            if (a.alibi)
                for (int g = 0; g < GROUPS; g++) {
                    i32x16 distance = lane + (int32_t)(start + g * LANES - rows.position(r0 + r));
                    x[g] += convert<f32x16>(distance) * a.alibi[head0 + (r0 + r) % rows.group];
                }
            for (int g = 0; g < GROUPS; g++) x[g] *= LOG2E;
        }
        // What a masked token's slot holds must not show: its score is replaced, its value never multiplied.
        if (partial)
            for (int g = 0; g < GROUPS; g++)
                x[g] = select((lane + g * LANES >= low[r]) & (lane + g * LANES < high[r]), x[g], splat(-INFINITY));
        f32x16 top = vmax(vmax(x[0], x[1]), vmax(x[2], x[3]));
        const float before = s.best.data[base + r0 + r], now = std::max(before, reduce_max(top));
        const float shrink = before == -INFINITY ? 0.0f : exp2_one(before - now);
        f32x16 added = {};
        for (int g = 0; g < GROUPS; g++) {
            f32x16 w = exp2_below(x[g] - now);
            if (partial) w = select(x[g] == -INFINITY, splat(0.0f), w);
            store(score + r * TILE + g * LANES, w);
            added += w;
        }
        s.best.data[base + r0 + r] = now;
        s.total.data[base + r0 + r] = s.total.data[base + r0 + r] * shrink + added;
        if (shrink != 1.0f) {
            float *sums = s.sums.data + (base + r0 + r) * width;
            for (int64_t i = 0; i < width; i += LANES) store(sums + i, load(sums + i) * shrink);
        }
    }
    float *sums = s.sums.data + (base + r0) * width;
    if (partial)
        for (int r = 0; r < R; r++) all_values<T, 1>(score + r * TILE, tile, next, low[r], std::max(low[r], from), a.head_dim, sums + r * width, width);
    all_values<T, R>(score, tile, next, from, to, a.head_dim, sums, width);
    if (partial)
        for (int r = 0; r < R; r++) all_values<T, 1>(score + r * TILE, tile, next, to, high[r], a.head_dim, sums + r * width, width);
}

// -- where an item's tiles are --------------------------------------------------------------------------------------
// Key/value heads h0 to h1 of neighbouring tokens of one sequence. Heads are next to each other in a block: all of them see a
// tile before the next one, and each of these is a step.
struct Item {
    int64_t row, h0, h1;  // `row`: its first one in query and out
    Rows rows;
    int64_t start, end;  // positions: a multiple of TILE, and that after the last
    const int32_t *table;

    int64_t heads() const { return h1 - h0; }
    int64_t steps() const { return (end - start + TILE - 1) / TILE * heads(); }
    int64_t position(int64_t step) const { return start + step / heads() * TILE; }
    int64_t head(int64_t step) const { return h0 + step % heads(); }
};

Item find_item(const Problem &a, int64_t number, int64_t heads_together) {
    const int64_t parts = (a.num_kv_heads + heads_together - 1) / heads_together;
    const int32_t *item = a.items + number / parts * 3;
    const int64_t sequence = item[0], first = item[1], tokens = item[2], h0 = number % parts * heads_together;
    const int64_t query_len = a.query_start[sequence + 1] - a.query_start[sequence], position = a.kv_lens[sequence] - query_len + first;
    return {a.query_start[sequence] + first,
            h0,
            std::min(a.num_kv_heads, h0 + heads_together),
            {tokens * a.group(), position, a.group()},
            a.window > 0 ? std::max<int64_t>(0, position + 1 - a.window) / TILE * TILE : 0,
            position + tokens,
            a.tables + sequence * a.table_stride};
}

template <class T> Tile<T> find_tile(const Problem &a, const Item &item, int64_t step) {
    Tile<T> tile;
    const int64_t size = a.block_size, start = item.position(step);
    tile.pair_stride = size * 2;
    for (int g = 0; g < GROUPS; g++) {
        const int64_t position = start + g * LANES;
        const bool inside = position < item.end;
        const int64_t block = inside ? item.table[position / size] : 0, offset = inside ? position % size : 0;  // block 0 is zeros
        const int64_t place = block * a.num_kv_heads + item.head(step);
        tile.key[g] = (const T *)a.key + place * a.pairs() * size * 2 + offset * 2;
        tile.value[g] = (const T *)a.value + (place * size + offset) * a.head_dim;
    }
    return tile;
}

// The same of a cache whose blocks have fewer than 16 tokens.
template <class T> Tile<T> copy_tile(const Problem &a, const Item &item, int64_t step, Scratch<T> &s) {
    const int64_t size = a.block_size, pairs = a.pairs(), dim = a.head_dim, start = item.position(step);
    T *key = s.copy.room(TILE * (pairs * 2 + dim)), *value = key + TILE * pairs * 2;
    memset(key, 0, TILE * (pairs * 2 + dim) * sizeof(T));
    Tile<T> tile;
    tile.pair_stride = LANES * 2;
    for (int64_t t = 0; t < TILE && start + t < item.end; t++) {
        const int64_t offset = (start + t) % size, g = t / LANES;
        const int64_t place = item.table[(start + t) / size] * a.num_kv_heads + item.head(step);
        const T *k = (const T *)a.key + place * pairs * size * 2 + offset * 2, *v = (const T *)a.value + (place * size + offset) * dim;
        T *to = key + g * LANES * pairs * 2 + t % LANES * 2;
        for (int64_t p = 0; p < pairs; p++) memcpy(to + p * LANES * 2, k + p * size * 2, 2 * sizeof(T));
        memcpy(value + t * dim, v, dim * sizeof(T));
    }
    for (int g = 0; g < GROUPS; g++) {
        tile.key[g] = key + g * LANES * pairs * 2;
        tile.value[g] = value + g * LANES * dim;
    }
    return tile;
}

// -- one item -------------------------------------------------------------------------------------------------------
// Computes `item`; the tiles that `then` begins with are on their way when it ends.
template <class T, bool SPECIAL> void attend(const Problem &a, const Item &item, const Item &then, Scratch<T> &s) {
    const int64_t group = a.group(), dim = a.head_dim, pairs = a.pairs(), width = (dim + LANES - 1) / LANES * LANES;
    const Rows &rows = item.rows;
    const int64_t all = rows.count * item.heads(), steps = item.steps();
    // Element offset of a row in query and out: rows are ordered by head of the item, token, head of the group.
    auto place = [&](int64_t r) {
        return ((item.row + r % rows.count / group) * a.num_heads + (item.h0 + r / rows.count) * group + r % group) * dim;
    };

    s.query.room(all * pairs);
    std::fill_n(s.best.room(all), all, -INFINITY);
    std::fill_n(s.total.room(all), all, f32x16{});
    std::fill_n(s.sums.room(all * width), all * width, 0.0f);
    for (int64_t r = 0; r < all; r++) Query<T>::pack(s.query.data + r * pairs, (const T *)a.query + place(r), dim);

    const bool copied = a.block_size < LANES;
    for (int64_t step = 0; step < steps; step++) {
        const Tile<T> tile = copied ? copy_tile<T>(a, item, step, s) : find_tile<T>(a, item, step);
        const int64_t later = step + AHEAD, over = std::min(later - steps, then.steps() - 1);
        const Tile<T> next = copied ? tile : later < steps ? find_tile<T>(a, item, later) : find_tile<T>(a, then, over);
        const int64_t start = item.position(step), base = step % item.heads() * rows.count, head0 = item.head(step) * group;
        int64_t r = std::max<int64_t>(0, start - rows.first_position) * group;  // earlier rows end before the tile
        for (; r + ROWS <= rows.count; r += ROWS) absorb<T, SPECIAL, ROWS>(a, tile, next, start, rows, r, base, head0, s, width);
        switch (rows.count - r) {
        case 5: absorb<T, SPECIAL, 5>(a, tile, next, start, rows, r, base, head0, s, width); break;
        case 4: absorb<T, SPECIAL, 4>(a, tile, next, start, rows, r, base, head0, s, width); break;
        case 3: absorb<T, SPECIAL, 3>(a, tile, next, start, rows, r, base, head0, s, width); break;
        case 2: absorb<T, SPECIAL, 2>(a, tile, next, start, rows, r, base, head0, s, width); break;
        case 1: absorb<T, SPECIAL, 1>(a, tile, next, start, rows, r, base, head0, s, width); break;
        }
    }

    for (int64_t r = 0; r < all; r++) {
        float total = reduce_add(s.total.data[r]), factor = 1.0f;
        if (SPECIAL && a.sinks) {
            const float sink = a.sinks[(item.h0 + r / rows.count) * group + r % group] * LOG2E, best = std::max(s.best.data[r], sink);
            factor = exp2_one(s.best.data[r] - best);
            total = total * factor + exp2_one(sink - best);
        }
        const f32x16 share = splat(factor / total);
        T *out = (T *)a.out + place(r);
        const float *sums = s.sums.data + r * width;
        over_row(dim, [&](int64_t i, int n) { store_n(out + i, load(sums + i) * share, n); });
    }
}

template <class T> void attend_all(const Problem &a, int64_t num_items, int64_t heads_together) {
    const bool special = a.window > 0 || a.soft_cap > 0 || a.alibi || a.sinks;
    const int64_t count = num_items * ((a.num_kv_heads + heads_together - 1) / heads_together);
    std::atomic<int64_t> taken{0};
#pragma omp parallel
    {
        Scratch<T> s;
        // A thread takes its next item while it has one, so that it knows what to ask memory for.
        for (int64_t number = taken++, next; number < count; number = next) {
            next = taken++;
            const Item item = find_item(a, number, heads_together), then = next < count ? find_item(a, next, heads_together) : item;
            special ? attend<T, true>(a, item, then, s) : attend<T, false>(a, item, then, s);
        }
    }
}

}  // namespace
}  // namespace infer

// items int32 [num_items][3]: sequence, first of its query tokens, how many; in the order they are begun.
extern "C" void infer_attention(void *out, const void *query, const void *key, const void *value, const int32_t *query_start,
                                const int32_t *kv_lens, const int32_t *tables, int64_t table_stride, const int32_t *items, int64_t num_items,
                                int64_t heads_together, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                                int64_t window, float scale, float soft_cap, const float *alibi, const float *sinks, int64_t dtype) {
    infer::Problem a{out,       query,        key,      value,      query_start, kv_lens, tables, items, table_stride, num_heads, num_kv_heads,
                     head_dim,  block_size,   window,   scale,      soft_cap,    alibi,   sinks};
    if (!(window > 0 || soft_cap > 0 || alibi || sinks)) a.scale *= infer::LOG2E;
    INFER_DISPATCH(dtype, T, infer::attend_all<T>(a, num_items, heads_together));
}
