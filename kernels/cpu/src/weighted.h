// From a row's scores to weights, and sums of values with them.
#pragma once

#include <algorithm>

#include "laid_out.h"
#include "scores.h"

namespace infer {

// Tokens whose scores a row has at a time.
constexpr int64_t CHUNK = 512;
// From a row's scores to the next row's: no power of 2, or they would compete for the same places in the first cache.
constexpr int64_t SCORES = CHUNK + BLOCK;

// Values laid out, [token][dim], or [token pair][dim][2] where there are dot products of bf16; dims are padded to a multiple of 16.
template <class T> struct Values {
    typedef float Element;
    typedef float Weight;  // takes the place of a score
    static constexpr int STEP = 1;  // tokens of a weight

    // BLOCK rows of `width` elements, from `tokens` of them at `from`, `stride` apart.
    static void pack(Element *to, const T *from, int64_t stride, int64_t tokens, int64_t dim, int64_t width) {
        memset(to, 0, BLOCK * width * sizeof(Element));
        for (int64_t t = 0; t < tokens; t++)
            over_row(dim, [&](int64_t i, int n) { store_n(to + t * width + i, load_n(from + t * stride + i, n), n); });
    }

    // Replaces `count` scores (a multiple of BLOCK) by weights 2^(score * scale - best); their sum, lane by lane.
    static f32x16 weigh(float *score, int64_t count, float scale, float best) {
        f32x16 sum = {};
        for (int64_t t = 0; t < count; t += LANES) {
            const f32x16 w = exp2_weight(vfma(load(score + t), splat(scale), splat(-best)));
            store(score + t, w);
            sum += w;
        }
        return sum;
    }

    static f32x16 add(f32x16 sum, const float *weight, f32x16 value) { return vfma(splat(*weight), value, sum); }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
template <> struct Values<bf16> {
    typedef bf16 Element;
    typedef uint32_t Weight;  // two of them
    static constexpr int STEP = 2;

    static void pack(Element *to, const bf16 *from, int64_t stride, int64_t tokens, int64_t dim, int64_t width) {
        for (int64_t t = 0; t < BLOCK; t += 2, to += 2 * width)
            for (int64_t i = 0; i < width; i += LANES) {
                const __mmask16 here = (__mmask16)((1u << std::min<int64_t>(LANES, dim - i)) - 1);
                const __m256i even = _mm256_maskz_loadu_epi16(t < tokens ? here : 0, from + t * stride + i);
                const __m256i odd = _mm256_maskz_loadu_epi16(t + 1 < tokens ? here : 0, from + (t + 1) * stride + i);
                _mm512_storeu_si512(to + 2 * i, _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
            }
    }

    // What is summed are the weights as rounded, so that shares add up to 1.
    static f32x16 weigh(float *score, int64_t count, float scale, float best) {
        const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(best);
        const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t t = 0; t < count; t += BLOCK) {
            const __m512 a = (__m512)exp2_rough((f32x16)_mm512_fmsub_ps(_mm512_loadu_ps(score + t), factor, shift));
            const __m512 b = (__m512)exp2_rough((f32x16)_mm512_fmsub_ps(_mm512_loadu_ps(score + t + LANES), factor, shift));
            const __m512bh both = _mm512_cvtne2ps_pbh(b, a);
            _mm512_storeu_si512((char *)score + t * sizeof(bf16), (__m512i)both);
            sum = _mm512_dpbf16_ps(sum, both, ones);
        }
        return (f32x16)sum;
    }

    static f32x16 add(f32x16 sum, const uint32_t *weight, f32x16 value) {
        return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)*weight), (__m512bh)value);
    }
};
#endif

// sums[r] += weights[r] . values over `steps` of them in order, NV * 16 dims of each.
template <class T, int R, int NV>
void add_values(const float *weights, const typename Values<T>::Element *value, int64_t steps, float *sums, int64_t width) {
    typedef Values<T> V;
    f32x16 sum[R][NV];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) sum[r][n] = load(sums + r * width + n * LANES);
    for (int64_t t = 0; t < steps; t++, value += V::STEP * width) {
        f32x16 v[NV];
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) v[n] = load((const float *)(value + V::STEP * n * LANES));
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int n = 0; n < NV; n++) sum[r][n] = V::add(sum[r][n], (const typename V::Weight *)(weights + r * SCORES) + t, v[n]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) store(sums + r * width + n * LANES, sum[r][n]);
}

template <class T, int R> void add_all_values(const float *weights, const typename Values<T>::Element *value, int64_t steps, float *sums, int64_t width) {
    constexpr int WIDE = vectors_of(R);
    for (int64_t column = 0; column < width;) {
        const auto *from = value + Values<T>::STEP * column;
        switch (std::min<int64_t>(WIDE, (width - column) / LANES)) {
        case 4: add_values<T, R, std::min(4, WIDE)>(weights, from, steps, sums + column, width), column += 4 * LANES; break;
        case 3: add_values<T, R, std::min(3, WIDE)>(weights, from, steps, sums + column, width), column += 3 * LANES; break;
        case 2: add_values<T, R, std::min(2, WIDE)>(weights, from, steps, sums + column, width), column += 2 * LANES; break;
        default: add_values<T, R, 1>(weights, from, steps, sums + column, width), column += LANES;
        }
    }
}

}  // namespace infer
