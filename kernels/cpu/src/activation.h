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

// x times the normal distribution: max(x, 0) less |x| times the distribution's tail beyond |x|. ROUGH: of that tail to 3e-4; else to float32.
template <bool ROUGH> INFER_INLINE f32x16 gelu(f32x16 x) {
    const f32x16 above = select(x < splat(0.0f), splat(0.0f), x), t = vabs(x);
    // Minimax polynomials of the tail's binary logarithm from 0 to 5, or 5.5; they fall ever faster from there. Of an infinity it gives none that is finite.
    if (ROUGH) {
        f32x16 p = splat(-2.77861699e-4f);
        p = vfma(p, t, splat(5.40531118e-3f));
        p = vfma(p, t, splat(-4.68508709e-2f));
        p = vfma(p, t, splat(-4.65769882e-1f));
        p = vfma(p, t, splat(-1.14876992f));
        p = vfma(p, t, splat(-1.0f));
        return above - t * exp2_rough(p);
    }
    f32x16 p = splat(-2.67723230e-8f);
    p = vfma(p, t, splat(8.00473913e-7f));
    p = vfma(p, t, splat(-1.02909025e-5f));
    p = vfma(p, t, splat(7.22772311e-5f));
    p = vfma(p, t, splat(-2.64668022e-4f));
    p = vfma(p, t, splat(-3.18633720e-5f));
    p = vfma(p, t, splat(6.98616635e-3f));
    p = vfma(p, t, splat(-5.24677001e-2f));
    p = vfma(p, t, splat(-4.59212244e-1f));
    p = vfma(p, t, splat(-1.15110517f));
    p = vfma(p, t, splat(-1.0f));
    return vfma(t, -exp2_weight(p), above);
}

// x / (1 + e^-u).
template <bool ROUGH> INFER_INLINE f32x16 by_sigmoid(f32x16 x, f32x16 u) {
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
template <int KIND, bool ROUGH> INFER_INLINE f32x16 activate(f32x16 x) {
    if (KIND == RELU) return select(x < splat(0.0f), splat(0.0f), x);
    if (KIND == RELU2) return select(x < splat(0.0f), splat(0.0f), x * x);
    if (KIND == CLAMPED_SWIGLU) {
        x = select(x > splat(CLAMP), splat(CLAMP), x);  // NaN stays
        return by_sigmoid<ROUGH>(x, 1.702f * x);
    }
    if (KIND == SIGMOID) return by_sigmoid<ROUGH>(splat(1.0f), x);
    if (KIND == GELU) return gelu<ROUGH>(x);
    // silu is x * sigmoid(x); 1 + tanh(u) is 2 * sigmoid(2 u), so gelu_tanh is a sigmoid too.
    f32x16 u = KIND == SILU ? x : x * vfma(x * x, splat(0.07135481f), splat(1.59576912f));
    return by_sigmoid<ROUGH>(x, u);
}

// The factor that `up` is.
template <int KIND> INFER_INLINE f32x16 other(f32x16 up) {
    if (KIND != CLAMPED_SWIGLU) return up;
    up = select(up > splat(CLAMP), splat(CLAMP), up);
    return select(up < splat(-CLAMP), splat(-CLAMP), up) + 1.0f;
}

// act(gate) * up of `rows` rows of up to 16 features each, side by side [rows][2][16], times `factors` of rows if that is not null: `count` of them to
// `out`, rows `stride` apart. The bits are those of `infer_activation` of whole rows; to float32 of bf16 those that it quantizes.
template <class T, class Out>
void gate_rows(int64_t kind, const T *pairs, const float *factors, int64_t rows, Out *out, int64_t stride, int64_t count);

}  // namespace infer
