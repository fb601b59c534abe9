// act(x), or act(gate) * up of rows that hold both side by side, into plain or quantized rows.
#include <cstdlib>

#include "activation.h"
#include "operations.h"
#include "parallel.h"
#include "quantized.h"

namespace {

using namespace infer;

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
    auto value = [&](int64_t i, int n, auto rough) __attribute__((always_inline)) {
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

template <class T, class Out, int KIND> void gate(const T *pairs, const float *factors, int64_t rows, Out *out, int64_t stride, int count) {
    for (int64_t row = 0; row < rows; row++, pairs += 2 * LANES, out += stride) {
        const float factor = factors ? factors[row] : 1.0f;
        const f32x16 v = activate<KIND, std::is_same<Out, bf16>::value>(load(pairs) * factor);
        store_n(out, v * other<KIND>(load(pairs + LANES) * factor), count);
    }
}

}  // namespace

template <class T, class Out>
void infer::gate_rows(int64_t kind, const T *pairs, const float *factors, int64_t rows, Out *out, int64_t stride, int64_t count) {
    switch (kind) {
#define INFER_GATE(KIND) \
    case KIND: return gate<T, Out, KIND>(pairs, factors, rows, out, stride, (int)count);
        INFER_GATE(SILU) INFER_GATE(GELU) INFER_GATE(GELU_TANH) INFER_GATE(RELU) INFER_GATE(RELU2) INFER_GATE(CLAMPED_SWIGLU) INFER_GATE(SIGMOID)
#undef INFER_GATE
    }
}
template void infer::gate_rows(int64_t, const float *, const float *, int64_t, float *, int64_t, int64_t);
template void infer::gate_rows(int64_t, const bf16 *, const float *, int64_t, bf16 *, int64_t, int64_t);
template void infer::gate_rows(int64_t, const bf16 *, const float *, int64_t, float *, int64_t, int64_t);

extern "C" void infer_activation(const void *x, const float *x_scale, void *out, float *out_scale, int64_t rows, int64_t size, int64_t dtype,
                                 int64_t kind, int64_t gated) {
    const Activated a{x, x_scale, out, out_scale, rows, size};
    INFER_DISPATCH(dtype, T, gated ? run<T, true>(a, kind) : run<T, false>(a, kind));
}
