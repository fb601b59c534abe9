// act(x), or act(gate) * up of rows that hold both side by side, into plain or quantized rows.
#include <cstdlib>

#include "parallel.h"
#include "powers.h"
#include "quantized.h"
#include "vectors.h"

namespace {

using namespace infer;

// Same numbers as in activation.py.
enum Kind : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3, RELU2 = 4, CLAMPED_SWIGLU = 5, SIGMOID = 6 };

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

// ROUGH: for results that are rounded to bf16.
template <int KIND, bool ROUGH> inline f32x16 activate(f32x16 x) {
    if (KIND == RELU) return select(x < splat(0.0f), splat(0.0f), x);
    if (KIND == RELU2) return select(x < splat(0.0f), splat(0.0f), x * x);
    if (KIND == CLAMPED_SWIGLU) {
        x = select(x > splat(CLAMP), splat(CLAMP), x);  // NaN stays
        return x / (1.0f + vexp(-1.702f * x));
    }
    if (KIND == SIGMOID) return 1.0f / (1.0f + vexp(-x));
    if (KIND == GELU && ROUGH) return gelu_rough(x);
    if (KIND == GELU) return 0.5f * x * (1.0f + verf(x * 0.70710678f));
    // silu is x * sigmoid(x); 1 + tanh(u) is 2 * sigmoid(2 u), so gelu_tanh is a sigmoid too.
    f32x16 u = KIND == SILU ? x : x * vfma(x * x, splat(0.07135481f), splat(1.59576912f));
    return x / (1.0f + vexp(-u));
}

// The factor that `up` is.
template <int KIND> inline f32x16 other(f32x16 up) {
    if (KIND != CLAMPED_SWIGLU) return up;
    up = select(up > splat(CLAMP), splat(CLAMP), up);
    return select(up < splat(-CLAMP), splat(-CLAMP), up) + 1.0f;
}

struct Activated {
    const void *x;         // [rows, size], or gated [rows, 2 * size]
    const float *x_scale;  // [rows] or null
    void *out;             // [rows, size], of x's type or uint8
    float *out_scale;      // [rows]; null: not quantized
    int64_t rows, size;
};

// `scratch` holds a row as float32: finding its largest value must not cost the activation twice.
template <class T, int KIND, bool GATED> void activate_row(const Activated &a, int64_t row, float *scratch) {
    const int64_t size = a.size;
    const T *x = (const T *)a.x + row * size * (GATED ? 2 : 1);
    const float factor = a.x_scale ? a.x_scale[row] : 1.0f;
    auto value = [&](int64_t i, int n, auto rough) {
        f32x16 v = activate<KIND, decltype(rough)::value>(load_n(x + i, n) * factor);
        return GATED ? v * other<KIND>(load_n(x + size + i, n) * factor) : v;
    };
    if (!a.out_scale) {
        T *out = (T *)a.out + row * size;
        over_row(size, [&](int64_t i, int n) { store_n(out + i, value(i, n, std::is_same<T, bf16>()), n); });
        return;
    }
    Magnitude magnitude;
    over_row(size, [&](int64_t i, int n) {
        f32x16 v = value(i, n, std::false_type());
        store_n(scratch + i, v, n);
        magnitude.add(v);  // lanes beyond the row are act(0) = 0, or a gate times 0
    });
    const Quantizer quantizer(magnitude.largest());
    a.out_scale[row] = quantizer.scale;
    uint8_t *out = (uint8_t *)a.out + row * size;
    over_row(size, [&](int64_t i, int n) { quantizer.store(out + i, load_n(scratch + i, n), n); });
}

template <class T, int KIND, bool GATED> void run(const Activated &a) {
    Rowwise rows(a.rows, a.size * 2);
    rows.in_team([&] {
        float *scratch = a.out_scale ? (float *)malloc(a.size * sizeof(float)) : nullptr;
        rows.work([&](int64_t row) { activate_row<T, KIND, GATED>(a, row, scratch); });
        free(scratch);
    });
}

template <class T, bool GATED> void run(const Activated &a, int64_t kind) {
    switch (kind) {
    case SILU: return run<T, SILU, GATED>(a);
    case GELU: return run<T, GELU, GATED>(a);
    case GELU_TANH: return run<T, GELU_TANH, GATED>(a);
    case RELU: return run<T, RELU, GATED>(a);
    case RELU2: return run<T, RELU2, GATED>(a);
    case CLAMPED_SWIGLU: return run<T, CLAMPED_SWIGLU, GATED>(a);
    case SIGMOID: return run<T, SIGMOID, true>(a);
    }
}

}  // namespace

extern "C" void infer_activation(const void *x, const float *x_scale, void *out, float *out_scale, int64_t rows, int64_t size, int64_t dtype,
                                 int64_t kind, int64_t gated) {
    const Activated a{x, x_scale, out, out_scale, rows, size};
    INFER_DISPATCH(dtype, T, gated ? run<T, true>(a, kind) : run<T, false>(a, kind));
}
