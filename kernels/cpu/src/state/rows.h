// The rows of a step that belong to sequences with states, and what is widened of them once for all that read it.
#pragma once

#include "vectors.h"

namespace infer {

struct States {
    const int32_t *query_start;  // [sequences + 1]
    const int32_t *kv_lens;      // [sequences]
    const int32_t *slots;        // [sequences]
    int64_t sequences;

    int64_t first(int64_t sequence) const { return query_start[sequence]; }
    int64_t last(int64_t sequence) const { return query_start[sequence + 1]; }
    // True if these rows are its first, so that it begins from zeros.
    bool fresh(int64_t sequence) const { return kv_lens[sequence] <= last(sequence) - first(sequence); }
};

template <class T> inline void widen_row(const T *from, int64_t size, float *to) {
    over_row(size, [&](int64_t i, int n) { store_n(to + i, load_n(from + i, n), n); });
}

}  // namespace infer
