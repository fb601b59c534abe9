// int8 with AVX2, which has no dot products of bytes: vpmaddubsw adds two products of a byte without a sign and one with, in 16 bits, where they
// saturate; vpmaddwd adds two of those in 32. Both take the ports that do multiplications, so the fewer of the second, the better: two words' sums are
// added in 16 bits first wherever they are certain to stay there. As sums of integers have no order, words are put together as their weights allow,
// for each 8 features by themselves (matching.h):
//
//   FREE_PAIR   rows as they come, 0 to 255, by both words' weights: where of the four that make a sum those above zero add up to 128 at most, and those below
//   HALF_PAIR   the first word as |w| by -128 to 127, see `flips`; the second as in a free pair
//   APART_PAIR  both as |w|, and each summed in 32 bits by itself: fits always
//
// Cycles of a Zen 3 for a row by two words of 8 features: 1.8, 2.0 and 3.1 (bounds: 1.5, 1.5 and 2). Of weights that are drawn from a normal distribution
// 50 to 80 % of pairs are free and nearly all others are half.
//
// A panel is four parts of 8 features, each of whole cache lines, in the order in which they are read: with few rows that is how fast memory gives them.
//   counts   int32 [3]                  of pairs, by kind
//   order    uint16 [words, made even]  which word of the row each is
//   weights  [words, made even][8][4]   the free pairs, then half ones, then those apart
#pragma once

#include "finish.h"

namespace infer {

#define INFER_GEMM_PAIRS 1

enum Pairing : uint8_t { FREE_PAIR, HALF_PAIR, APART_PAIR };

// Output features of a part.
constexpr int PART = 8;
// Rows of a block: their sums, what is in use of two words, and no more than 16 registers; an address each.
constexpr int PAIRED_ROWS = 8;

struct Part {
    int64_t words;  // even
    explicit Part(int64_t words) : words((words + 1) / 2 * 2) {}
    static constexpr int64_t ORDER = 12;
    int64_t weights() const { return (ORDER + words * 2 + 63) / 64 * 64; }
    int64_t bytes() const { return (weights() + words * PART * 4 + 63) / 64 * 64; }
};

// -x - 1 for -x where w is negative, so that both -128 and 127 stay in a byte; and in all places what makes rows signed.
inline i32x8 flips(i32x8 w) { return (i32x8)_mm256_cmpgt_epi8(_mm256_setzero_si256(), (__m256i)w) ^ (int32_t)0x80808080; }

// Whole pairs as assembly, each of one row: compilers move parts of several about until their sums no longer fit into registers.
typedef int32_t Word __attribute__((may_alias));
inline void add_free(i32x8 &sum, const Word &x, const Word &y, i32x8 a, i32x8 b, i32x8 one) {
    i32x8 s, t;
    asm("vpbroadcastd %[x], %[s]\n\tvpbroadcastd %[y], %[t]\n\t"
        "vpmaddubsw %[a], %[s], %[s]\n\tvpmaddubsw %[b], %[t], %[t]\n\t"
        "vpaddw %[s], %[t], %[t]\n\tvpmaddwd %[one], %[t], %[t]\n\tvpaddd %[t], %[sum], %[sum]"
        : [sum] "+x"(sum), [s] "=&x"(s), [t] "=&x"(t)
        : [x] "m"(x), [y] "m"(y), [a] "x"(a), [b] "x"(b), [one] "x"(one));
}
inline void add_half(i32x8 &sum, const Word &x, const Word &y, i32x8 a, i32x8 flips, i32x8 b, i32x8 one) {
    i32x8 s, t;
    asm("vpbroadcastd %[x], %[s]\n\tvpbroadcastd %[y], %[t]\n\t"
        "vpxor %[flips], %[s], %[s]\n\tvpmaddubsw %[b], %[t], %[t]\n\tvpmaddubsw %[s], %[a], %[s]\n\t"
        "vpaddw %[s], %[t], %[t]\n\tvpmaddwd %[one], %[t], %[t]\n\tvpaddd %[t], %[sum], %[sum]"
        : [sum] "+x"(sum), [s] "=&x"(s), [t] "=&x"(t)
        : [x] "m"(x), [y] "m"(y), [a] "x"(a), [flips] "x"(flips), [b] "x"(b), [one] "x"(one));
}
inline void add_flipped(i32x8 &sum, const Word &x, i32x8 a, i32x8 flips, i32x8 one) {
    i32x8 s;
    asm("vpbroadcastd %[x], %[s]\n\tvpxor %[flips], %[s], %[s]\n\tvpmaddubsw %[s], %[a], %[s]\n\t"
        "vpmaddwd %[one], %[s], %[s]\n\tvpaddd %[s], %[sum], %[sum]"
        : [sum] "+x"(sum), [s] "=&x"(s)
        : [x] "m"(x), [a] "x"(a), [flips] "x"(flips), [one] "x"(one));
}

// Bytes ahead of the weights that are multiplied to have fetched: parts follow each other, so that those of the next one come before it begins.
constexpr int64_t SOON = 2048;

// What is gone through: `weights` and `order` as they go on.
struct Way {
    const char *weights;
    const uint16_t *order;
};

// R rows by `count` pairs of a kind.
template <Pairing KIND, int R> inline void add_pairs(i32x8 (&sum)[R], const char *const (&x)[R], Way &way, int64_t count) {
    const i32x8 one = (i32x8)_mm256_set1_epi16(1);
    for (; count > 0; count--, way.weights += 2 * PART * 4, way.order += 2) {
        __builtin_prefetch(way.weights + SOON, 0, 2);
        i32x8 a, b;
        read(way.weights, a);
        read(way.weights + PART * 4, b);
        const int64_t i = way.order[0], j = way.order[1];
        const i32x8 first = KIND == FREE_PAIR ? a : (i32x8)_mm256_abs_epi8((__m256i)a), second = KIND == APART_PAIR ? (i32x8)_mm256_abs_epi8((__m256i)b) : b;
        const i32x8 flip = flips(a), other = flips(b);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Word &v = ((const Word *)x[r])[i], &w = ((const Word *)x[r])[j];
            if constexpr (KIND == FREE_PAIR) add_free(sum[r], v, w, first, second, one);
            if constexpr (KIND == HALF_PAIR) add_half(sum[r], v, w, first, flip, second, one);
            if constexpr (KIND == APART_PAIR) {
                add_flipped(sum[r], v, first, flip, one);
                add_flipped(sum[r], w, second, other, one);
            }
        }
    }
}

// R rows, `stride` apart, by a part; to sums, each LANES apart.
template <int R> void by_part(int32_t *sums, const char *rows, int64_t stride, const char *part, const Part &sizes) {
    const char *x[R];
    i32x8 sum[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) x[r] = rows + r * stride, sum[r] = i32x8{};
    int32_t counts[3];
    memcpy(counts, part, sizeof counts);
    Way way{part + sizes.weights(), (const uint16_t *)(part + Part::ORDER)};
    for (const char *line = part; line < way.weights; line += 64) __builtin_prefetch(line + SOON, 0, 2);
    add_pairs<FREE_PAIR>(sum, x, way, counts[FREE_PAIR]);
    add_pairs<HALF_PAIR>(sum, x, way, counts[HALF_PAIR]);
    add_pairs<APART_PAIR>(sum, x, way, counts[APART_PAIR]);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) write(sums + r * LANES, sum[r]);
}

template <int... R>
void by_part(int rows, int32_t *sums, const char *x, int64_t stride, const char *part, const Part &sizes, std::integer_sequence<int, R...>) {
    static constexpr void (*all[])(int32_t *, const char *, int64_t, const char *, const Part &) = {by_part<R + 1>...};
    all[rows - 1](sums, x, stride, part, sizes);
}

// Sums [count][16] of rows from `first` on by two parts.
inline void sum_parts(const Gemm &g, int32_t *sums, int64_t first, int64_t count, const char *part, const Part &sizes) {
    const int64_t stride = g.row_bytes(), blocks = (count + PAIRED_ROWS - 1) / PAIRED_ROWS;
    for (int half = 0; half < LANES; half += PART, part += sizes.bytes()) {
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t at = count * b / blocks, rows = count * (b + 1) / blocks - at;
            by_part((int)rows, sums + at * LANES + half, g.x + (first + at) * stride, stride, part, sizes, std::make_integer_sequence<int, PAIRED_ROWS>());
        }
    }
}

// `count` sums of rows from `first` on become results, rows `stride` apart, of which `left` are to be written.
template <class Out> void put_parts(const FinishInt8 &finish, const int32_t *sums, int64_t first, int64_t count, Out *out, int64_t stride, int64_t left) {
    for (int64_t r = 0; r < count; r++, out += stride) {
        i32x16 sum;
        read(sums + r * LANES, sum);
        store_n(out, finish(sum, first + r), (int)std::min<int64_t>(LANES, left));
    }
}

// `count` rows, MOST_CHUNK at most, from `first` on by panel p.
template <class Out> void rows_by_parts(const Gemm &g, int64_t first, int64_t count, int64_t p) {
    alignas(64) int32_t sums[2][MOST_CHUNK * LANES];
    const Part sizes(g.words);
    const int64_t column = g.column(p), other = g.other(column), left = (g.half ? g.half : g.n) - column, other_left = g.half ? left : left - LANES;
    const char *part = g.panel(p), *next = part + LANES / PART * sizes.bytes();
    factors_soon(g, column);
    sum_parts(g, sums[0], first, count, part, sizes);
    if (g.gate < 0) {
        Out *out = (Out *)g.out + first * g.n;
        put_parts(FinishInt8(g, column), sums[0], first, count, out + column, g.n, left);
        if (other_left <= 0) return;
        sum_parts(g, sums[0], first, count, next, sizes);
        put_parts(FinishInt8(g, other), sums[0], first, count, out + other, g.n, other_left);
        return;
    }
    sum_parts(g, sums[1], first, count, next, sizes);
    const FinishInt8 finish(g, column), finish_other(g, other);
    constexpr int64_t SOME = 16;
    alignas(64) Out both[SOME * PANEL];
    for (int64_t r = 0; r < count; r += SOME) {
        const int64_t some = std::min(SOME, count - r);
        put_parts(finish, sums[0] + r * LANES, first + r, some, both, PANEL, LANES);
        put_parts(finish_other, sums[1] + r * LANES, first + r, some, both + LANES, PANEL, LANES);
        put_gated(g, both, first + r, some, column, left);
    }
}

// The kind of kinds.h, but for what pairs do in place of words.
struct Int8 {
    typedef i32x16 Sum;
    typedef FinishInt8 Finish;
};

}  // namespace infer
