// Plain rows to quantized ones, and weights likewise.
#include "operations.h"
#include "parallel.h"
#include "quantized.h"
#include "vectors.h"

namespace {

using namespace infer;

template <class T> void run(const T *x, uint8_t *out, float *scale, int64_t rows, int64_t size) {
    parallel_rows(rows, size, [&](int64_t row) {
        const int64_t start = row * size;
        Magnitude magnitude;
        over_row(size, [&](int64_t i, int n) { magnitude.add(load_n(x + start + i, n)); });
        const Quantizer quantizer(magnitude.largest());
        scale[row] = quantizer.scale;
        over_row(size, [&](int64_t i, int n) { quantizer.store(out + start + i, load_n(x + start + i, n), n); });
    });
}

// Signed, and rounded once more than rows: 127 w, then by the largest, whose inverse may be infinite.
template <class T> void run_weight(const T *weight, int8_t *out, float *scale, int64_t rows, int64_t size) {
    parallel_rows(rows, size, [&](int64_t row) {
        const int64_t start = row * size;
        Magnitude magnitude;
        over_row(size, [&](int64_t i, int n) { magnitude.add(load_n(weight + start + i, n)); });
        const float largest = magnitude.largest(), divisor = largest > 0.0f ? largest : 1.0f;
        scale[row] = largest / 127.0f;
        over_row(size, [&](int64_t i, int n) {
            const u8x16 bytes = low_bytes(to_integers(load_n(weight + start + i, n) * 127.0f / divisor));
            memcpy(out + start + i, &bytes, n);
        });
    });
}

}  // namespace

extern "C" void infer_quantize(const void *x, void *out, float *scale, int64_t rows, int64_t size, int64_t dtype) {
    INFER_DISPATCH(dtype, T, run((const T *)x, (uint8_t *)out, scale, rows, size));
}

extern "C" void infer_quantize_weight(const void *weight, void *out, float *scale, int64_t rows, int64_t size, int64_t dtype) {
    INFER_DISPATCH(dtype, T, run_weight((const T *)weight, (int8_t *)out, scale, rows, size));
}
