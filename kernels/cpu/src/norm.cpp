// RMSNorm and LayerNorm of rows, after adding a residual if there is one, into plain or quantized rows.
#include "operations.h"
#include "parallel.h"
#include "quantized.h"
#include "vectors.h"
#include "widen.h"

namespace {

using namespace infer;

struct Rows {
    const void *x;         // [rows, size]
    const float *x_scale;  // [rows] or null
    void *residual;        // [rows, size] or null: x is added to it
    const float *weight;   // [size]
    const float *bias;     // [size] or null
    void *out;             // [rows, size], of x's type or uint8
    float *out_scale;      // [rows]; null: not quantized
    int64_t rows, size;
    float eps;
};

template <class T, bool CENTERED> void normalize_row(const Rows &r, int64_t row) {
    const int64_t size = r.size, start = row * size;
    const T *x = (const T *)r.x + start;
    float factor = r.x_scale ? r.x_scale[row] : 1.0f;
    f32x16 sum = {}, squares = {};
    auto count = [&](f32x16 v) {
        if (CENTERED) sum += v;
        else squares = vfma(v, v, squares);
    };
    if (r.residual) {
        T *total = (T *)r.residual + start;
        over_row(size, [&](int64_t i, int n) {
            store_n(total + i, vfma(load_n(x + i, n), splat(factor), load_n(total + i, n)), n);
            count(load_n(total + i, n));  // as rounded
        });
        x = total;
        factor = 1.0f;
    } else {
        over_row(size, [&](int64_t i, int n) { count(load_n(x + i, n) * factor); });
    }
    const float mean = CENTERED ? reduce_add(sum) / size : 0.0f;
    if (CENTERED)
        over_row(size, [&](int64_t i, int n) {
            f32x16 v = first_lanes(load_n(x + i, n) * factor - mean, n);
            squares = vfma(v, v, squares);
        });
    const float inverse = 1.0f / __builtin_sqrtf(reduce_add(squares) / size + r.eps);

    auto value = [&](int64_t i, int n) {
        f32x16 v = load_n(x + i, n), w = load_n(r.weight + i, n);
        if (!CENTERED) return v * (factor * inverse) * w;
        v = (v * factor - mean) * inverse;
        return r.bias ? vfma(v, w, load_n(r.bias + i, n)) : v * w;
    };
    if (!r.out_scale) {
        T *out = (T *)r.out + start;
        over_row(size, [&](int64_t i, int n) { store_n(out + i, value(i, n), n); });
        return;
    }
    // Computed twice rather than kept: the row is in the first cache, a float32 copy of it might not be.
    Magnitude magnitude;
    over_row(size, [&](int64_t i, int n) { magnitude.add(value(i, n)); });
    const Quantizer quantizer(magnitude.largest());
    r.out_scale[row] = quantizer.scale;
    uint8_t *out = (uint8_t *)r.out + start;
    over_row(size, [&](int64_t i, int n) { quantizer.store(out + i, value(i, n), n); });
}

template <class T, bool CENTERED> void normalize(const Rows &r) {
    parallel_rows(r.rows, r.size, [&](int64_t row) { normalize_row<T, CENTERED>(r, row); });
}

}  // namespace

extern "C" void infer_rms_norm(const void *x, const float *x_scale, void *residual, const void *weight, void *out, float *out_scale,
                               int64_t rows, int64_t size, int64_t dtype, int64_t weight_dtype, float eps) {
    float buffer[size];
    const Rows r{x, x_scale, residual, widened(weight, weight_dtype, size, buffer), nullptr, out, out_scale, rows, size, eps};
    INFER_DISPATCH(dtype, T, normalize<T, false>(r));
}

extern "C" void infer_layer_norm(const void *x, const float *x_scale, void *residual, const void *weight, const void *bias, void *out,
                                 float *out_scale, int64_t rows, int64_t size, int64_t dtype, int64_t weight_dtype, float eps) {
    float buffer[2 * size];
    const float *w = widened(weight, weight_dtype, size, buffer), *b = widened(bias, weight_dtype, size, buffer + size);
    const Rows r{x, x_scale, residual, w, b, out, out_scale, rows, size, eps};
    INFER_DISPATCH(dtype, T, normalize<T, true>(r));
}
