// What both attentions do with a query: its products with keys, sixteen tokens at once.
//
// Keys lie in groups of 16 tokens, [dim pair][token][2]: a dot product covers a group without horizontal sums. Each product is one
// sum over the pairs in order, so its bits depend on the query and the key alone, not on which rows and groups are done beside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "powers.h"

namespace infer {

constexpr int TILE = 64;
constexpr int GROUPS = TILE / LANES;
// Vectors of sums that registers have room for, beside what they are made of.
#if defined(__AVX512F__)
constexpr int SUMS = 24;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int SUMS = 6;
#else
constexpr int SUMS = 3;
#endif
constexpr int ROWS = std::min(6, SUMS);  // at a time, each with one vector of sums at least
constexpr float LOG2E = 1.44269504f;

// Vectors of sums that each of so many rows can have.
constexpr int vectors_of(int rows) { return 4 * rows <= SUMS ? 4 : 2 * rows <= SUMS ? 2 : 1; }

// soft_cap * tanh(x * factor)
INFER_INLINE f32x16 capped(f32x16 x, float factor, float soft_cap) { return vtanh(x * factor) * soft_cap; }

// The largest number of each row, row r's in lane r; the lanes from R on are of no use.
template <int R> INFER_INLINE f32x16 largest_of_rows(const f32x16 (&rows)[R]) {
    static_assert(R <= LANES);
    f32x16 out;
#if defined(__AVX512DQ__)
    constexpr int FOURS = (R + 3) / 4;
    __m512 four[4];  // [4 rows], 4 numbers of each: of every quarter, side by side
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (i >= FOURS) {
            four[i] = four[0];
            continue;
        }
        __m512 x[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) x[j] = (__m512)rows[4 * i + j < R ? 4 * i + j : R - 1];
        const __m512d a = (__m512d)_mm512_max_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
        const __m512d b = (__m512d)_mm512_max_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
        four[i] = _mm512_max_ps((__m512)_mm512_unpacklo_pd(a, b), (__m512)_mm512_unpackhi_pd(a, b));
    }
    const __m512 low = _mm512_max_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x88), _mm512_shuffle_f32x4(four[0], four[1], 0xdd));
    const __m512 high = _mm512_max_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x88), _mm512_shuffle_f32x4(four[2], four[3], 0xdd));
    out = (f32x16)_mm512_max_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
#elif defined(__AVX2__)
    static_assert(R <= LANES / 2);
    const auto row = [&](int r) __attribute__((always_inline)) { return (__m256)vmax(low(rows[std::min(r, R - 1)]), high(rows[std::min(r, R - 1)])); };
    const auto two = [&](int r) __attribute__((always_inline)) {
        const __m256 a = row(r), b = row(r + 1);
        return (__m256d)_mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    };
    const auto four = [&](int r) __attribute__((always_inline)) {  // of each half of a register
        const __m256d a = two(r), b = two(r + 2);
        return _mm256_max_ps((__m256)_mm256_unpacklo_pd(a, b), (__m256)_mm256_unpackhi_pd(a, b));
    };
    const __m256 first = four(0), last = R > 4 ? four(4) : first;
    const f32x8 eight = (f32x8)_mm256_max_ps(_mm256_permute2f128_ps(first, last, 0x20), _mm256_permute2f128_ps(first, last, 0x31));
    out = {eight, eight};
#else
    float largest[LANES] = {};
    for (int r = 0; r < R; r++) largest[r] = reduce_max(rows[r]);
    read(largest, out);
#endif
    return out;
}

// Asks for the line at `place` to be brought near.
inline void soon(const void *place) { __builtin_prefetch(place, 0, 2); }

// How a decode step, which reads each key and value once, asks for them while it works on others.
// By pieces: of a piece, the keys or values of 16 tokens, that is read next. What lies in the second cache only waits there behind
// what was asked for from memory (Zen 3: 0.43 to 0.54 of a core's reads with 8 heads of 128 dims, 0.53 to 0.58 with 3 of 64).
// By tiles: of a tile some steps later (Zen 5: 9 to 18 GB/s a core).
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool BY_PIECES = true;
#else
constexpr bool BY_PIECES = false;
#endif
inline void ask_for(const void *place) { BY_PIECES ? __builtin_prefetch(place, 0, 3) : soon(place); }

template <class T> struct Keys {
    const T *key[GROUPS];
    int64_t pair_stride;  // elements from one dim pair to the next
    const T *value[GROUPS];  // of the same tokens: read after the keys
};

// A query in the form its products with keys want, pair by pair, and those products of R rows with G groups of keys.
template <class T> struct Query {
    struct Pair {
        float even, odd;
    };

    static void pack(Pair *to, const T *from, int64_t dim) {
        float *flat = (float *)to;
        over_row(dim, [&](int64_t i, int n) { store_n(flat + i, load_n(from + i, n), n); });
        if (dim % 2) flat[dim] = 0.0f;
    }

    // out[r * stride + t] = query r . key t: sums over even and over odd dims, added at the end. With AHEAD, what comes next is asked for meanwhile.
    // Of G groups the first `groups`.
    template <int R, int G, bool AHEAD>
    static void scores(const Pair *query, const Keys<T> &keys, const Keys<T> &next, int64_t pairs, float *out, int64_t stride, int groups = G) {
        constexpr int WIDE = vectors_of(R);  // vectors of 8 tokens at a time
        const int all = 2 * groups;
        for (int first = 0; first + WIDE <= all; first += WIDE) part<R, WIDE, AHEAD>(query, keys, next, pairs, out, stride, first, groups);
        if (all % WIDE) part<R, 2, AHEAD>(query, keys, next, pairs, out, stride, all - 2, groups);
    }

    template <int R, int WIDE, bool AHEAD>
    static void part(const Pair *query, const Keys<T> &keys, const Keys<T> &next, int64_t pairs, float *out, int64_t stride, int first, int groups) {
        f32x16 sum[R][WIDE];
        const T *key[WIDE], *key_soon[WIDE];
        const Pair *row[(R + 2) / 3];
        int64_t stride_soon = next.pair_stride;
#pragma GCC unroll 4
        for (int g = 0; g < WIDE; g++) {
            const int group = (first + g) / 2, half = (first + g) % 2 * LANES;
            key[g] = keys.key[group] + half;
            if (AHEAD && BY_PIECES) {
                const int after = group + (WIDE + 1) / 2;
                key_soon[g] = (after < groups ? keys.key[after] : next.key[after - groups]) + half;
                stride_soon = after < groups ? keys.pair_stride : next.pair_stride;
            } else {
                key_soon[g] = next.key[group] + half;
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) row[i] = query + 3 * i * pairs;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int g = 0; g < WIDE; g++) sum[r][g] = f32x16{};
        for (int64_t p = 0; p < pairs; p++) {
            f32x16 k[WIDE];
#pragma GCC unroll 4
            for (int g = 0; g < WIDE; g++) {
                k[g] = load(key[g] + p * keys.pair_stride);
                if (AHEAD) ask_for(key_soon[g] + p * stride_soon);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                double both;
                memcpy(&both, row[r / 3] + p + r % 3 * pairs, sizeof both);
                f32x16 q = as<f32x16>(splat_double(both));
#pragma GCC unroll 4
                for (int g = 0; g < WIDE; g++) sum[r][g] = vfma(q, k[g], sum[r][g]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            float *to = out + r * stride + first * (LANES / 2);
            if constexpr (WIDE == 1) {
                write(to, add_neighbours(low(sum[r][0]), high(sum[r][0])));
            } else {
#pragma GCC unroll 2
                for (int g = 0; g < WIDE; g += 2) store(to + g * (LANES / 2), add_neighbours(sum[r][g], sum[r][g + 1]));
            }
        }
    }
};

#if defined(__AVX512BF16__)
template <> struct Query<bf16> {
    typedef uint32_t Pair;

    static void pack(Pair *to, const bf16 *from, int64_t dim) {
        to[(dim - 1) / 2] = 0;
        over_row(dim, [&](int64_t i, int n) { memcpy((bf16 *)to + i, from + i, n == LANES ? LANES * sizeof(bf16) : n * sizeof(bf16)); });
    }

    template <int R, int G, bool AHEAD>
    static void scores(const Pair *query, const Keys<bf16> &keys, const Keys<bf16> &next, int64_t pairs, float *out, int64_t stride, int = G) {
        constexpr int WIDE = R * G <= 24 ? G : 2;  // groups at a time: their sums are in registers
        static_assert(G % WIDE == 0);
        for (int first = 0; first < G; first += WIDE) part<R, WIDE, AHEAD>(query, keys, next, pairs, out, stride, first);
    }

    template <int R, int WIDE, bool AHEAD>
    static void part(const Pair *query, const Keys<bf16> &keys, const Keys<bf16> &next, int64_t pairs, float *out, int64_t stride, int first) {
        __m512 sum[R][WIDE];
        const Pair *row[(R + 2) / 3];
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) row[i] = query + 3 * i * pairs;
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int g = 0; g < WIDE; g++) sum[r][g] = _mm512_setzero_ps();
        for (int64_t p = 0; p < pairs; p++) {
            __m512bh k[WIDE];
#pragma GCC unroll 4
            for (int g = 0; g < WIDE; g++) {
                k[g] = (__m512bh)_mm512_loadu_si512(keys.key[first + g] + p * keys.pair_stride);
                if (AHEAD) soon(next.key[first + g] + p * next.pair_stride);
            }
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                __m512bh q = (__m512bh)_mm512_set1_epi32((int)row[r / 3][p + r % 3 * pairs]);
#pragma GCC unroll 4
                for (int g = 0; g < WIDE; g++) sum[r][g] = _mm512_dpbf16_ps(sum[r][g], q, k[g]);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int g = 0; g < WIDE; g++) _mm512_storeu_ps(out + r * stride + (first + g) * LANES, sum[r][g]);
    }
};
#endif

// Memory that grows to the largest use of it.
template <class T> struct Buffer {
    T *data = nullptr;
    int64_t size = 0;
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    ~Buffer() { free(data); }
    // Room for `count` elements; what was in it is lost.
    T *room(int64_t count) {
        if (count > size) {
            free(data);
            size = count;
            data = (T *)aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64);
        }
        return data;
    }
};

}  // namespace infer
