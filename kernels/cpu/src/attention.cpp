// Paged attention over keys and values in the model's dtype. See attention.h.
//
// key cache    [block][kv head][dim pair][token][2]   a dot product covers 16 tokens at once, without horizontal sums
// value cache  [block][kv head][token][dim]
#include "attention.h"

namespace infer {
namespace {

// Keys and values of type T.
template <class T> struct Floats {
    typedef T Row;

    // Where the tile's tokens are, 16 by 16.
    struct Tile : Keys<T> {
        const T *value[GROUPS];
    };

    struct Scratch {
        Buffer<typename Query<T>::Pair> query;  // [rows][pairs]
        Buffer<T> copy;
    };

    static void room(const Problem &a, int64_t rows, Scratch &s) { s.query.room(rows * a.pairs()); }
    static void pack(const Problem &a, Scratch &s, int64_t r, const T *x) { Query<T>::pack(s.query.data + r * a.pairs(), x, a.head_dim); }

    static Tile find_tile(const Problem &a, const Place &at) {
        Tile tile;
        const int64_t size = a.block_size, start = at.start;
        tile.pair_stride = size * 2;
        for (int g = 0; g < GROUPS; g++) {
            const int64_t position = start + g * LANES;
            const bool inside = position < at.end;
            const int64_t block = inside ? at.table[position / size] : 0, offset = inside ? position % size : 0;  // block 0 is zeros
            const int64_t place = block * a.num_kv_heads + at.head;
            tile.key[g] = (const T *)a.key + place * a.pairs() * size * 2 + offset * 2;
            tile.value[g] = (const T *)a.value + (place * size + offset) * a.head_dim;
        }
        return tile;
    }

    static Tile copy_tile(const Problem &a, const Place &at, Scratch &s) {
        const int64_t size = a.block_size, pairs = a.pairs(), dim = a.head_dim, start = at.start;
        T *key = s.copy.room(TILE * (pairs * 2 + dim)), *value = key + TILE * pairs * 2;
        memset(key, 0, TILE * (pairs * 2 + dim) * sizeof(T));
        Tile tile;
        tile.pair_stride = LANES * 2;
        for (int64_t t = 0; t < TILE && start + t < at.end; t++) {
            const int64_t offset = (start + t) % size, g = t / LANES;
            const int64_t place = at.table[(start + t) / size] * a.num_kv_heads + at.head;
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

    static f32x16 power(f32x16 x) { return exp2_below(x); }

    template <int R> static void scores(const Problem &a, const Scratch &s, int64_t r, const Tile &tile, const Tile &next, float *out) {
        Query<T>::template scores<R, GROUPS, true>(s.query.data + r * a.pairs(), tile, next, a.pairs(), out, TILE);
    }

    template <int R>
    static void add_values(const Problem &a, const float *weights, const Seen<R> &seen, const Tile &tile, const Tile &next, float *sums, int64_t width) {
        if (seen.partial)
            for (int r = 0; r < R; r++)
                all_values<1>(weights + r * TILE, tile, next, seen.low[r], std::max(seen.low[r], seen.from), a.head_dim, sums + r * width, width);
        all_values<R>(weights, tile, next, seen.from, seen.to, a.head_dim, sums, width);
        if (seen.partial)
            for (int r = 0; r < R; r++) all_values<1>(weights + r * TILE, tile, next, seen.to, seen.high[r], a.head_dim, sums + r * width, width);
    }

    // Values of tokens in [first, last), in order.
    template <int R>
    static void all_values(const float *weights, const Tile &tile, const Tile &next, int first, int last, int64_t dim, float *sums, int64_t width) {
        if (first >= last) return;
        int64_t column = 0;
        for (; column + 4 * LANES <= dim; column += 4 * LANES) values<R, 4, true>(weights, tile, next, first, last, dim, column, LANES, sums, width);
        for (; column < dim; column += LANES) {
            const int tail = (int)std::min<int64_t>(LANES, dim - column);
            if (tail == LANES) values<R, 1, true>(weights, tile, next, first, last, dim, column, tail, sums, width);
            else values<R, 1, false>(weights, tile, next, first, last, dim, column, tail, sums, width);
        }
    }

    // NV * 16 dims from `column` on, `tail` of them in the last 16.
    template <int R, int NV, bool WHOLE>
    static void values(const float *weights, const Tile &tile, const Tile &next, int first, int last, int64_t dim, int64_t column, int tail, float *sums,
                       int64_t width) {
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
};

}  // namespace
}  // namespace infer

// members, runs and items as infer_plan_attention writes them; items in the order they are begun.
// dtype is that of query and out; cache_dtype the same, or INT8.
extern "C" void infer_attention(void *out, const void *query, const void *key, const void *value, const int32_t *query_start,
                                const int32_t *kv_lens, const int32_t *tables, int64_t table_stride, const infer::Member *members,
                                const infer::Run *runs, const infer::ItemParts *items, int64_t num_items, int64_t heads_together,
                                int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t block_size, int64_t window, float scale,
                                float soft_cap, const float *alibi, const float *sinks, int64_t dtype, int64_t cache_dtype) {
    const infer::Items all{members, runs, items, query_start, kv_lens, tables, table_stride, window};
    infer::Problem a{out, query, key, value, all, num_heads, num_kv_heads, head_dim, block_size, window, scale, soft_cap, alibi, sinks};
    if (!(window > 0 || soft_cap > 0 || alibi || sinks)) a.scale *= infer::LOG2E;
    if (cache_dtype == infer::INT8) return infer::attend_int8(a, num_items, heads_together, dtype);
    INFER_DISPATCH(dtype, T, infer::attend_all<infer::Floats<T>>(a, num_items, heads_together));
}
