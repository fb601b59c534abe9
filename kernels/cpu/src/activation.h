// Activations of 16 values each, and of halves of what a product gives.
#pragma once

#include <type_traits>

#include "powers.h"
#include "vectors.h"

namespace infer {

// Same numbers as in activation.py.
enum Activation : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3, RELU2 = 4, CLAMPED_SWIGLU = 5, SIGMOID = 6 };

// As in ops.py.
constexpr float CLAMP = 7.0f;

// x times the normal distribution, to 3e-4 of what it differs from max(x, 0) by: that is |x| times the distribution's tail beyond |x|.
inline f32x16 gelu_rough(f32x16 x) {
    const f32x16 t = vabs(x);
    f32x16 p = splat(-2.77861699e-4f);  // minimax polynomial of its binary logarithm from 0 to 5; falls ever faster from there
    p = vfma(p, t, splat(5.40531118e-3f));
    p = vfma(p, t, splat(-4.68508709e-2f));
    p = vfma(p, t, splat(-4.65769882e-1f));
    p = vfma(p, t, splat(-1.14876992f));
    p = vfma(p, t, splat(-1.0f));
    return select(x < splat(0.0f), splat(0.0f), x) - t * exp2_rough(p);
}

// x / (1 + e^-u).
template <bool ROUGH> inline f32x16 by_sigmoid(f32x16 x, f32x16 u) {
#if defined(__AVX512DQ__)
    if (ROUGH) {  // relative error below 2e-4; 0 where e^-u is beyond 2^126, whose reciprocal would be no proper number
        const __m512 power = (__m512)(u * -1.44269504f);
        const __mmask16 within = _mm512_cmp_ps_mask(power, _mm512_set1_ps(126.0f), _CMP_NGT_UQ);
        return x * (f32x16)_mm512_maskz_rcp14_ps(within, (__m512)(1.0f + exp2_rough((f32x16)power)));
    }
#endif
    return x / (1.0f + vexp(-u));
}

// ROUGH: for results that are rounded to bf16.
template <int KIND, bool ROUGH> inline f32x16 activate(f32x16 x) {
    if (KIND == RELU) return select(x < splat(0.0f), splat(0.0f), x);
    if (KIND == RELU2) return select(x < splat(0.0f), splat(0.0f), x * x);
    if (KIND == CLAMPED_SWIGLU) {
        x = select(x > splat(CLAMP), splat(CLAMP), x);  // NaN stays
        return by_sigmoid<ROUGH>(x, 1.702f * x);
    }
    if (KIND == SIGMOID) return by_sigmoid<ROUGH>(splat(1.0f), x);
    if (KIND == GELU && ROUGH) return gelu_rough(x);
    if (KIND == GELU) return 0.5f * x * (1.0f + verf(x * 0.70710678f));
    // silu is x * sigmoid(x); 1 + tanh(u) is 2 * sigmoid(2 u), so gelu_tanh is a sigmoid too.
    f32x16 u = KIND == SILU ? x : x * vfma(x * x, splat(0.07135481f), splat(1.59576912f));
    return by_sigmoid<ROUGH>(x, u);
}

// The factor that `up` is.
template <int KIND> inline f32x16 other(f32x16 up) {
    if (KIND != CLAMPED_SWIGLU) return up;
    up = select(up > splat(CLAMP), splat(CLAMP), up);
    return select(up < splat(-CLAMP), splat(-CLAMP), up) + 1.0f;
}

// act(gate) * up of `rows` rows of up to 16 features each, side by side [rows][2][16], times `factors` of rows if that is not null: `count` of them to
// `out`, rows `stride` apart. The bits are those of `infer_activation` of whole rows; to float32 of bf16 those that it quantizes.
template <class T, class Out>
void gate_rows(int64_t kind, const T *pairs, const float *factors, int64_t rows, Out *out, int64_t stride, int64_t count);

}  // namespace infer
