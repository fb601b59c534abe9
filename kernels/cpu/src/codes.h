// Keys and values in int8: their layout in the cache, and exact sums of products with them.
//
// A block holds, for each key/value head, `places` dims of its tokens (head_dim, rounded up to 4) and then a float32 scale a token:
//   keys    [dim quad][token][4], as code + 128    then [token]
//   values  [token quad][dim][4], as code          then [token]     (pairs, or single tokens, in blocks that have no four)
// so that a dot product of bytes covers four dims of 16 tokens, or four tokens of 16 dims. A number is code * scale.
//
// The other side of a product is rounded to integers of 14 bits and a sign (queries) or 15 bits (weights): they add next to nothing
// to what the codes' own rounding costs. Byte products take them in two halves; their sums are exact, so no order shows.
#pragma once

#include "products16.h"
#include "scores.h"

namespace infer {

inline int64_t places(int64_t head_dim) { return (head_dim + 3) / 4 * 4; }
// Bytes of one head in a block.
inline int64_t head_bytes(int64_t head_dim, int64_t block_size) { return (places(head_dim) + 4) * block_size; }
// Tokens that are side by side in a value block.
inline int64_t together(int64_t block_size) { return block_size < 4 ? block_size : 4; }

// -- products ---------------------------------------------------------------------------------------------------------
constexpr float MOST_QUERY = 16383.0f;

// Sums in sixteen lanes, each of four products at a time. IS_WEIGHT: integers are weights and codes those of values, signed; else
// integers are queries and codes those of keys. Four integers are two words, each of a `half` (0, 1): all products of first words are
// added, then `between`, then those of second words, and last begin(total of the integers).
#if defined(__AVX512VNNI__)

// The words hold high bytes, and the low 8 bits (weights) or 7 (queries, whose halves are signed).
template <bool IS_WEIGHT> struct Products {
    static constexpr int LOW = IS_WEIGHT ? 8 : 7, WEIGHT_BITS = 15;
    typedef __m512i Sum;

    static Sum none() { return _mm512_setzero_si512(); }
    static __m512i codes(const uint8_t *p, int) { return _mm512_loadu_si512(p); }
    static Sum add(Sum sum, int32_t word, __m512i codes) {
        const __m512i integers = _mm512_set1_epi32(word);
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(IS_WEIGHT ? integers : codes), "v"(IS_WEIGHT ? codes : integers));  // see gemm.cpp
        return sum;
    }
    static Sum between(Sum sum) { return _mm512_slli_epi32(sum, LOW); }

    static int32_t begin(u32x16 integers) { return IS_WEIGHT ? 0 : (int32_t)(0u - 128u * (uint32_t)_mm512_reduce_add_epi32((__m512i)integers)); }

    // Sixteen integers as four words of either half.
    static void pack(u32x16 integers, int32_t *first, int32_t *second) {
        write(first, low_bytes(integers >> LOW));
        write(second, low_bytes(integers & ((1u << LOW) - 1)));
    }
};

#else

// The words hold the first and the third integer, the second and the fourth.
template <bool IS_WEIGHT> struct Products {
    static constexpr int WEIGHT_BITS = 14;
    typedef i32x16 Sum;

    static Sum none() { return i32x16{}; }
    static i32x16 codes(const uint8_t *p, int half) {
        u32x16 words;
        read(p, words);
        if (IS_WEIGHT) words = words ^ 0x80808080u;  // signed to code + 128
        return as<i32x16>((half ? words >> 8 : words) & 0x00ff00ffu);
    }
    static Sum add(Sum sum, int32_t word, i32x16 codes) { return sum + products16(codes, i32x16{} + word); }
    static Sum between(Sum sum) { return sum; }

    static int32_t begin(u32x16 integers) {
        uint32_t all = 0;
        for (int i = 0; i < LANES; i++) all += integers[i];
        return (int32_t)(0u - 128u * all);
    }

    static void pack(u32x16 integers, int32_t *first, int32_t *second) {
        for (int i = 0; i < LANES; i += 4) {
            first[i / 4] = (int32_t)((integers[i] & 0xffff) | integers[i + 2] << 16);
            second[i / 4] = (int32_t)((integers[i + 1] & 0xffff) | integers[i + 3] << 16);
        }
    }
};

#endif

// A row's integers: where their words of the first half begin, and those of the second.
struct Words {
    const int32_t *half[2];
};

// out[r][n] = row r's integers, `stride` words apart, times codes: in each of `parts`, `quads` of them, `step` bytes apart from
// from(part, n) on. What lies likewise from ahead(part, n) on is asked for meanwhile.
template <class P, int R, int N, class F, class G>
inline void multiply(i32x16 (&out)[R][N], Words words, int64_t stride, int parts, int64_t quads, int64_t step, F from, G ahead) {
    typename P::Sum sum[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[r][n] = P::none();
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        if (half)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) sum[r][n] = P::between(sum[r][n]);
        const int32_t *word = words.half[half];
        for (int part = 0; part < parts; part++) {
            const uint8_t *place[N], *later[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) place[n] = from(part, n), later[n] = ahead(part, n);
            int64_t at = 0;
            for (int64_t q = 0; q < quads; q++, word++, at += step) {
                decltype(P::codes(nullptr, 0)) codes[N];
#pragma GCC unroll 4
                for (int n = 0; n < N; n++) {
                    codes[n] = P::codes(place[n] + at, half);
                    if (N == 1 ? half == 0 : n % 2 == half) soon(later[n] + at);  // evenly, see STEPS_AHEAD
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                    for (int n = 0; n < N; n++) sum[r][n] = P::add(sum[r][n], word[r * stride], codes[n]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) out[r][n] = (i32x16)sum[r][n];
}

}  // namespace infer
