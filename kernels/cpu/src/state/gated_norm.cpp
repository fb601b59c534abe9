// RMSNorm of rows in groups, gated, into plain or quantized rows.
#include <cstdlib>

#include "parallel.h"
#include "quantized.h"
#include "vectors.h"
#include "widen.h"

namespace {

using namespace infer;

struct Rows {
    const void *x;        // [rows, size]
    const void *gate;     // [rows, gate_stride]
    const float *weight;  // [size], or [group] for all groups; null: nothing is normed
    void *out;            // [rows, size], of x's type or uint8
    float *out_scale;     // [rows]; null: not quantized
    int64_t rows, size, gate_stride, group, weight_size;
    float eps;
    bool gate_first;
};

inline f32x16 silu(f32x16 x) { return x / (1.0f + vexp(-x)); }

// `scratch` holds the row as float32.
template <class T> void normalize_row(const Rows &r, int64_t row, float *scratch) {
    const T *x = (const T *)r.x + row * r.size, *gate = (const T *)r.gate + row * r.gate_stride;
    Magnitude magnitude;
    for (int64_t start = 0; start < r.size; start += r.group) {
        f32x16 squares = splat(0.0f);
        over_row(r.group, [&](int64_t i, int n) {
            f32x16 v = load_n(x + start + i, n);
            if (r.gate_first || !r.weight) v = v * silu(load_n(gate + start + i, n));
            squares = vfma(v, v, squares);
            store_n(scratch + start + i, v, n);
        });
        const float inverse = r.weight ? 1.0f / __builtin_sqrtf(reduce_add(squares) / r.group + r.eps) : 1.0f;
        const float *weight = r.weight + (r.weight_size == r.size ? start : 0);
        over_row(r.group, [&](int64_t i, int n) {
            f32x16 v = load_n(scratch + start + i, n);
            if (r.weight) v = v * inverse * load_n(weight + i, n);
            if (r.weight && !r.gate_first) v = v * silu(load_n(gate + start + i, n));
            magnitude.add(v);
            if (r.out_scale) store_n(scratch + start + i, v, n);
            else store_n((T *)r.out + row * r.size + start + i, v, n);
        });
    }
    if (!r.out_scale) return;
    const Quantizer quantizer(magnitude.largest());
    r.out_scale[row] = quantizer.scale;
    uint8_t *out = (uint8_t *)r.out + row * r.size;
    over_row(r.size, [&](int64_t i, int n) { quantizer.store(out + i, load_n(scratch + i, n), n); });
}

template <class T> void normalize(const Rows &r) {
    Rowwise rows(r.rows, r.size * 2);
    rows.in_team([&] {
        float *scratch = (float *)malloc(r.size * sizeof(float));
        rows.work([&](int64_t row) { normalize_row<T>(r, row, scratch); });
        free(scratch);
    });
}

}  // namespace

extern "C" void infer_gated_rms_norm(const void *x, const void *gate, int64_t gate_stride, const void *weight, int64_t weight_size, void *out,
                                     float *out_scale, int64_t rows, int64_t size, int64_t group, int64_t gate_first, int64_t dtype,
                                     int64_t weight_dtype, float eps) {
    float *buffer = (float *)malloc(weight_size * sizeof(float));
    const float *wide = widened(weight, weight_dtype, weight_size, buffer);
    const Rows r{x, gate, wide, out, out_scale, rows, size, gate_stride, group, weight_size, eps, gate_first != 0};
    INFER_DISPATCH(dtype, T, normalize<T>(r));
    free(buffer);
}
