// float32 rows in sixteen lanes: loading, storing and arithmetic.
// Everything that is reduced is reduced over these lanes in one fixed order, so a row's bits depend on nothing but the row
// (and are the same on machines with and without wide registers, but for what vfma fuses).
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace infer {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// Same numbers as in library.py. INT8 is of keys and values in the cache.
enum DType : int32_t { F32 = 0, BF16 = 1, F16 = 2, INT8 = 3 };

// -- loading and storing ------------------------------------------------------------------------------------------
INFER_INLINE f32x16 load(const float *p) {
    f32x16 v;
    read(p, v);
    return v;
}

INFER_INLINE f32x16 load(const bf16 *p) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    u16x16 raw;
    read(p, raw);
    return as<f32x16>(widen(raw) << 16);
#endif
}

INFER_INLINE f32x16 load(const f16 *p) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#else
    // By hand: compilers without a half type are common, and those with one convert a lane at a time.
    u16x16 raw;
    read(p, raw);
    u32x16 h = widen(raw), magnitude = (h & 0x7fff) << 13;
    u32x16 scaled = as<u32x16>(as<f32x16>(magnitude) * 5.192296858534828e33f);  // 2^112: the exponents' biases are 127 and 15
    i32x16 finite = as<i32x16>(magnitude) < 0x7c00 << 13;
    return as<f32x16>(select(finite, scaled, scaled | 0x7f800000u) | (h & 0x8000) << 16);
#endif
}

INFER_INLINE void store(float *p, f32x16 v) { write(p, v); }

// To nearest, ties to even; NaN stays NaN.
INFER_INLINE void store(bf16 *p, f32x16 v) {
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, sizeof h);
#else
    u32x16 u = as<u32x16>(v);
    u32x16 rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    u32x16 nan = (u >> 16) | 0x40;
    i32x16 is_nan = v != v;
    write(p, convert<u16x16>(select(is_nan, nan, rounded)));
#endif
}

INFER_INLINE void store(f16 *p, f32x16 v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#else
    u32x16 u = as<u32x16>(v), sign = u & 0x80000000u, a = u ^ sign;
    u32x16 normal = (a + 0xc8000fffu + ((a >> 13) & 1)) >> 13;                      // 15 - 127 into the exponent, ties to even
    u32x16 subnormal = as<u32x16>(as<f32x16>(a) + 0.5f) - 0x3f000000u;              // 0.5's last bit is a half's smallest value
    u32x16 special = (as<u32x16>(as<i32x16>(a) > 0x7f800000) & 0x0200u) | 0x7c00u;  // NaN or infinity
    i32x16 large = as<i32x16>(a) >= 143 << 23, small = as<i32x16>(a) < 113 << 23;   // from 2^16 on; below 2^-14
    u32x16 bits = select(large, special, select(small, subnormal, normal)) | sign >> 16;
    write(p, convert<u16x16>(bits));
#endif
}

// The first n < LANES elements; the other lanes are zero and nothing beyond is touched.
template <class T> INFER_INLINE f32x16 load_partial(const T *p, int n) {
    T buffer[LANES] = {};
    memcpy(buffer, p, n * sizeof(T));
    return load(buffer);
}

template <class T> INFER_INLINE void store_partial(T *p, f32x16 v, int n) {
    T buffer[LANES];
    store(buffer, v);
    memcpy(p, buffer, n * sizeof(T));
}

// The first N lanes.
template <int N> INFER_INLINE void store_first(float *p, f32x16 v) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << N) - 1), (__m512)v);
#else
    store_partial(p, v, N);
#endif
}

// Loops over a row: BODY(offset, count) with count == LANES but for a last part.
template <class F> INFER_INLINE void over_row(int64_t size, F body) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) body(i, LANES);
    if (i < size) body(i, (int)(size - i));
}

template <class T> INFER_INLINE f32x16 load_n(const T *p, int n) { return n == LANES ? load(p) : load_partial(p, n); }
template <class T> INFER_INLINE void store_n(T *p, f32x16 v, int n) { n == LANES ? store(p, v) : store_partial(p, v, n); }

// -- arithmetic ---------------------------------------------------------------------------------------------------
INFER_INLINE f32x16 vabs(f32x16 a) { return as<f32x16>(as<u32x16>(a) & 0x7fffffffu); }

// v with the lanes from n on zero.
INFER_INLINE f32x16 first_lanes(f32x16 v, int n) { return select(lane_numbers() < n, v, splat(0.0f)); }

// Lanes in halves: i with i + 8, then i + 4, 2 and 1.
INFER_INLINE float reduce_add(f32x16 v) {
    f32x8 eight = low(v) + high(v);
    f32x4 four = low(eight) + high(eight);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

INFER_INLINE float reduce_max(f32x16 v) {
    f32x8 eight = vmax(low(v), high(v));
    f32x4 four = vmax(low(eight), high(eight));
    float a = four[0] > four[2] ? four[0] : four[2], b = four[1] > four[3] ? four[1] : four[3];
    return a > b ? a : b;
}

// e^x, at most 2 units in the last place off; 0 below -87.3 (-inf included), inf above 88.7, NaN for NaN.
INFER_INLINE f32x16 vexp(f32x16 x) {
    const f32x16 lowest = splat(-87.33654f);
#if defined(__AVX512F__)
    // NaN where x is NaN. What lies below `lowest` is masked at the end, and a power of 2 out of range gives infinity there.
    f32x16 clamped = (f32x16)_mm512_min_ps((__m512)splat(90.0f), (__m512)x);
#else
    const f32x16 highest = splat(88.72284f);
    f32x16 clamped = select(x > highest, highest, select(x < lowest, lowest, x));
#endif
    // x = k ln 2 + r, |r| <= ln 2 / 2: adding 1.5 * 2^23 rounds to an integer.
    const f32x16 magic = splat(12582912.0f);
    f32x16 k = vfma(clamped, splat(1.44269504f), magic) - magic;
    f32x16 r = vfma(k, splat(2.12194440e-4f), vfma(k, splat(-0.693359375f), clamped));
    f32x16 p = splat(1.9875691500e-4f);  // minimax polynomial of (e^r - 1 - r) / r^2 (Cephes)
    p = vfma(p, r, splat(1.3981999507e-3f));
    p = vfma(p, r, splat(8.3334519073e-3f));
    p = vfma(p, r, splat(4.1665795894e-2f));
    p = vfma(p, r, splat(1.6666665459e-1f));
    p = vfma(p, r, splat(5.0000001201e-1f));
    p = vfma(p * r, r, r) + 1.0f;
#if defined(__AVX512F__)
    __mmask16 above = _mm512_cmp_ps_mask((__m512)x, (__m512)lowest, _CMP_NLT_UQ);
    return (f32x16)_mm512_maskz_scalef_ps(above, (__m512)p, (__m512)k);
#else
    i32x16 exponent = convert<i32x16>(k);
    // Two factors, so that k = 128 does not overflow the exponent on its own.
    i32x16 half = exponent >> 1;
    f32x16 result = p * as<f32x16>((half + 127) << 23) * as<f32x16>((exponent - half + 127) << 23);
    result = select(x < lowest, splat(0.0f), select(x > highest, splat(__builtin_inff()), result));
    return select(x == x, result, x);
#endif
}

// tanh x, relative error below 4e-7; NaN for NaN.
INFER_INLINE f32x16 vtanh(f32x16 x) {
    x = vmin(splat(8.0f), vmax(splat(-8.0f), x));  // where it is 1
    const f32x16 s = x * x;
    f32x16 p = splat(1.14284412e-5f);  // minimax rational function of tanh x / x in x^2
    p = vfma(p, s, splat(2.95102558e-3f));
    p = vfma(p, s, splat(1.29256647e-1f));
    p = vfma(p, s, splat(9.99999854e-1f));
    f32x16 q = splat(2.45921617e-7f);
    q = vfma(q, s, splat(2.38669413e-4f));
    q = vfma(q, s, splat(2.38155617e-2f));
    q = vfma(q, s, splat(4.62588803e-1f));
    q = vfma(q, s, splat(1.0f));
    return x * p / q;
}

}  // namespace infer

// Calls BODY with T naming the element type of a DType.
#define INFER_DISPATCH(dtype, T, ...)                       \
    switch (dtype) {                                        \
    case infer::F32: { using T = float; __VA_ARGS__; break; }        \
    case infer::BF16: { using T = infer::bf16; __VA_ARGS__; break; } \
    case infer::F16: { using T = infer::f16; __VA_ARGS__; break; }   \
    }
