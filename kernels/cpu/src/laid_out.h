// Keys from the rows of a projection to groups of 16 tokens, [group][dim pair][token][2], as sums over them want them.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace infer {

// Tokens that are laid out together; what is beyond the last one is zeros.
constexpr int64_t BLOCK = 2 * LANES;

// Up to BLOCK tokens' keys, `stride` apart, into groups.
template <class T> void pack_keys(T *to, const T *from, int64_t stride, int64_t tokens, int64_t dim) {
    const int64_t pairs = (dim + 1) / 2, whole = dim / 2;
    memset(to, 0, BLOCK * pairs * 2 * sizeof(T));
    for (int64_t t = 0; t < tokens; t++) {
        T *column = to + t / LANES * LANES * pairs * 2 + t % LANES * 2;
        for (int64_t p = 0; p < whole; p++) memcpy(column + p * LANES * 2, from + t * stride + p * 2, 2 * sizeof(T));
        if (dim % 2) column[whole * LANES * 2] = from[t * stride + dim - 1];
    }
}

#if defined(__AVX512BW__)
// The first `count` <= 32 of 16 bits each; the others are zero.
inline __m512i load_halves(const bf16 *p, int64_t count) {
    return _mm512_maskz_loadu_epi16(count >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << std::max<int64_t>(0, count)) - 1, p);
}

// Rows of 16 words to columns.
inline void transpose(__m512i (&x)[LANES]) {
    __m512i y[LANES];
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {  // words of 4 rows each, 4 columns of every quarter
        const __m512i a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        const __m512i c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        y[i] = _mm512_unpacklo_epi64(a, c), y[i + 1] = _mm512_unpackhi_epi64(a, c);
        y[i + 2] = _mm512_unpacklo_epi64(b, d), y[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // quarters of 4 registers, transposed
        const __m512i a = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x88), b = _mm512_shuffle_i32x4(y[i], y[i + 4], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0x88), d = _mm512_shuffle_i32x4(y[i + 8], y[i + 12], 0xdd);
        x[i] = _mm512_shuffle_i32x4(a, c, 0x88), x[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        x[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), x[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

template <> inline void pack_keys<bf16>(bf16 *to, const bf16 *from, int64_t stride, int64_t tokens, int64_t dim) {
    const int64_t pairs = (dim + 1) / 2;
    for (int64_t group = 0; group < BLOCK; group += LANES, to += LANES * pairs * 2)
        for (int64_t p = 0; p < pairs; p += LANES) {
            __m512i x[LANES];
#pragma GCC unroll 16
            for (int t = 0; t < LANES; t++)
                x[t] = group + t < tokens ? load_halves(from + (group + t) * stride + p * 2, dim - p * 2) : _mm512_setzero_si512();
            transpose(x);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (p + i < pairs) _mm512_storeu_si512(to + (p + i) * LANES * 2, x[i]);
        }
}
#endif

}  // namespace infer
