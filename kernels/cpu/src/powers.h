// Powers of two for what lies between 0 and 1: the weights of a softmax, the tail of a distribution.
#pragma once

#include "vectors.h"

namespace infer {

// 2^x for x <= 0, to about 1e-7; NaN for NaN. Below -126 it stays at 2^-126: far less than any sum it is added to.
INFER_INLINE f32x16 exp2_below(f32x16 x) {
    const f32x16 lowest = splat(-126.0f), magic = splat(12582912.0f);
    x = vmax(lowest, x);
    f32x16 k = (x + magic) - magic;
    f32x16 r = x - k;
    f32x16 p = splat(1.54035304e-4f);  // (ln 2)^n / n!
    p = vfma(p, r, splat(1.33335581e-3f));
    p = vfma(p, r, splat(9.61812911e-3f));
    p = vfma(p, r, splat(5.55041087e-2f));
    p = vfma(p, r, splat(2.40226507e-1f));
    p = vfma(p, r, splat(6.93147181e-1f));
    p = vfma(p, r, splat(1.0f));
    return as<f32x16>(as<i32x16>(p) + (convert<i32x16>(k) << 23));
}

INFER_INLINE float exp2_one(float x) { return exp2_below(splat(x))[0]; }

// 2^x for x <= 0, relative error 1.7e-7 and none at 0; 0 for -infinity, NaN for NaN.
INFER_INLINE f32x16 exp2_weight(f32x16 x) {
#if defined(__AVX512DQ__)
    const f32x16 r = (f32x16)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // 0 to 1: what is above the integer
    f32x16 p = splat(1.86713045e-3f);  // minimax polynomials of 2^r, here and below
    p = vfma(p, r, splat(9.01702952e-3f));
    p = vfma(p, r, splat(5.57999137e-2f));
    p = vfma(p, r, splat(2.40164450e-1f));
    p = vfma(p, r, splat(6.93151312e-1f));
    p = vfma(p, r, splat(1.0f));
    return (f32x16)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    x = vmax(splat(-127.0f), x);  // there the exponent is that of zero
    const f32x16 magic = splat(12582912.0f), shifted = x + magic;  // the integer is in its last bits
    const f32x16 r = x - (shifted - magic);
    f32x16 p = splat(1.32647273e-3f);
    p = vfma(p, r, splat(9.67151299e-3f));
    p = vfma(p, r, splat(5.55073358e-2f));
    p = vfma(p, r, splat(2.40222424e-1f));
    p = vfma(p, r, splat(6.93147004e-1f));
    p = vfma(p, r, splat(1.0f));
    return as<f32x16>(as<i32x16>(p) + (as<i32x16>(shifted) << 23));
#endif
}

// The same for what is then rounded to bf16: relative error 1.1e-4.
INFER_INLINE f32x16 exp2_rough(f32x16 x) {
#if defined(__AVX512F__)
    // In instructions that leave the units of products free. At -127 the exponent is that of zero.
    x = vmax(splat(-127.0f), x);
    const f32x16 r = x - (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    f32x16 p = splat(5.50089516e-2f);
    p = vfma(p, r, splat(2.42211014e-1f));
    p = vfma(p, r, splat(6.93282902e-1f));
    p = vfma(p, r, splat(1.0f));
    return as<f32x16>(as<i32x16>(p) + ((i32x16)_mm512_cvtps_epi32((__m512)x) << 23));
#else
    return exp2_weight(x);
#endif
}

}  // namespace infer
