// act(gate) * up of rows that hold both side by side, into plain or quantized rows.
#include <cstdlib>

#include "parallel.h"
#include "quantized.h"
#include "vectors.h"

namespace {

using namespace infer;

// Same numbers as in activation.py.
enum Kind : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2 };

template <int KIND> inline f32x16 activate(f32x16 x) {
    if (KIND == GELU) return 0.5f * x * (1.0f + verf(x * 0.70710678f));
    // silu is x * sigmoid(x); 1 + tanh(u) is 2 * sigmoid(2 u), so gelu_tanh is a sigmoid too.
    f32x16 u = KIND == SILU ? x : x * vfma(x * x, splat(0.07135481f), splat(1.59576912f));
    return x / (1.0f + vexp(-u));
}

struct Gated {
    const void *x;         // [rows, 2 * size]
    const float *x_scale;  // [rows] or null
    void *out;             // [rows, size], of x's type or uint8
    float *out_scale;      // [rows]; null: not quantized
    int64_t rows, size;
};

// `scratch` holds a row as float32: finding its largest value must not cost the activation twice.
template <class T, int KIND> void gate_row(const Gated &g, int64_t row, float *scratch) {
    const int64_t size = g.size;
    const T *gate = (const T *)g.x + row * 2 * size, *up = gate + size;
    const float factor = g.x_scale ? g.x_scale[row] : 1.0f;
    auto value = [&](int64_t i, int n) { return activate<KIND>(load_n(gate + i, n) * factor) * (load_n(up + i, n) * factor); };
    if (!g.out_scale) {
        T *out = (T *)g.out + row * size;
        over_row(size, [&](int64_t i, int n) { store_n(out + i, value(i, n), n); });
        return;
    }
    Magnitude magnitude;
    over_row(size, [&](int64_t i, int n) {
        f32x16 v = value(i, n);
        store_n(scratch + i, v, n);
        magnitude.add(v);  // lanes beyond the row are act(0) * 0
    });
    const Quantizer quantizer(magnitude.largest());
    g.out_scale[row] = quantizer.scale;
    uint8_t *out = (uint8_t *)g.out + row * size;
    over_row(size, [&](int64_t i, int n) { quantizer.store(out + i, load_n(scratch + i, n), n); });
}

template <class T, int KIND> void run(const Gated &g) {
#pragma omp parallel if (worth_threads(g.rows * g.size * 2))
    {
        float *scratch = g.out_scale ? (float *)malloc(g.size * sizeof(float)) : nullptr;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < g.rows; row++) gate_row<T, KIND>(g, row, scratch);
        free(scratch);
    }
}

}  // namespace

extern "C" void infer_gated_activation(const void *x, const float *x_scale, void *out, float *out_scale, int64_t rows, int64_t size,
                                       int64_t dtype, int64_t kind) {
    const Gated g{x, x_scale, out, out_scale, rows, size};
    INFER_DISPATCH(dtype, T, kind == SILU ? run<T, SILU>(g) : kind == GELU ? run<T, GELU>(g) : run<T, GELU_TANH>(g));
}
