// Small vectors of any type as float32, once a call instead of once a row.
#pragma once

#include "vectors.h"

namespace infer {

// `from` itself where it is float32 or null, else a copy of it in `buffer`.
inline const float *widened(const void *from, int64_t dtype, int64_t size, float *buffer) {
    if (!from || dtype == F32) return (const float *)from;
    INFER_DISPATCH(dtype, T, over_row(size, [&](int64_t i, int n) { store_n(buffer + i, load_n((const T *)from + i, n), n); }));
    return buffer;
}

}  // namespace infer
