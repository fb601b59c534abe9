// Paged attention over keys and values in the model's dtype. See attention.h.
//
// key cache    [block][kv head][dim pair][token][2]   a dot product covers 16 tokens at once, without horizontal sums
// value cache  see kept.h
#include "attention.h"
#include "kept.h"
#include "operations.h"

namespace infer {
namespace {

// -- values -------------------------------------------------------------------------------------------------------
// How weights are multiplied by values: SIDE tokens of a value lie side by side, [step of SIDE tokens][dim][SIDE].
template <class T> struct Values {
    static constexpr int SIDE = 1, ROWS = infer::ROWS;
    static constexpr int PIECES = 1;  // products that a step is made of
    typedef f32x16 Vector;

    static Vector read_whole(const T *p) { return load(p); }
    static Vector read_part(const T *p, int n) { return load_partial(p, n); }

    // See attention.h.
    static INFER_INLINE f32x16 weigh(float *score, float scale, float best) {
        f32x16 sum = {};
        for (int g = 0; g < GROUPS; g++, score += LANES) {
            const f32x16 w = exp2_weight(vfma(load(score), splat(scale), splat(-best)));
            store(score, w);
            sum += w;
        }
        return sum;
    }

    // Piece `i` of a step, and sum + that by its row's weight.
    static Vector piece(Vector v, int) { return v; }
    static f32x16 add(f32x16 sum, const float *weights, int step, int, Vector v) { return vfma(splat(weights[step]), v, sum); }
    // sum + the step's tokens [from, to), by their row's weights.
    static f32x16 add_some(f32x16 sum, const float *weights, int step, Vector v, int, int) { return add(sum, weights, step, 0, v); }
};

// Two tokens of 16 dims in 32 lanes of 16 bits.
template <> struct Values<bf16> {
    static constexpr int SIDE = 2;
    typedef u32x16 Vector;

    static Vector read_whole(const bf16 *p) {
        u32x16 v;
        read(p, v);
        return v;
    }
    static Vector read_part(const bf16 *p, int n) {
        bf16 buffer[2 * LANES] = {};
        memcpy(buffer, p, 2 * n * sizeof(bf16));
        return read_whole(buffer);
    }

#if defined(__AVX512BF16__)
    static constexpr int ROWS = 12, PIECES = 1;

    // Weights are rounded to bf16, and what is summed are the weights as rounded, so that shares add up to 1.
    static f32x16 weigh(float *score, float scale, float best) {
        const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(best);
        f32x16 w[GROUPS];
        for (int g = 0; g < GROUPS; g++) w[g] = exp2_rough((f32x16)_mm512_fmsub_ps(_mm512_loadu_ps(score + g * LANES), factor, shift));
        const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
        __m512 sum = _mm512_setzero_ps();
        for (int g = 0; g < GROUPS; g += 2) {
            const __m512bh both = _mm512_cvtne2ps_pbh((__m512)w[g + 1], (__m512)w[g]);
            _mm512_storeu_si512((char *)score + g * LANES * sizeof(bf16), (__m512i)both);
            sum = _mm512_dpbf16_ps(sum, both, ones);
        }
        return (f32x16)sum;
    }

    static Vector piece(Vector v, int) { return v; }
    static f32x16 add(f32x16 sum, const float *weights, int step, int, Vector v) {
        int pair;
        memcpy(&pair, weights + step, sizeof pair);
        return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)v);
    }
    // A token that is not seen may be anything: zeros stand in for it.
    static f32x16 add_some(f32x16 sum, const float *weights, int step, Vector v, int from, int to) {
        return add(sum, weights, step, 0, v & ((from == 0 ? 0xffffu : 0u) | (to == 2 ? 0xffff0000u : 0u)));
    }
#else
    static constexpr int ROWS = infer::ROWS, PIECES = 2;  // one token after the other

    static f32x16 weigh(float *score, float scale, float best) { return Values<float>::weigh(score, scale, best); }
    static f32x16 piece(Vector v, int i) { return as<f32x16>(i ? v & 0xffff0000u : v << 16); }
    static f32x16 add(f32x16 sum, const float *weights, int step, int i, f32x16 v) { return vfma(splat(weights[2 * step + i]), v, sum); }
    static f32x16 add_some(f32x16 sum, const float *weights, int step, Vector v, int from, int to) {
        if (from == 0) sum = add(sum, weights, step, 0, piece(v, 0));
        if (to == 2) sum = add(sum, weights, step, 1, piece(v, 1));
        return sum;
    }
#endif
};

// -- the store ----------------------------------------------------------------------------------------------------
// Keys and values of type T.
template <class T> struct Floats {
    typedef T Row;
    typedef Values<T> V;
    static constexpr int ROWS = V::ROWS, SIDE = V::SIDE, STEPS_AHEAD = BY_PIECES ? 1 : 3, BATCH = BY_PIECES ? 8 : 1;

    // Where the tile's tokens are, 16 by 16.
    typedef Keys<T> Tile;

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
        const int64_t size = a.block_size, pairs = a.pairs(), dim = a.head_dim, start = at.start, side = beside<T>(size);
        T *key = s.copy.room(TILE * (pairs * 2 + dim)), *value = key + TILE * pairs * 2;
        memset(key, 0, TILE * (pairs * 2 + dim) * sizeof(T));
        Tile tile;
        tile.pair_stride = LANES * 2;
        for (int64_t t = 0; t < TILE && start + t < at.end; t++) {
            const int64_t offset = (start + t) % size, g = t / LANES;
            const int64_t place = at.table[(start + t) / size] * a.num_kv_heads + at.head;
            const T *k = (const T *)a.key + place * pairs * size * 2 + offset * 2;
            T *to = key + g * LANES * pairs * 2 + t % LANES * 2;
            for (int64_t p = 0; p < pairs; p++) memcpy(to + p * LANES * 2, k + p * size * 2, 2 * sizeof(T));
            const T *v = (const T *)a.value + place * size * dim + value_place(offset, dim, side);
            T *copied = value + value_place(t, dim, SIDE);
            for (int64_t i = 0; i < dim; i++) copied[i * SIDE] = v[i * side];
        }
        for (int g = 0; g < GROUPS; g++) {
            tile.key[g] = key + g * LANES * pairs * 2;
            tile.value[g] = value + g * LANES * dim;
        }
        return tile;
    }

    template <int R, bool AHEAD>
    static void scores(const Problem &a, const Scratch &s, int64_t r, const Tile &tile, const Tile &next, int groups, float *out) {
        const auto *query = s.query.data + r * a.pairs();
        if (BY_PIECES) Query<T>::template scores<R, GROUPS, AHEAD>(query, tile, next, a.pairs(), out, TILE, groups);
        else if (R == ROWS && groups <= GROUPS / 2) Query<T>::template scores<R, GROUPS / 2, AHEAD>(query, tile, next, a.pairs(), out, TILE);
        else Query<T>::template scores<R, GROUPS, AHEAD>(query, tile, next, a.pairs(), out, TILE);
    }

    static Tile values_as_keys(Tile tile) {
        std::copy_n(tile.value, GROUPS, tile.key);
        tile.pair_stride = 2 * LANES;
        return tile;
    }

    static f32x16 weigh(float *score, float scale, float best) { return V::weigh(score, scale, best); }

    // Steps whose tokens all rows see go together; before and after those, each row has its own.
    template <int R, bool AHEAD>
    static void add_values(const Problem &a, const float *weights, const Seen<ROWS> &seen, const float *shrink, const Tile &tile, const Tile &next, float *sums,
                           int64_t width) {
        const auto together = [&](const float *shrink, int first, int last) { all_values<R, AHEAD>(weights, shrink, tile, next, first, last, a.head_dim, sums, width); };
        if (seen.alike) return together(shrink, seen.from, seen.to);
        const int first = (seen.from + SIDE - 1) / SIDE * SIDE, last = std::max(first, seen.to / SIDE * SIDE);
        const float one = 1.0f;
        const auto alone = [&](int r, int from, int to) {
            all_values<1, false>(weights + r * TILE, &one, tile, next, from, to, a.head_dim, sums + r * width, width);
        };
        float ones[R];
        for (int r = 0; r < R; r++) {
            ones[r] = one;
            for (int64_t i = 0; i < width; i += LANES) store(sums + r * width + i, load(sums + r * width + i) * shrink[r]);
            alone(r, seen.low[r], std::min(first, seen.high[r]));
        }
        together(ones, first, last);
        for (int r = 0; r < R; r++) alone(r, std::max(last, seen.low[r]), seen.high[r]);
    }

    // Values of tokens in [first, last), in order.
    template <int R, bool AHEAD>
    static void all_values(const float *weights, const float *shrink, const Tile &tile, const Tile &next, int first, int last, int64_t dim, float *sums,
                           int64_t width) {
        if (first >= last) return;
        if (!(AHEAD && BY_PIECES)) return all_dims<R, AHEAD>(weights, shrink, tile, next, first, last, last, dim, sums, width);
        float ones[R];
        std::fill_n(ones, R, 1.0f);
        for (int from = first, to; from < last; from = to, shrink = ones) {
            to = std::min(last, from / LANES * LANES + LANES);
            all_dims<R, AHEAD>(weights, shrink, tile, next, from, to, last, dim, sums, width);
        }
    }

    // The same, of `end` tokens that are read in all.
    template <int R, bool AHEAD>
    static void all_dims(const float *weights, const float *shrink, const Tile &tile, const Tile &next, int first, int last, int end, int64_t dim, float *sums,
                         int64_t width) {
        constexpr int WIDE = vectors_of(R);
        int64_t column = 0;
        for (; column + WIDE * LANES <= dim; column += WIDE * LANES)
            values<R, WIDE, true, AHEAD>(weights, shrink, tile, next, first, last, end, dim, column, LANES, sums, width);
        for (; column < dim; column += LANES) {
            const int tail = (int)std::min<int64_t>(LANES, dim - column);
            if (tail == LANES) values<R, 1, true, AHEAD>(weights, shrink, tile, next, first, last, end, dim, column, tail, sums, width);
            else values<R, 1, false, AHEAD>(weights, shrink, tile, next, first, last, end, dim, column, tail, sums, width);
        }
    }

    // NV * 16 dims from `column` on, `tail` of them in the last 16.
    template <int R, int NV, bool WHOLE, bool AHEAD>
    static void values(const float *weights, const float *shrink, const Tile &tile, const Tile &next, int first, int last, int end, int64_t dim, int64_t column,
                       int tail, float *sums, int64_t width) {
        f32x16 sum[R][NV];
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int n = 0; n < NV; n++) sum[r][n] = load(sums + r * width + column + n * LANES) * shrink[r];
        const auto read = [&](const T *row, typename V::Vector(&v)[NV]) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int n = 0; n < NV - 1; n++) v[n] = V::read_whole(row + n * LANES * SIDE);
            v[NV - 1] = WHOLE ? V::read_whole(row + (NV - 1) * LANES * SIDE) : V::read_part(row + (NV - 1) * LANES * SIDE, tail);
        };
        // Tokens [from, to) of a step of which the others are not seen.
        const auto some = [&](int step, int from, int to) __attribute__((always_inline)) {
            typename V::Vector v[NV];
            const int t = step * SIDE;
            read(tile.value[t / LANES] + t % LANES * dim + column * SIDE, v);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int n = 0; n < NV; n++) sum[r][n] = V::add_some(sum[r][n], weights + r * TILE, step, v[n], from, to);
        };
        int step = first / SIDE;
        if (first % SIDE) some(step, first % SIDE, std::min(SIDE, last - step * SIDE)), step++;
        for (const int whole = last / SIDE; step < whole;) {
            const int t = step * SIDE;
            const T *row = tile.value[t / LANES] + t % LANES * dim + column * SIDE;
            const T *row_soon = next.value[t / LANES] + t % LANES * dim + column * SIDE;
            int64_t row_later = dim * SIDE;
            if (AHEAD && BY_PIECES) {
                const int after = t / LANES + 1, line = next.pair_stride / (2 * LANES);  // keys of 16 tokens: lines so far apart
                const bool more = after * LANES < end;
                row_soon = (more ? tile.value[after] : next.key[0]) + (t % LANES * dim + column * SIDE) * (more ? 1 : line);
                row_later *= more ? 1 : line;
            }
            for (const int stop = std::min(whole, (t / LANES + 1) * (LANES / SIDE)); step < stop; step++, row += dim * SIDE, row_soon += row_later) {
                typename V::Vector v[NV];
#pragma GCC unroll 4
                for (int n = 0; AHEAD && n < NV; n += std::max(1, 64 / (LANES * SIDE * (int)sizeof(T)))) ask_for(row_soon + n * LANES * SIDE);
                read(row, v);
#pragma GCC unroll 2
                for (int i = 0; i < V::PIECES; i++)
#pragma GCC unroll 12
                    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                        for (int n = 0; n < NV; n++) sum[r][n] = V::add(sum[r][n], weights + r * TILE, step, i, V::piece(v[n], i));
            }
        }
        if (step * SIDE < last) some(step, 0, last - step * SIDE);
#pragma GCC unroll 12
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
                                const int32_t *kv_lens, const int32_t *tables, const int32_t *spans, int64_t table_stride,
                                const infer::Member *members, const infer::Run *runs, const infer::ItemParts *items, int64_t num_items, int64_t heads_together,
                                int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t block_size, int64_t window, float scale,
                                float soft_cap, const float *alibi, const float *sinks, const float *distances, int64_t of_head, int64_t dtype,
                                int64_t cache_dtype) {
    const infer::Items all{members, runs, items, query_start, kv_lens, tables, spans, table_stride, window};
    infer::Problem a{out, query, key, value, all, num_heads, num_kv_heads, head_dim, block_size, window, scale, soft_cap, alibi, sinks,
                     distances, of_head, of_head - infer::TILE - 1};
    a.scale *= infer::LOG2E, a.soft_cap *= infer::LOG2E;
    if (cache_dtype == infer::INT8) return infer::attend_int8(a, num_items, heads_together, dtype);
    INFER_DISPATCH(dtype, T, infer::attend_all<infer::Floats<T>>(a, num_items, heads_together));
}
