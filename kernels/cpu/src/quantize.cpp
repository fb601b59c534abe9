// Plain rows to quantized ones.
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

}  // namespace

extern "C" void infer_quantize(const void *x, void *out, float *scale, int64_t rows, int64_t size, int64_t dtype) {
    INFER_DISPATCH(dtype, T, run((const T *)x, (uint8_t *)out, scale, rows, size));
}
